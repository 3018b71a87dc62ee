"""Every figure that the kernel keeps of a cgroup, by names that do not depend on the version: nanoseconds, bytes and counts.

What the kernel does not keep is not there: pressure is version 2's alone, and so are both versions' missing controllers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

UNLIMITED = 1 << 62
"""Limits from here on are how version 1 says that there is none."""


@dataclass(frozen=True)
class Figures:
    """`values` by name; `devices` are `(major, minor, operation, what, value)` with `what` of `bytes` and `count`."""

    values: Mapping[str, int] = field(default_factory=dict)
    devices: tuple[tuple[int, int, str, str, int], ...] = ()


class FigureReader:
    """Reads the figures of cgroups. One that is gone has none."""

    def __init__(self, mountinfo: str = "/proc/self/mountinfo") -> None:
        self._roots = _roots(mountinfo)

    def read(self, path: str) -> Figures:
        """`path` is below each hierarchy's root."""
        files = _V1 if any(controller for controller in self._roots) else _V2
        values: dict[str, int] = {}
        for controller, name, parse in files:
            text = self._text(controller, path, name)
            if text is not None:
                values.update(parse(text))
        return Figures(values, tuple(self._devices(path)))

    def _text(self, controller: str, path: str, name: str) -> str | None:
        root = self._roots.get(controller)
        if root is None:
            return None
        try:
            with open(f"{root}{path}/{name}") as file:
                return file.read()
        except OSError:
            return None

    def _devices(self, path: str) -> Iterator[tuple[int, int, str, str, int]]:
        for name, what in (("io_service_bytes", "bytes"), ("io_serviced", "count")):
            for line in (self._text("blkio", path, f"blkio.throttle.{name}_recursive") or "").splitlines():
                if match := re.fullmatch(r"(\d+):(\d+) (Read|Write) (\d+)", line):
                    yield int(match[1]), int(match[2]), match[3], what, int(match[4])
        for line in (self._text("", path, "io.stat") or "").splitlines():
            device, _, rest = line.partition(" ")
            major, _, minor = device.partition(":")
            for key, value in (word.split("=") for word in rest.split()):
                if key in _IO:
                    yield int(major), int(minor), *_IO[key], int(value)


def _roots(mountinfo: str) -> dict[str, str]:
    """Mount point of each version 1 controller, or of version 2 under the empty name. proc_pid_mountinfo(5)."""
    roots: dict[str, str] = {}
    unified: dict[str, str] = {}
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.rstrip("\n").partition(" - ")
            kind, _, options = after.split(" ", 2)
            if kind == "cgroup":
                roots.update({name: before.split(" ")[4] for name in options.split(",") if name in _CONTROLLERS})
            elif kind == "cgroup2":
                unified.setdefault("", before.split(" ")[4])
    return roots or unified


Parser = Callable[[str], Mapping[str, int]]


def _number(name: str) -> Parser:
    def parse(text: str) -> Mapping[str, int]:
        word = text.strip()
        value = int(word) if word.lstrip("-").isdecimal() else 0
        return {name: 0 if value >= UNLIMITED else value}

    return parse


def _keyed(scale: int = 1, **names: str) -> Parser:
    """Lines `key value`; `names` are ours by the kernel's."""

    def parse(text: str) -> Mapping[str, int]:
        pairs = (line.split() for line in text.splitlines())
        return {names[pair[0]]: int(pair[1]) * scale for pair in pairs if len(pair) == 2 and pair[0] in names}

    return parse


def _cpu_max(text: str) -> Mapping[str, int]:
    quota, _, period = text.strip().partition(" ")
    return {"cpu_quota": int(quota) if quota.isdecimal() else -1, "cpu_period": int(period or 0)}


