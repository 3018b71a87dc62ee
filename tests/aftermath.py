"""What a daemon that was killed and started again finds: its store checked, and what is its own on the host."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests import leftovers
from tests.daemon import Daemon

SETTLE_SECONDS = 10.0


def fsck(daemon: Daemon, *arguments: str) -> tuple[int, list[dict[str, Any]], dict[str, int]]:
    """Exit status, findings and summary of `moorage fsck`."""
    done = daemon.cli("fsck", "--format", "json", *arguments, check=False)
    assert done.stdout, done.stderr + daemon.log.read_text()[-4000:]
    report = json.loads(done.stdout)
    return done.returncode, report["findings"], report["summary"]


def whole(daemon: Daemon) -> None:
    """The store is whole, and nothing in it is unreachable but contents that are kept for the next pull or build."""
    status, findings, _ = fsck(daemon)
    unexpected = [each for each in findings if not (each["problem"] == "garbage" and each["detail"].startswith("blob"))]
    assert (status, unexpected) == (0, [])


def nothing_on_host(daemon: Daemon, *containers: str) -> None:
    """Of this daemon there are no mounts, and no cgroups, supervisors, directories or processes but those of `containers` (full IDs)."""
    end = time.monotonic() + SETTLE_SECONDS
    while (left := sorted(_left(daemon, set(containers)))) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left, "left on the host:\n" + "\n".join(left)


def _left(daemon: Daemon, containers: set[str]) -> Iterator[str]:
    for kept in (
        "state/pods",
        "state/build",
        "root/containers",
        "root/overlay/containers",
        "root/build/scripts",
        "root/build/repositories",
    ):
        yield from (f"directory {kept}/{name}" for name in _names(daemon.directory / kept) - containers)
    yield from (f"unfinished {path}" for path in _names(daemon.root / "overlay/staging"))
    cgroup = json.loads(daemon.out("info", "--format", "json"))["cgroup_parent"]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = line.split()[4]
        if f"{daemon.directory}/" in line:
            yield f"mount {where}"
        if " - cgroup" in line:
            below = Path(f"{where}{cgroup}")
            yield from (f"cgroup {below / name}" for name in _names(below) - containers if (below / name).is_dir())
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        held = " ".join(_held(pid))
        mine = f"{daemon.directory}/" in held or f"{cgroup}/" in held
        if mine and not any(each in held for each in containers) and daemon.pid not in leftovers.ancestors(pid):
            yield f"process {pid}: {held[:500]}"


def _names(directory: Path) -> set[str]:
    return set(os.listdir(directory)) if directory.is_dir() else set()


def _held(pid: int) -> Iterator[str]:
    """Where a process's descriptors, root and working directory are, and its cgroups; nothing of one that has ended."""
    with suppress(OSError):
        yield from (os.readlink(f"/proc/{pid}/{name}") for name in ("root", "cwd"))
        yield from (os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd"))
        yield Path(f"/proc/{pid}/cgroup").read_text()
