"""The namespaces that the containers of a pod share: made by unshare(2), and set up from inside."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence

from moorage.server.libcontainer import interfaces, syscalls, usernamespaces
from moorage.server.supervisor.failures import Failure

FLAGS = {"net": syscalls.CLONE_NEWNET, "ipc": syscalls.CLONE_NEWIPC, "uts": syscalls.CLONE_NEWUTS}

USUAL = ("ipc", "net", "uts")
"""Those of most pods, sorted."""
USUAL_FLAGS = syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS

SYSCTLS = {
    "net": re.compile(r"net(/[A-Za-z0-9_.-]*[A-Za-z0-9_-])+"),
    "ipc": re.compile(r"kernel/(shm[a-z_]+|msg[a-z_]+|sem)|fs/mqueue/[a-z_]+"),
    "uts": re.compile(r"kernel/domainname"),
}
"""The parameters that each namespace has for itself; all others are the host's, and refused."""


def enter(
    namespaces: Sequence[str],
    users: Sequence[Mapping[str, int]] = (),
    groups: Sequence[Mapping[str, int]] = (),
) -> int | None:
    """Leave the host's namespaces for new ones, which with `users` belong to a new user namespace. Answers that, open.

    The supervisor itself stays in the host's user namespace. Raises Failure, OSError.
    """
    unknown = set(namespaces) - FLAGS.keys()
    if unknown:
        raise Failure("InvalidArgument", f"a pod has no {', '.join(sorted(unknown))} namespace")
    kinds = sum(FLAGS[name] for name in set(namespaces))
    user = None
    if users:
        user = _enter_of_user(kinds, usernamespaces.IdMaps(_triples(users), _triples(groups)))
    else:
        syscalls.unshare(kinds)
    if "net" in namespaces:
        interfaces.loopback_up()
    return user


def set_up(namespaces: Sequence[str], hostname: str, sysctls: Mapping[str, str]) -> None:
    """Set up the namespaces that we are in, which are of these kinds. Raises Failure, OSError."""
    for name in sysctls:
        sysctl_path(name, namespaces)
    if "uts" in namespaces and hostname:
        socket.sethostname(hostname)
    for name, value in sysctls.items():
        _write_sysctl(name, value, sysctl_path(name, namespaces))


def _enter_of_user(kinds: int, maps: usernamespaces.IdMaps) -> int:
    with usernamespaces.sleeper(maps, kinds) as (pid, pidfd):
        if kinds:
            syscalls.setns(pidfd, kinds)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _triples(maps: Sequence[Mapping[str, int]]) -> tuple[tuple[int, int, int], ...]:
    return tuple((each["container"], each["host"], each["length"]) for each in maps)


def sysctl_path(name: str, namespaces: Sequence[str]) -> str:
    """The file of a parameter, if it belongs to one of `namespaces`. Raises Failure."""
    # As sysctl(8): with a slash in it the slashes part it and dots are part of a name (`net/ipv4/conf/eth0.1/forwarding`).
    relative = name if "/" in name else name.replace(".", "/")
    if not any(SYSCTLS[namespace].fullmatch(relative) for namespace in namespaces):
        raise Failure("InvalidArgument", f"sysctl {name!r} does not belong to the pod's own namespaces", sysctl=name)
    return f"/proc/sys/{relative}"


def _write_sysctl(name: str, value: str, path: str) -> None:
    try:
        # Without O_CREAT: what is not there must not be reported as something else.
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise Failure(
            "InvalidArgument", f"cannot set sysctl {name} to {value!r}: {error.strerror}", sysctl=name
        ) from error