def _weight(text: str) -> Mapping[str, int]:
    """As version 1's shares: the inverse of how runtimes turn shares into a weight."""
    weight = int(text)
    return {"cpu_shares": 2 + ((weight - 1) * 262142) // 9999}


def _pressure(name: str) -> Parser:
    def parse(text: str) -> Mapping[str, int]:
        found = re.findall(r"^(some|full) .*total=(\d+)$", text, re.MULTILINE)
        return {f"{name}_pressure_{kind}_us": int(total) for kind, total in found}

    return parse


_CONTROLLERS = frozenset({"cpu", "cpuacct", "memory", "pids", "blkio"})
_IO = {
    "rbytes": ("Read", "bytes"),
    "wbytes": ("Write", "bytes"),
    "rios": ("Read", "count"),
    "wios": ("Write", "count"),
}
_V1: tuple[tuple[str, str, Parser], ...] = (
    ("cpuacct", "cpuacct.usage", _number("cpu_ns")),
    ("cpuacct", "cpuacct.usage_user", _number("cpu_user_ns")),
    ("cpuacct", "cpuacct.usage_sys", _number("cpu_system_ns")),
    ("cpu", "cpu.stat", _keyed(nr_periods="periods", nr_throttled="throttled", throttled_time="throttled_ns")),
    ("cpu", "cpu.shares", _number("cpu_shares")),
    ("cpu", "cpu.cfs_period_us", _number("cpu_period")),
    ("cpu", "cpu.cfs_quota_us", _number("cpu_quota")),
    ("memory", "memory.usage_in_bytes", _number("memory_usage")),
    ("memory", "memory.max_usage_in_bytes", _number("memory_max_usage")),
    ("memory", "memory.limit_in_bytes", _number("memory_limit")),
    ("memory", "memory.soft_limit_in_bytes", _number("memory_reservation")),
    ("memory", "memory.memsw.limit_in_bytes", _number("memory_swap_limit")),
    ("memory", "memory.failcnt", _number("memory_failcnt")),
    ("memory", "memory.kmem.usage_in_bytes", _number("memory_kernel")),
    ("memory", "memory.oom_control", _keyed(oom_kill="oom_kills")),
    (
        "memory",
        "memory.stat",
        _keyed(
            total_cache="memory_cache",
            total_rss="memory_rss",
            total_swap="memory_swap",
            total_mapped_file="memory_mapped_file",
            total_active_file="memory_active_file",
            total_inactive_file="memory_inactive_file",
            total_pgfault="page_faults",
            total_pgmajfault="major_page_faults",
        ),
    ),
    ("pids", "pids.current", _number("pids")),
    ("pids", "pids.max", _number("pids_max")),
)
_V2: tuple[tuple[str, str, Parser], ...] = (
    (
        "",
        "cpu.stat",
        _keyed(
            1000,
            usage_usec="cpu_ns",
            user_usec="cpu_user_ns",
            system_usec="cpu_system_ns",
            throttled_usec="throttled_ns",
        ),
    ),
    ("", "cpu.stat", _keyed(nr_periods="periods", nr_throttled="throttled")),
    ("", "cpu.weight", _weight),
    ("", "cpu.max", _cpu_max),
    ("", "memory.current", _number("memory_usage")),
    ("", "memory.peak", _number("memory_max_usage")),
    ("", "memory.max", _number("memory_limit")),
    ("", "memory.low", _number("memory_reservation")),
    ("", "memory.swap.max", _number("memory_swap_limit")),
    ("", "memory.swap.current", _number("memory_swap")),
    ("", "memory.events", _keyed(max="memory_failcnt", oom_kill="oom_kills")),
    (
        "",
        "memory.stat",
        _keyed(
            file="memory_cache",
            anon="memory_rss",
            kernel="memory_kernel",
            file_mapped="memory_mapped_file",
            active_file="memory_active_file",
            inactive_file="memory_inactive_file",
            pgfault="page_faults",
            pgmajfault="major_page_faults",
        ),
    ),
    ("", "pids.current", _number("pids")),
    ("", "pids.max", _number("pids_max")),
    ("", "cpu.pressure", _pressure("cpu")),
    ("", "memory.pressure", _pressure("memory")),
    ("", "io.pressure", _pressure("io")),
)
