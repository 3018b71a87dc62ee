"""Figures of cgroups of both versions, and who a process is."""

from __future__ import annotations

from pathlib import Path

from moorage.server.libcontainer.cgroups.figures import FigureReader


def reader(tmp_path: Path, mounts: dict[str, str]) -> FigureReader:
    """Over hierarchies in `tmp_path`: by directory the file system and its options."""
    lines = [
        f"{number} 1 0:{number} / {tmp_path / name} rw - {options.partition(' ')[0]} none {options.partition(' ')[2]}"
        for number, (name, options) in enumerate(mounts.items())
    ]
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("\n".join(lines) + "\n")
    return FigureReader(str(mountinfo))


def fill(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)


def test_figures_of_version_1(tmp_path: Path) -> None:
    figures = reader(
        tmp_path, {"memory": "cgroup rw,memory", "cpu": "cgroup rw,cpu,cpuacct", "blkio": "cgroup rw,blkio"}
    )
    stat = "cache 1\ntotal_cache 5\ntotal_rss 6\ntotal_pgmajfault 7\n"
    fill(tmp_path / "memory/p/c", {"memory.stat": stat, "memory.limit_in_bytes": "9223372036854771712\n"})
    fill(
        tmp_path / "cpu/p/c",
        {"cpuacct.usage": "9\n", "cpu.stat": "nr_periods 3\nthrottled_time 4\n", "cpu.cfs_quota_us": "-1\n"},
    )
    fill(tmp_path / "blkio/p/c", {"blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Sync 3\nTotal 13\n"})
    found = figures.read("/p/c")
    assert found.values == {
        "memory_cache": 5,
        "memory_rss": 6,
        "major_page_faults": 7,
        "memory_limit": 0,
        "cpu_ns": 9,
        "periods": 3,
        "throttled_ns": 4,
        "cpu_quota": -1,
    }
    assert found.devices == ((8, 0, "Read", "bytes", 10),)


def test_figures_of_version_2(tmp_path: Path) -> None:
    figures = reader(tmp_path, {"unified": "cgroup2 rw"})
    pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n"
    files = {
        "cpu.stat": "usage_usec 2\nnr_periods 4\n",
        "cpu.max": "max 100000\n",
        "cpu.weight": "1\n",
        "memory.max": "max\n",
        "memory.current": "77\n",
        "io.pressure": pressure,
        "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0\n",
    }
    fill(tmp_path / "unified/c", files)
    found = figures.read("/c")
    assert found.values == {
        "cpu_ns": 2000,
        "periods": 4,
        "cpu_quota": -1,
        "cpu_period": 100000,
        "cpu_shares": 2,
        "memory_limit": 0,
        "memory_usage": 77,
        "io_pressure_some_us": 12,
        "io_pressure_full_us": 3,
    }
    assert {(operation, what, value) for _, _, operation, what, value in found.devices} == {
        ("Read", "bytes", 1),
        ("Write", "bytes", 2),
        ("Read", "count", 3),
        ("Write", "count", 4),
    }


def test_a_cgroup_that_is_gone_has_no_figures(tmp_path: Path) -> None:
    found = reader(tmp_path, {"memory": "cgroup rw,memory"}).read("/gone")
    assert not found.values and not found.devices
