"""cgroup version 2 on a fake tree: which files are written with what, and what is read out of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.libcontainer.cgroups import CgroupError, CgroupStats, devices, files, v2

INTERFACE = {
    "cgroup.controllers": "cpu cpuset io memory pids\n",
    "cgroup.subtree_control": "",
    "cgroup.procs": "",
    "cgroup.kill": "",
    "cgroup.freeze": "",
    "cgroup.events": "populated 1\nfrozen 1\n",
    "cpu.max": "",
    "cpu.weight": "",
    "cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 2\nnr_throttled 1\nthrottled_usec 70\n",
    "cpuset.cpus": "",
    "cpuset.mems": "",
    "io.weight": "",
    "io.stat": "8:0 rbytes=100 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2 rios=1 wios=1\n",
    "memory.current": "4096\n",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n",
    "memory.low": "",
    "memory.max": "",
    "memory.stat": "anon 300\nactive_file 9\ninactive_file 512\npgfault 44\npgmajfault 5\n",
    "memory.swap.current": "64\n",
    "hugetlb.2MB.max": "",
    "memory.swap.max": "",
    "pids.current": "3\n",
    "pids.max": "",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which mkdir and rmdir do what they do in a cgroup file system: the files come and go with the directory."""

    def make(path: str) -> None:
        try:
            Path(path).mkdir()
        except OSError as error:
            raise CgroupError(error.errno or 0, "make", path) from error
        for name, content in INTERFACE.items():
            (Path(path) / name).write_text(content)

    rmdir = os.rmdir

    def remove(path: str) -> None:
        if any(entry.is_dir() for entry in Path(path).iterdir()):
            raise OSError(errno.EBUSY, "busy")
        for entry in Path(path).iterdir():
            entry.unlink()
        rmdir(path)

    make(str(tmp_path / "fs"))
    monkeypatch.setattr(files, "make", make)
    monkeypatch.setattr(os, "rmdir", remove)
    return tmp_path / "fs"


def test_limits_are_written(root: Path) -> None:
    cgroup = v2.V2Manager(str(root)).cgroup("/moorage/a")
    cgroup.create(
        {
            "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 1 << 20},
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 10},
            "blockIO": {"weight": 1000},
            "unified": {"memory.low": "77777777"},
        }
    )
    written = {name: (root / "moorage/a" / name).read_text() for name in INTERFACE}
    assert written["memory.max"] == str(64 << 20)
    assert written["memory.swap.max"] == str(32 << 20)
    assert written["memory.low"] == "77777777"
    assert written["cpu.weight"] == "100"
    assert written["cpu.max"] == "50000 100000"
    assert (written["cpuset.cpus"], written["cpuset.mems"]) == ("0-1", "0")
    assert written["pids.max"] == "10"
    assert written["io.weight"] == "default 10000"


def test_controllers_are_enabled_down_the_path(root: Path) -> None:
    (root / "cgroup.subtree_control").write_text("cpu memory\n")
    v2.V2Manager(str(root)).cgroup("/moorage/pod/a").create({})
    assert (root / "cgroup.subtree_control").read_text().startswith("+cpuset +io +pids")
    for parent in ("moorage", "moorage/pod"):
        assert (root / parent / "cgroup.subtree_control").read_text() == "+cpu +cpuset +io +memory +pids"
    assert (root / "moorage/pod/a/cgroup.subtree_control").read_text() == ""


def test_what_is_enabled_is_not_written_again(root: Path) -> None:
    (root / "cgroup.subtree_control").write_text("cpuset cpu io memory hugetlb pids\n")
    v2.V2Manager(str(root)).cgroup("/a").create({})
    assert (root / "cgroup.subtree_control").read_text() == "cpuset cpu io memory hugetlb pids\n"


