"""cgroup version 2: one hierarchy for all controllers."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from moorage.server.libcontainer.cgroups import devices, files
from moorage.server.libcontainer.cgroups.base import CgroupError, CgroupStats, Resources, Sampler, checked

CONTROLLERS = ("cpu", "cpuset", "hugetlb", "io", "memory", "pids")


class Setting(NamedTuple):
    """One write of one value; when the file is not there, `optional` says it is fine."""

    file: str
    value: str
    optional: bool = False


def settings(resources: Resources) -> list[Setting]:
    """What to write for the limits of an OCI `linux.resources` object."""
    return [
        *_memory(resources.get("memory") or {}),
        *_cpu(resources.get("cpu") or {}),
        *_pids(resources.get("pids") or {}),
        *_io_weight(resources.get("blockIO") or {}),
        # Not every machine has the controller, nor every size of page.
        *(
            Setting(f"hugetlb.{limit['pageSize']}.max", str(limit["limit"]), optional=True)
            for limit in resources.get("hugepageLimits") or []
        ),
        *(Setting(name, value) for name, value in (resources.get("unified") or {}).items()),
    ]


def _memory(memory: Mapping[str, Any]) -> list[Setting]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    found = []
    if limit:
        found.append(Setting("memory.max", _max(limit)))
    if memory.get("reservation"):
        found.append(Setting("memory.low", _max(memory["reservation"])))
    if swap < 0:
        found.append(Setting("memory.swap.max", "max", optional=True))
    elif swap:
        # OCI counts memory and swap together, this version swap alone.
        found.append(Setting("memory.swap.max", str(max(swap - max(limit, 0), 0)), optional=True))
    return found


def _cpu(cpu: Mapping[str, Any]) -> list[Setting]:
    found = []
    if cpu.get("shares"):
        found.append(Setting("cpu.weight", str(weight(cpu["shares"]))))
    if cpu.get("quota") or cpu.get("period"):
        found.append(Setting("cpu.max", f"{_max(cpu.get('quota') or -1)} {cpu.get('period') or 100000}"))
    return found + [Setting(f"cpuset.{key}", cpu[key]) for key in ("cpus", "mems") if cpu.get(key)]


def _pids(pids: Mapping[str, Any]) -> list[Setting]:
    limit = pids.get("limit")
    return [] if limit is None else [Setting("pids.max", _max(limit))]


def _io_weight(block: Mapping[str, Any]) -> list[Setting]:
    """OCI's weight of 10…1000 in the 1…10000 of this version."""
    if not block.get("weight"):
        return []
    return [Setting("io.weight", f"default {1 + (block['weight'] - 10) * 9999 // 990}")]


def _max(value: int) -> str:
    return str(value) if value > 0 else "max"


def weight(shares: int) -> int:
    """cpu.weight (1…10000) for version 1's cpu.shares (2…262144).

    A curve through the two smallest, the two usual (1024 and 100) and the two largest values: a straight line would give the
    usual 1024 no more than 39.
    """
    exponent = math.log2(min(max(shares, 2), 262144))
    return math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))


def _io(content: bytes, values: dict[str, int]) -> None:
    """Lines `8:0 rbytes=4096 wbytes=0 rios=1 …`."""
    total = {b"rbytes": 0, b"wbytes": 0}
    for word in content.split():
        key, _, value = word.partition(b"=")
        if key in total:
            total[key] += int(value)
    values["io_read_bytes"], values["io_write_bytes"] = total[b"rbytes"], total[b"wbytes"]


SOURCES: tuple[tuple[str, files.Parser], ...] = (
    ("cpu.stat", files.keyed(1000, cpu_usage_ns="usage_usec", cpu_throttled_ns="throttled_usec")),
    ("memory.current", files.number("memory_usage")),
    (
        "memory.stat",
        files.keyed(
            memory_inactive_file="inactive_file",
            memory_rss="anon",
            page_faults="pgfault",
            major_page_faults="pgmajfault",
        ),
    ),
    ("memory.swap.current", files.number("memory_swap")),
    ("memory.max", files.number("memory_limit")),
    ("memory.events", files.keyed(oom_kills="oom_kill")),
    ("pids.current", files.number("pids")),
    ("pids.max", files.number("pids_limit")),
    ("io.stat", _io),
)


