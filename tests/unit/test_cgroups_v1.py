"""cgroup version 1: what is written, as data; and which version a machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorage.server.libcontainer import cgroups
from moorage.server.libcontainer.cgroups import CgroupError, files, v1

MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/mem\\040ory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/again rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/net_cls rw,relatime - cgroup cgroup rw,net_cls
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
"""
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def written(resources: cgroups.Resources) -> list[tuple[str, str]]:
    return [(setting.files[0], setting.value) for setting in v1.settings(resources)]


def test_settings() -> None:
    assert written(
        {
            "memory": {"limit": 64, "swap": 96, "reservation": 32},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 10},
            "blockIO": {"weight": 100},
        }
    ) == [
        ("memory.limit_in_bytes", "64"),
        ("memory.memsw.limit_in_bytes", "96"),
        ("memory.soft_limit_in_bytes", "32"),
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("blkio.weight", "100"),
        ("pids.max", "10"),
    ]


def test_nothing_asked_for_is_nothing_written() -> None:
    assert written({}) == written({"memory": {"limit": 0}, "cpu": {}, "pids": {}}) == []


def test_unlimited() -> None:
    assert written({"memory": {"limit": -1}, "pids": {"limit": -1}}) == [
        ("memory.limit_in_bytes", "-1"),
        ("pids.max", "max"),
    ]


def test_device_lines() -> None:
    assert v1.device_lines(
        [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "access": "m"},
            {"allow": True, "type": "b", "major": 8, "minor": -1, "access": "r"},
            {"allow": False, "type": "c", "major": 1, "minor": 1},
        ]
    ) == [
        ("devices.deny", "a"),
        ("devices.deny", "a"),
        ("devices.allow", "c *:* m"),
        ("devices.allow", "b 8:* r"),
        ("devices.deny", "c 1:1 rwm"),
    ]


def test_detect_version_1_in_a_hybrid(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTS + UNIFIED)
    manager = cgroups.detect(str(mountinfo))
    assert isinstance(manager, v1.V1Manager)
    assert manager.version == 1
    assert manager.available() == {"cpu", "cpuacct", "memory"}
    assert manager.hierarchies == (
        v1.Hierarchy("/sys/fs/cgroup/cpu,cpuacct", frozenset({"cpu", "cpuacct"})),
        v1.Hierarchy("/sys/fs/cgroup/mem ory", frozenset({"memory"})),
    )


def test_detect_version_2(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(UNIFIED)
    assert cgroups.detect(str(mountinfo)).version == 2


def test_detect_nothing(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("31 23 0:28 / /tmp rw - tmpfs tmpfs rw\n")
    with pytest.raises(CgroupError, match="cannot find cgroup file systems in"):
        cgroups.detect(str(mountinfo))


def test_a_limit_without_its_controller_is_told(tmp_path: Path) -> None:
    cgroup = v1.V1Manager([v1.Hierarchy(str(tmp_path), frozenset({"freezer"}))]).cgroup("/a")
    with pytest.raises(CgroupError, match=r"cannot write '5' to pids.max \(no such controller\): no such device"):
        cgroup.create({"pids": {"limit": 5}})
    assert not (tmp_path / "a").exists()


def test_huge_pages_are_limited_where_the_controller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}, {"pageSize": "1GB", "limit": 0}]}

    def make(path: str) -> None:
        Path(path).mkdir()
        (Path(path) / "hugetlb.2MB.limit_in_bytes").touch()

    monkeypatch.setattr(files, "make", make)
    v1.V1Manager([v1.Hierarchy(str(tmp_path), frozenset({"hugetlb"}))]).cgroup("/a").create(resources)
    assert (tmp_path / "a" / "hugetlb.2MB.limit_in_bytes").read_text() == str(4 << 20)
    assert len(list((tmp_path / "a").iterdir())) == 1
    v1.V1Manager([v1.Hierarchy(str(tmp_path), frozenset({"freezer"}))]).cgroup("/b").create(resources)
    assert "hugetlb" in v1.CONTROLLERS


def test_what_others_made_in_hierarchies_without_controllers_goes_too(tmp_path: Path) -> None:
    """An OCI runtime makes a container's cgroup in every hierarchy."""
    ours, named = tmp_path / "freezer", tmp_path / "systemd"
    for root in (ours, named):
        (root / "instance" / "container").mkdir(parents=True)
    (named / "instance" / "stray").mkdir()
    manager = v1.V1Manager([v1.Hierarchy(str(ours), frozenset({"freezer"}))], [str(named)])
    assert manager.children("/instance") == {"container", "stray"}
    manager.cgroup("/instance/container").remove()
    manager.prune("/instance")
    assert not (ours / "instance").exists() and (named / "instance" / "stray").exists()
    manager.cgroup("/instance/stray").remove()
    manager.prune("/instance")
    assert list(tmp_path.rglob("instance")) == []


def parsed(parser: files.Parser, content: bytes) -> dict[str, int]:
    values: dict[str, int] = {}
    parser(content, values)
    return values


def test_no_limit_reads_as_0() -> None:
    assert parsed(files.number("memory_limit"), b"9223372036854771712\n") == {"memory_limit": 0}
    assert parsed(files.number("memory_limit"), b"4096\n") == {"memory_limit": 4096}


def test_keyed_takes_whole_keys() -> None:
    content = b"inactive_file 1\ntotal_inactive_file 2\n"
    assert parsed(files.keyed(memory_inactive_file="inactive_file"), content) == {"memory_inactive_file": 1}
    assert parsed(files.keyed(memory_inactive_file="total_inactive_file"), content) == {"memory_inactive_file": 2}
    assert files.value_of("oom_kill", b"oom_kill_disable 0\nunder_oom 0\noom_kill 4\n") == 4
    assert files.value_of("absent", content) == 0
    assert parsed(files.keyed(1000, cpu_usage_ns="usage_usec"), b"usage_usec 3\n") == {"cpu_usage_ns": 3000}
    several = files.keyed(memory_inactive_file="total_inactive_file", memory_swap="absent")
    assert parsed(several, content) == {"memory_inactive_file": 2, "memory_swap": 0}