def test_unlimited(root: Path) -> None:
    cgroup = v2.V2Manager(str(root)).cgroup("/a")
    cgroup.create({})
    cgroup.update({"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}})
    assert (root / "a/memory.max").read_text() == "max"
    assert (root / "a/memory.swap.max").read_text() == "max"
    assert (root / "a/cpu.max").read_text() == "max 100000"
    assert (root / "a/pids.max").read_text() == "max"


def test_swap_equal_to_memory_is_no_swap(root: Path) -> None:
    v2.V2Manager(str(root)).cgroup("/a").create({"memory": {"limit": 8 << 20, "swap": 8 << 20}})
    assert (root / "a/memory.swap.max").read_text() == "0"


def test_without_swap_accounting(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(INTERFACE, "memory.swap.max")
    v2.V2Manager(str(root)).cgroup("/a").create({"memory": {"limit": 8 << 20, "swap": 8 << 20}})
    assert (root / "a/memory.max").read_text() == str(8 << 20)


def test_huge_pages_are_limited_where_the_kernel_counts_them(root: Path) -> None:
    limits = [{"pageSize": "2MB", "limit": 4 << 20}, {"pageSize": "16GB", "limit": 0}]
    v2.V2Manager(str(root)).cgroup("/a").create({"hugepageLimits": limits})
    assert (root / "a/hugetlb.2MB.max").read_text() == str(4 << 20)
    assert not (root / "a/hugetlb.16GB.max").exists()


def test_all_or_nothing(root: Path) -> None:
    cgroup = v2.V2Manager(str(root)).cgroup("/moorage/a")
    with pytest.raises(CgroupError) as caught:
        cgroup.create({"pids": {"limit": 5}, "unified": {"no.such": "1"}})
    assert (caught.value.errno, caught.value.value) == (errno.ENOENT, "1")
    assert str(caught.value) == f"cannot write '1' to {root}/moorage/a/no.such: no such file or directory"
    assert not (root / "moorage/a").exists()


def test_a_cgroup_that_is_there_is_not_taken_over(root: Path) -> None:
    manager = v2.V2Manager(str(root))
    manager.cgroup("/a").create({})
    with pytest.raises(CgroupError) as caught:
        manager.cgroup("/a").create({"pids": {"limit": 1}})
    assert caught.value.errno == errno.EEXIST
    assert (root / "a/pids.max").read_text() == ""


def test_stats(root: Path) -> None:
    cgroup = v2.V2Manager(str(root)).cgroup("/a")
    cgroup.create({"memory": {"limit": 8 << 20}, "pids": {"limit": -1}})
    expected = CgroupStats(
        cpu_usage_ns=1_500_000,
        cpu_throttled_ns=70_000,
        memory_usage=4096,
        memory_inactive_file=512,
        memory_limit=8 << 20,
        memory_rss=300,
        memory_swap=64,
        page_faults=44,
        major_page_faults=5,
        pids=3,
        pids_limit=0,
        io_read_bytes=101,
        io_write_bytes=22,
        oom_kills=2,
    )
    assert cgroup.stats() == expected
    assert cgroup.oom_kills() == 2


def test_sampler_sees_changes_and_closes(root: Path) -> None:
    cgroup = v2.V2Manager(str(root)).cgroup("/a")
    cgroup.create({"memory": {"limit": 8 << 20}, "pids": {"limit": 9}})
    before = set(os.listdir("/proc/self/fd"))
    sampler = cgroup.sampler()
    assert sampler.read().pids == 3
    (root / "a/pids.current").write_text("4\n")
    assert sampler.read().pids == 4
    sampler.close()
    sampler.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_gone(root: Path) -> None:
    cgroup = v2.V2Manager(str(root)).cgroup("/gone")
    with pytest.raises(CgroupError) as caught:
        cgroup.sampler()
    assert caught.value.errno == errno.ENOENT
    assert cgroup.oom_kills() == 0
    assert cgroup.pids() == []
    cgroup.kill()
    cgroup.remove()


def test_kill_and_freeze_are_files(root: Path) -> None:
    cgroup = v2.V2Manager(str(root)).cgroup("/a")
    cgroup.create({})
    cgroup.kill()
    assert (root / "a/cgroup.kill").read_text() == "1"
    cgroup.freeze()
    assert (root / "a/cgroup.freeze").read_text() == "1"
    cgroup.thaw()
    assert (root / "a/cgroup.freeze").read_text() == "0"


def test_freezing_that_does_not_end_is_undone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FREEZE_SECONDS", 0.0)
    cgroup = v2.V2Manager(str(root)).cgroup("/a")
    cgroup.create({})
    (root / "a/cgroup.events").write_text("populated 1\nfrozen 0\n")
    with pytest.raises(CgroupError) as caught:
        cgroup.freeze()
    assert caught.value.errno == errno.ETIMEDOUT
    assert (root / "a/cgroup.freeze").read_text() == "0"


def test_children_remove_and_prune(root: Path) -> None:
    manager = v2.V2Manager(str(root))
    for path in ("/moorage/x/a", "/moorage/x/b/inner", "/moorage/y"):
        manager.cgroup(path).create({})
    assert manager.children("/moorage/x") == {"a", "b"}
    assert manager.children("/none") == set()
    for name in manager.children("/moorage/x"):
        manager.cgroup(f"/moorage/x/{name}").remove()
    manager.prune("/moorage/x")
    assert manager.children("/moorage") == {"y"}


def test_available(root: Path) -> None:
    assert v2.V2Manager(str(root)).available() == {"cpu", "cpuset", "io", "memory", "pids", "devices", "freezer"}


@pytest.mark.parametrize("path", ["", "/", "a", "/a/../b", "/a//b", "/a/", "/./a", "/a\0"])
def test_paths_that_could_leave_the_place_are_refused(root: Path, path: str) -> None:
    with pytest.raises(ValueError, match="invalid cgroup path"):
        v2.V2Manager(str(root)).cgroup(path)


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (1, 1), (1 << 30, 10000)])
def test_weight_of_shares(shares: int, weight: int) -> None:
    assert v2.weight(shares) == weight


@given(st.integers(2, 262143))
def test_weight_grows_with_shares(shares: int) -> None:
    assert 1 <= v2.weight(shares) <= v2.weight(shares + 1) <= 10000


# --- the device program -----------------------------------------------------------------------------------------------

BLOCK, CHARACTER = 1, 2
MKNOD, READ, WRITE = 1, 2, 4


def run(program: bytes, kind: int, access: int, major: int, minor: int) -> bool:
    """Interpret the few BPF instructions that device programs are made of."""
    context = {0: access << 16 | kind, 4: major, 8: minor}
    instructions = list(devices.INSTRUCTION.iter_unpack(program))
    registers = [0] * 7
    position = 0
    while True:
        code, both, offset, immediate = instructions[position]
        destination, source = both & 15, both >> 4
        position += 1
        if code == devices.LOAD_WORD:
            registers[destination] = context[offset]
        elif code == devices.MOVE:
            registers[destination] = registers[source]
        elif code == devices.MOVE_IMMEDIATE:
            registers[destination] = immediate
        elif code == devices.AND_IMMEDIATE:
            registers[destination] &= immediate
        elif code == devices.SHIFT_RIGHT_IMMEDIATE:
            registers[destination] >>= immediate
        elif code == devices.JUMP_NOT_EQUAL:
            position += offset if registers[destination] != immediate else 0
        elif code == devices.JUMP_EQUAL:
            position += offset if registers[destination] == immediate else 0
        else:
            assert code == devices.EXIT
            return bool(registers[0])


def decide(rules: list[devices.Rule], kind: int, access: int, major: int, minor: int) -> bool:
    """What the rules say: the last one that applies decides."""
    for rule in reversed(rules):
        covered = sum(devices.ACCESS[letter] for letter in str(rule["access"]))
        fits = (
            rule["type"] in ("a", "b" if kind == BLOCK else "c")
            and rule["major"] in (-1, major)
            and rule["minor"] in (-1, minor)
        )
        if fits and (access & ~covered == 0 if rule["allow"] else access & covered):
            return bool(rule["allow"])
    return False


rules = st.fixed_dictionaries(
    {
        "allow": st.booleans(),
        "type": st.sampled_from("abc"),
        "major": st.integers(-1, 3),
        "minor": st.integers(-1, 3),
        "access": st.sets(st.sampled_from("rwm"), min_size=1).map("".join),
    }
)


@given(
    st.lists(rules, max_size=8),
    st.sampled_from([BLOCK, CHARACTER]),
    st.integers(1, 7),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_device_program(given_rules: list[devices.Rule], kind: int, access: int, major: int, minor: int) -> None:
    program = devices.program(given_rules)
    assert run(program, kind, access, major, minor) == decide(given_rules, kind, access, major, minor)


def test_device_rules_of_a_container() -> None:
    program = devices.program(
        [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "access": "m"},
            {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            {"allow": True, "type": "c", "major": 136, "access": "rwm"},
        ]
    )
    assert run(program, CHARACTER, READ | WRITE, 1, 3)
    assert run(program, CHARACTER, MKNOD, 1, 1)
    assert not run(program, CHARACTER, READ, 1, 1)
    assert not run(program, BLOCK, READ, 1, 3)
    assert run(program, CHARACTER, READ, 136, 77)


def test_privileged_device_rules_need_no_comparison() -> None:
    program = devices.program([{"allow": False, "access": "rwm"}, {"allow": True, "access": "rwm"}])
    assert run(program, BLOCK, READ | WRITE, 8, 0)
    assert len(program) // 8 == 8