class V2Cgroup:
    """One directory."""

    def __init__(self, root: str, path: str) -> None:
        self.path = path
        self._root = root
        self._directory = f"{root}{path}"

    def create(self, resources: Resources) -> None:
        with ExitStack() as stack:
            self._make()
            stack.callback(files.remove, self._directory)
            self.update(resources)
            if resources.get("devices"):
                devices.attach(self._directory, devices.program(resources["devices"]))
            stack.pop_all()

    def _make(self) -> None:
        for parent in files.parents(self.path):
            if not os.path.isdir(f"{self._root}{parent}"):
                _make_parent(f"{self._root}{parent}")
        for parent in ("", *files.parents(self.path)):
            _enable(f"{self._root}{parent}")
        files.make(self._directory)

    def enter(self) -> None:
        files.write(f"{self._directory}/cgroup.procs", "0")

    def update(self, resources: Resources) -> None:
        for setting in settings(resources):
            try:
                files.write(f"{self._directory}/{setting.file}", setting.value)
            except CgroupError as error:
                if error.errno != errno.ENOENT or not setting.optional:
                    raise

    def pids(self) -> list[int]:
        return files.pids(self._directory)

    def kill(self) -> None:
        try:
            files.write(f"{self._directory}/cgroup.kill", "1")
        except CgroupError as error:
            # Linux before 5.14 has no cgroup.kill.
            if error.errno != errno.ENOENT:
                raise
            files.kill_all(self.pids, self._freeze, self.thaw)

    def freeze(self) -> None:
        if not self._freeze():
            self.thaw()
            raise CgroupError(errno.ETIMEDOUT, "freeze", f"{self._directory}/cgroup.freeze")

    def _freeze(self) -> bool:
        files.write(f"{self._directory}/cgroup.freeze", "1")
        events = f"{self._directory}/cgroup.events"
        return files.wait_until(lambda: files.value_of("frozen", files.read(events)) == 1, files.FREEZE_SECONDS)

    def thaw(self) -> None:
        files.write(f"{self._directory}/cgroup.freeze", "0")

    def oom_kills(self) -> int:
        try:
            content = files.read(f"{self._directory}/memory.events")
        except CgroupError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return 0
            raise
        return files.value_of("oom_kill", content)

    def remove(self) -> None:
        files.remove(self._directory)

    def stats(self) -> CgroupStats:
        sampler = self.sampler()
        try:
            return sampler.read()
        finally:
            sampler.close()

    def sampler(self) -> Sampler:
        return files.FileSampler(self._directory, [(f"{self._directory}/{name}", parser) for name, parser in SOURCES])


def _make_parent(directory: str) -> None:
    try:
        files.make(directory)
    except CgroupError as error:
        if error.errno != errno.EEXIST:
            raise


def _enable(directory: str) -> None:
    """Let the cgroups below `directory` use every controller that it has itself."""
    has = files.read(f"{directory}/cgroup.controllers").decode().split()
    on = files.read(f"{directory}/cgroup.subtree_control").decode().split()
    missing = [f"+{name}" for name in CONTROLLERS if name in has and name not in on]
    if missing:
        files.write(f"{directory}/cgroup.subtree_control", " ".join(missing))


class V2Manager:
    """The unified hierarchy of this machine."""

    version = 2

    def __init__(self, root: str) -> None:
        self._root = root

    def cgroup(self, path: str) -> V2Cgroup:
        return V2Cgroup(self._root, checked(path))

    def children(self, parent: str) -> set[str]:
        return set(files.below(f"{self._root}{parent}"))

    def prune(self, parent: str) -> None:
        files.prune(self._root, checked(parent))

    def available(self) -> set[str]:
        # Devices are a BPF program and the freezer is part of the core, so both are always there.
        found = files.read(f"{self._root}/cgroup.controllers").decode().split()
        return {*found, "devices", "freezer"}
