"""User namespaces: made by a child that sleeps in one while its parent maps IDs and takes hold of what it wants of it.

A container's own namespaces stay the host's property: its init joins the user namespace last, when everything is set up with the
rights of the host. Only a network namespace must belong to it, or the container could not see its own devices in sysfs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple, NoReturn

from moorage.server.libcontainer import syscalls

_PR_SET_PDEATHSIG = 1

Mappings = Sequence[Mapping[str, int]]
"""OCI `uidMappings`: containerID, hostID, size."""


class IdMaps(NamedTuple):
    """What a user namespace maps: (inside, outside, how many) of users and of groups. Hashable."""

    users: tuple[tuple[int, int, int], ...]
    groups: tuple[tuple[int, int, int], ...]

    @property
    def root(self) -> tuple[int, int]:
        """User and group outside that root is inside."""
        return outside(self.users, 0), outside(self.groups, 0)


def parse(users: Mappings, groups: Mappings) -> IdMaps | None:
    """From OCI's shape; None for no mapping."""
    if not users:
        return None
    return IdMaps(_triples(users), _triples(groups or users))


def _triples(maps: Mappings) -> tuple[tuple[int, int, int], ...]:
    return tuple((each["containerID"], each["hostID"], each["size"]) for each in maps)


def outside(maps: Sequence[tuple[int, int, int]], number: int) -> int:
    """What an ID inside is outside. Raises ValueError when it is not mapped."""
    for inside, host, size in maps:
        if inside <= number < inside + size:
            return host + number - inside
    raise ValueError(f"ID {number} is not mapped")


def inside(maps: Sequence[tuple[int, int, int]], number: int) -> int:
    """What an ID outside is inside. Raises ValueError when nothing is mapped to it."""
    return outside([(host, within, size) for within, host, size in maps], number)


def make(maps: IdMaps) -> int:
    """A new user namespace, as long as the descriptor is open."""
    with sleeper(maps, 0) as (pid, _pidfd):
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def sleeper(maps: IdMaps, kinds: int) -> Iterator[tuple[int, int]]:
    """A child that sleeps in a new user namespace, and in new ones of `kinds` that belong to it; its pid and a pidfd.

    For a caller of one thread, in the host's pid namespace.
    """
    parent = os.getpid()
    mask = syscalls.block_signals()
    try:
        pid, pidfd = syscalls.clone(syscalls.CLONE_NEWUSER | kinds)
        if pid == 0:
            _sleep(parent)
    finally:
        syscalls.set_signal_mask(mask)
    try:
        for name, ranges in (("gid_map", maps.groups), ("uid_map", maps.users)):
            _write_map(f"/proc/{pid}/{name}", ranges)
        yield pid, pidfd
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        os.close(pidfd)


def _write_map(path: str, ranges: Sequence[tuple[int, int, int]]) -> None:
    # The kernel takes the whole map in one write.
    text = "".join(f"{inside} {host} {size}\n" for inside, host, size in ranges)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _sleep(parent: int) -> NoReturn:
    """Sleep until killed, by the parent or with it. All signals are blocked."""
    try:
        syscalls.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            signal.pause()
    finally:
        os._exit(0)
