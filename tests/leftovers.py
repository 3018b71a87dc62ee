"""What an engine can leave behind on a host, read before and after: mounts, cgroups, links, nft tables, processes, namespaces, files,
listening sockets. Only what carries the prefix `moorage` (links of containers: `mveth`), or belongs to a process that does.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

PREFIX = "moorage"
SPARE = "moorage-spare"
LINKS = (PREFIX, "mveth")
DIRECTORIES = ("/run", "/run/netns", "/var/lib", "/dev/shm")


@dataclass(frozen=True)
class Leftovers:
    """What carries our prefix now. Each item reads as text."""

    processes: frozenset[str]
    namespaces: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    links: frozenset[str]
    tables: frozenset[str]
    files: frozenset[str]
    sockets: frozenset[str]

    def since(self, before: Leftovers) -> list[str]:
        """What is here and was not before, as `kind: item`."""
        return [
            f"{field.name}: {item}"
            for field in fields(self)
            for item in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


def take() -> Leftovers:
    """Read the host. Processes that go meanwhile are not there."""
    cgroups = frozenset(_cgroups())
    pids = list(_our_processes())
    return Leftovers(
        processes=frozenset(_describe(pid) for pid in pids),
        namespaces=frozenset(_namespaces(pids)),
        mounts=frozenset(_mounts()),
        cgroups=cgroups,
        links=frozenset(name for name in os.listdir("/sys/class/net") if name.startswith(LINKS)),
        tables=frozenset(_tables()),
        files=frozenset(_files()),
        sockets=frozenset(_sockets()),
    )


def settle(before: Leftovers, seconds: float = 5.0, read: Callable[[], Leftovers] = take) -> list[str]:
    """What is left since `before`, at the latest after `seconds`: the kernel takes its time over namespaces and cgroups."""
    end = time.monotonic() + seconds
    while (left := read().since(before)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def foreign() -> bool:
    """Whether somebody else's engine or tests run here, whose traces cannot be told from ours."""
    family = set(ancestors(os.getpid()))
    return any(
        ("pytest" in line or "mooraged" in line or "tools.demo" in line or "tools.bench" in line)
        and not family & {pid, *ancestors(pid)}
        for pid, line in _command_lines()
    )


def open_files() -> frozenset[str]:
    """This process's descriptors, as `number -> target`, but for the one that reads them."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue
    return frozenset(found)


def _command_lines() -> Iterator[tuple[int, str]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            line = _read(f"/proc/{entry}/cmdline").replace("\0", " ").strip()
            if line:
                yield int(entry), line


def ancestors(pid: int) -> Iterator[int]:
    """`pid`, its parent, and so on, without init."""
    while pid > 1:
        yield pid
        status = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        pid = int(status[1]) if status else 0


def _our_processes() -> Iterator[int]:
    """Processes whose command line names us or that are in a cgroup of ours. Threads of the kernel and our own ancestors are not."""
    family = set(ancestors(os.getpid()))
    for pid, line in _command_lines():
        if pid in family:
            continue
        # What the spawner has ready comes and goes by itself.
        if line == SPARE:
            continue
        if PREFIX in line or f"/{PREFIX}" in _read(f"/proc/{pid}/cgroup"):
            yield pid


def _describe(pid: int) -> str:
    started = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19:20]
    line = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
    return f"{pid} ({started[0] if started else 'gone'}) {line}"[:200]


def _namespaces(pids: list[int]) -> Iterator[str]:
    own = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    for pid in pids:
        for name, ours in own.items():
            try:
                link = os.readlink(f"/proc/{pid}/ns/{name}")
            except OSError:  # ended meanwhile
                continue
            if link != ours:
                yield link


def _mounts() -> Iterator[str]:
    for line in _read("/proc/self/mountinfo").splitlines():
        mount = line.split()
        if any(PREFIX in word for word in (mount[3], mount[4], *mount[-3:])):
            yield f"{mount[4]} ({mount[0]})"


def _cgroups() -> Iterator[str]:
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup"):
            for directory, _, _ in os.walk(left.split()[4]):
                if f"/{PREFIX}" in directory:
                    yield directory


def _tables() -> Iterator[str]:
    if not shutil.which("nft") or os.geteuid() != 0:
        return
    answer = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, check=True).stdout
    for item in json.loads(answer)["nftables"]:
        table = item.get("table")
        if table and table["name"].startswith(PREFIX):
            yield f"{table['family']} {table['name']}"


def _files() -> Iterator[str]:
    for directory in (tempfile.gettempdir(), *DIRECTORIES):
        if os.path.isdir(directory):
            yield from (str(Path(directory, name)) for name in os.listdir(directory) if name.startswith(PREFIX))


def _sockets() -> Iterator[str]:
    for line in _read("/proc/net/unix").splitlines()[1:]:
        words = line.split()
        if len(words) > 7 and PREFIX in words[7]:
            yield words[7]
    for protocol in ("tcp", "tcp6"):
        for line in _read(f"/proc/net/{protocol}").splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":  # TCP_LISTEN
                yield f"{protocol} {words[1]}"


def _read(path: str) -> str:
    """A file of /proc; empty when its process is gone."""
    try:
        return Path(path).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
