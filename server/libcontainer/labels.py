"""Labels of AppArmor and SELinux for a command: written by the process itself just before it executes. See apparmor(7), proc_pid_attr(5).

The file is opened while the host's procfs is within reach: what a container has at /proc may be anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import StartError, doing

_APPARMOR = ("/proc/self/attr/apparmor/exec", "/proc/self/attr/exec")
_SELINUX = ("/proc/self/attr/exec",)
_SWITCHES = {_APPARMOR: "/sys/kernel/security/apparmor", _SELINUX: "/sys/fs/selinux"}


class Label(NamedTuple):
    """What is to be written where; `fd` is of the process that prepared it and of no other."""

    fd: int
    text: str


def prepare(process: Mapping[str, Any]) -> Label | None:
    """Make ready for the label of an OCI `process`, if it has one. Raises StartError where the kernel does not know such labels."""
    profile, context = process.get("apparmorProfile"), process.get("selinuxLabel")
    if profile:
        return Label(_open(_APPARMOR, f"AppArmor profile {profile}"), f"exec {profile}")
    if context:
        return Label(_open(_SELINUX, f"SELinux label {context}"), context)
    return None


def _open(paths: tuple[str, ...], what: str) -> int:
    if not os.path.isdir(_SWITCHES[paths]):
        raise StartError(f"{what} was asked for, and the kernel has no such module")
    path = next((path for path in paths if os.path.exists(path)), paths[-1])
    with doing(f"prepare {what} by", path):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    if syscalls.file_system_type(fd) != syscalls.PROC_SUPER_MAGIC:
        raise StartError(f"cannot set {what}: {path} is not of a procfs", path=path)
    return fd


def apply(label: Label | None) -> None:
    """Have the command that is executed next be labelled."""
    if label is not None:
        with doing(f"set the label {label.text!r}"):
            os.write(label.fd, label.text.encode())
