"""Kernel parameters that belong to a namespace, written through a procfs of our own.

The host's /proc may be covered and a container's is not to be trusted, so each write goes to a fresh mount that nobody else sees.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import StartError, doing

_COMPONENT = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]+")
_IPC = frozenset(
    "kernel/" + name for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def _namespace(kind: str) -> int:
    return os.stat(f"/proc/self/ns/{kind}").st_ino


_HOST = {kind: _namespace(kind) for kind in ("net", "ipc")}
"""The namespaces this program was started in, which are the host's. Those of process 1 cannot be asked for everywhere."""


def path_of(key: str) -> str:
    """The path below /proc/sys of a parameter; where a name has a dot (an interface's), OCI keys are written with slashes.

    Raises StartError when the parameter is not one of a namespace's but the whole machine's.
    """
    path = key if "/" in key else key.replace(".", "/")
    if all(_COMPONENT.fullmatch(part) for part in path.split("/")) and _kind(path):
        return path
    raise StartError(f"sysctl {key!r} does not belong to a namespace", path=key)


def _kind(path: str) -> str:
    if path.startswith("net/"):
        return "net"
    return "ipc" if path.startswith("fs/mqueue/") or path in _IPC else ""


def apply(sysctls: Mapping[str, str]) -> None:
    """Set parameters of the calling process's namespaces; keys as in OCI `linux.sysctl`. Refused where the namespace is the host's.

    The host's procfs is at /proc. Raises StartError.
    """
    if not sysctls:
        return
    for key, value in sysctls.items():
        _check(key, value)
    with doing("mount proc for sysctls"):
        proc = syscalls.new_mount("proc", "proc", [], 0)
    try:
        for key, value in sysctls.items():
            with doing(f"set sysctl {key} to {value!r}"):
                _write(proc, key, value)
    finally:
        os.close(proc)


def _check(key: str, value: str) -> None:
    kind = _kind(path_of(key))
    if not value.replace("\t", " ").isprintable() or "+" in value:
        raise StartError(f"sysctl {key}: value {value!r} is not a plain one", path=key)
    if _namespace(kind) == _HOST[kind]:
        raise StartError(f"sysctl {key} would change the host, whose {kind} namespace is used", path=key)


def _write(proc: int, key: str, value: str) -> None:
    resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_XDEV
    fd = syscalls.openat2(proc, "sys/" + path_of(key), os.O_WRONLY, resolve)
    try:
        if syscalls.file_system_type(fd) != syscalls.PROC_SUPER_MAGIC:
            raise StartError(f"sysctl {key} is not on procfs", path=key)
        os.write(fd, value.encode())
    finally:
        os.close(fd)
