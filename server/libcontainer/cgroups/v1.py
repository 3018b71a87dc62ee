"""cgroup version 1: one hierarchy for each controller, or for several mounted together."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from moorage.server.libcontainer.cgroups import files
from moorage.server.libcontainer.cgroups.base import CgroupError, CgroupStats, Resources, Sampler, checked

CONTROLLERS = frozenset({"cpu", "cpuacct", "memory", "pids", "devices", "freezer", "blkio", "cpuset", "hugetlb"})

MEMSW = "memory.memsw.limit_in_bytes"


class Hierarchy(NamedTuple):
    """One mounted version 1 file system; paths of cgroups are below `root`."""

    root: str
    controllers: frozenset[str]


class Setting(NamedTuple):
    """One write of one value. Of several `files` the first that exists is taken; when none does, `optional` says it is fine."""

    controller: str
    files: tuple[str, ...]
    value: str
    optional: bool = False


def settings(resources: Resources) -> list[Setting]:
    """What to write for the limits of an OCI `linux.resources` object, in an order that a new cgroup accepts."""
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    plain = [
        _setting(memory, "limit", "memory", "memory.limit_in_bytes"),
        # Without swap accounting the file is not there, and there is no swap use to limit either.
        _setting(memory, "swap", "memory", MEMSW, optional=True),
        _setting(memory, "reservation", "memory", "memory.soft_limit_in_bytes"),
        _setting(cpu, "shares", "cpu", "cpu.shares"),
        _setting(cpu, "period", "cpu", "cpu.cfs_period_us"),
        _setting(cpu, "quota", "cpu", "cpu.cfs_quota_us"),
        _setting(cpu, "cpus", "cpuset", "cpuset.cpus"),
        _setting(cpu, "mems", "cpuset", "cpuset.mems"),
        # The bfq scheduler has its own name for it.
        _setting(resources.get("blockIO") or {}, "weight", "blkio", "blkio.weight", "blkio.bfq.weight"),
    ]
    huge = [
        Setting("hugetlb", (f"hugetlb.{limit['pageSize']}.limit_in_bytes",), str(limit["limit"]), optional=True)
        for limit in resources.get("hugepageLimits") or []
    ]
    return [each for each in plain if each] + _pids(resources.get("pids") or {}) + huge


def _setting(
    values: Mapping[str, Any], key: str, controller: str, *names: str, optional: bool = False
) -> Setting | None:
    value = values.get(key)
    return None if value in (None, "", 0) else Setting(controller, names, str(value), optional)


def _pids(pids: Mapping[str, Any]) -> list[Setting]:
    limit = pids.get("limit")
    if limit is None:
        return []
    return [Setting("pids", ("pids.max",), str(limit) if limit > 0 else "max")]


def device_lines(rules: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """OCI `linux.resources.devices` as (file, line): all is denied first, then the rules in their order."""
    return [("devices.deny", "a")] + [
        ("devices.allow" if rule.get("allow") else "devices.deny", _device(rule)) for rule in rules
    ]


def _device(rule: Mapping[str, Any]) -> str:
    major, minor = (("*" if rule.get(key) in (None, -1) else str(rule[key])) for key in ("major", "minor"))
    kind = rule.get("type") or "a"
    return "a" if kind == "a" else f"{kind} {major}:{minor} {rule.get('access') or 'rwm'}"


def _io(content: bytes, values: dict[str, int]) -> None:
    """Lines `8:0 Read 4096`."""
    total = {b"Read": 0, b"Write": 0}
    for line in content.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in total:
            total[words[1]] += int(words[2])
    values["io_read_bytes"], values["io_write_bytes"] = total[b"Read"], total[b"Write"]


SOURCES: tuple[tuple[str, str, files.Parser], ...] = (
    ("cpuacct", "cpuacct.usage", files.number("cpu_usage_ns")),
    ("cpu", "cpu.stat", files.keyed(cpu_throttled_ns="throttled_time")),
    ("memory", "memory.usage_in_bytes", files.number("memory_usage")),
    (
        "memory",
        "memory.stat",
        files.keyed(
            memory_inactive_file="total_inactive_file",
            memory_rss="total_rss",
            memory_swap="total_swap",
            page_faults="total_pgfault",
            major_page_faults="total_pgmajfault",
        ),
    ),
    ("memory", "memory.limit_in_bytes", files.number("memory_limit")),
    ("memory", "memory.oom_control", files.keyed(oom_kills="oom_kill")),
    ("pids", "pids.current", files.number("pids")),
    ("pids", "pids.max", files.number("pids_limit")),
    ("blkio", "blkio.throttle.io_service_bytes_recursive", _io),
)


class V1Cgroup:
    """One directory in each hierarchy."""

    def __init__(self, hierarchies: Sequence[Hierarchy], path: str, others: Sequence[str] = ()) -> None:
        self.path = path
        self._hierarchies = hierarchies
        self._others = others
        self._directories = {
            controller: f"{hierarchy.root}{path}" for hierarchy in hierarchies for controller in hierarchy.controllers
        }

    def create(self, resources: Resources) -> None:
        with ExitStack() as stack:
            for hierarchy in self._hierarchies:
                self._make(hierarchy)
                stack.callback(files.remove, f"{hierarchy.root}{self.path}")
            for setting in settings(resources):
                self._set(setting)
            self._set_devices(resources.get("devices") or [])
            if resources.get("unified"):
                raise CgroupError(errno.ENOTSUP, "set", "unified resources on cgroup version 1")
            stack.pop_all()

    def _make(self, hierarchy: Hierarchy) -> None:
        directory = f"{hierarchy.root}{self.path}"
        try:
            files.make(directory)
        except CgroupError as error:
            if error.errno != errno.ENOENT:
                raise
            for parent in files.parents(self.path):
                _make_parent(hierarchy, parent)
            files.make(directory)
        if "cpuset" in hierarchy.controllers:
            _inherit_cpuset(directory)

    def _set(self, setting: Setting) -> None:
        directory = self._directories.get(setting.controller)
        if directory is None and setting.controller == "hugetlb":
            # Many machines do without the controller; orchestrators name a limit of huge pages for every container all the same.
            return
        if directory is None:
            raise CgroupError(errno.ENODEV, "write", f"{setting.files[0]} (no such controller)", setting.value)
        for name in setting.files:
            try:
                files.write(f"{directory}/{name}", setting.value)
                return
            except CgroupError as error:
                last = error
                if error.errno != errno.ENOENT:
                    raise
        if not setting.optional:
            raise last

    def _set_devices(self, rules: Sequence[Mapping[str, Any]]) -> None:
        directory = self._directories.get("devices")
        if not rules:
            return
        if directory is None:
            raise CgroupError(errno.ENODEV, "write", "devices.deny (no such controller)", "a")
        for name, lines in groupby(device_lines(rules), key=itemgetter(0)):
            files.write(f"{directory}/{name}", *(line for _name, line in lines))

    def enter(self) -> None:
        # Into `tasks`, not `cgroup.procs`: for a lone thread that moves itself the kernel then skips the lock that keeps
        # every other process of the machine from forking and exiting meanwhile, and which costs milliseconds to take.
        for hierarchy in self._hierarchies:
            files.write(f"{hierarchy.root}{self.path}/tasks", "0")

    def update(self, resources: Resources) -> None:
        changes = settings(resources)
        if self._swap_first(changes):
            changes.sort(key=lambda setting: setting.files[0] != MEMSW)
        for setting in changes:
            self._set(setting)

    def _swap_first(self, changes: Sequence[Setting]) -> bool:
        """The kernel never lets memory+swap be below memory: whichever order keeps that true while both change."""
        new = {setting.files[0]: int(setting.value) for setting in changes if setting.controller == "memory"}
        if MEMSW not in new or "memory.limit_in_bytes" not in new:
            return False
        limit = new["memory.limit_in_bytes"]
        try:
            current = int(files.read(f"{self._directories['memory']}/{MEMSW}"))
        except (CgroupError, KeyError):
            return False
        return limit == -1 or limit > current

    def pids(self) -> list[int]:
        return files.pids(self._any())

    def _any(self) -> str:
        """The directory in the hierarchy that is best for finding processes."""
        for controller in ("freezer", "pids", "devices"):
            if controller in self._directories:
                return self._directories[controller]
        return f"{self._hierarchies[0].root}{self.path}"

    def kill(self) -> None:
        if "freezer" in self._directories:
            files.kill_all(self.pids, self._freeze, self.thaw)
        else:
            files.kill_all(self.pids, lambda: None, lambda: None)

    def freeze(self) -> None:
        if not self._freeze():
            self.thaw()
            raise CgroupError(errno.ETIMEDOUT, "freeze", f"{self._any()}/freezer.state")

    def _freeze(self) -> bool:
        state = self._freezer_state()
        files.write(state, "FROZEN")
        return files.wait_until(lambda: files.read(state) == b"FROZEN\n", files.FREEZE_SECONDS)

    def thaw(self) -> None:
        files.write(self._freezer_state(), "THAWED")

    def _freezer_state(self) -> str:
        if "freezer" not in self._directories:
            raise CgroupError(errno.ENODEV, "write", "freezer.state (no such controller)")
        return f"{self._directories['freezer']}/freezer.state"

    def oom_kills(self) -> int:
        memory = self._directories.get("memory")
        if memory is None:
            return 0
        try:
            content = files.read(f"{memory}/memory.oom_control")
        except CgroupError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return 0
            raise
        return files.value_of("oom_kill", content)

    def remove(self) -> None:
        roots = (*(hierarchy.root for hierarchy in self._hierarchies), *self._others)
        files.remove(*(f"{root}{self.path}" for root in roots))

    def stats(self) -> CgroupStats:
        sampler = self.sampler()
        try:
            return sampler.read()
        finally:
            sampler.close()

    def sampler(self) -> Sampler:
        sources = [
            (f"{self._directories[controller]}/{name}", parser)
            for controller, name, parser in SOURCES
            if controller in self._directories
        ]
        return files.FileSampler(self.path, sources)


def _make_parent(hierarchy: Hierarchy, path: str) -> None:
    directory = f"{hierarchy.root}{path}"
    try:
        files.make(directory)
    except CgroupError as error:
        if error.errno != errno.EEXIST:
            raise
    if "cpuset" in hierarchy.controllers:
        _inherit_cpuset(directory)
        # From here down the kernel does the copying itself.
        files.write(f"{directory}/cgroup.clone_children", "1")


def _inherit_cpuset(directory: str) -> None:
    """A new cpuset has no CPUs and no memory nodes, and no process can enter it before it has. One that somebody else has just made may
    have but the first: whoever comes by does the rest."""
    if files.read(f"{directory}/cpuset.mems").strip():
        return
    parent = directory.rpartition("/")[0]
    _inherit_cpuset(parent)
    for name in ("cpuset.cpus", "cpuset.mems"):
        files.write(f"{directory}/{name}", files.read(f"{parent}/{name}").decode().strip())


class V1Manager:
    """The version 1 hierarchies of this machine."""

    version = 1

    def __init__(self, hierarchies: Sequence[Hierarchy], others: Sequence[str] = ()) -> None:
        """`others` are the mount points of those without a controller, and of version 2: OCI runtimes make cgroups there too."""
        self.hierarchies = tuple(hierarchies)
        self._others = tuple(others)

    def cgroup(self, path: str) -> V1Cgroup:
        return V1Cgroup(self.hierarchies, checked(path), self._others)

    def children(self, parent: str) -> set[str]:
        return {name for root in self._roots() for name in files.below(f"{root}{parent}")}

    def prune(self, parent: str) -> None:
        for root in self._roots():
            files.prune(root, checked(parent))

    def _roots(self) -> tuple[str, ...]:
        return (*(hierarchy.root for hierarchy in self.hierarchies), *self._others)

    def available(self) -> set[str]:
        return {controller for hierarchy in self.hierarchies for controller in hierarchy.controllers}
