"""cgroups on the real kernel: version 1 with its controllers; version 2 where it is mounted, with or without."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from moorage.server.libcontainer import cgroupfs, cgroups
from moorage.server.libcontainer.cgroups import Cgroup, CgroupError, CgroupManager, files, v2

pytestmark = pytest.mark.kernel

CLONE_NEWPID = 0x20000000
libc = ctypes.CDLL(None)

NULL_ONLY = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}]


def unified() -> str:
    with open("/proc/self/mountinfo") as file:
        for line in file:
            if " - cgroup2 " in line:
                return line.split(" ")[4]
    pytest.skip("no cgroup2 file system is mounted")


@pytest.fixture(params=["detected", "unified"])
def any_manager(request: pytest.FixtureRequest) -> CgroupManager:
    return cgroups.detect() if request.param == "detected" else v2.V2Manager(unified())


@pytest.fixture
def any_cgroup(any_manager: CgroupManager) -> Iterator[Cgroup]:
    yield from made(any_manager)


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    yield from made(cgroups.detect())


def made(manager: CgroupManager) -> Iterator[Cgroup]:
    parent = f"/moorage-test-{os.getpid()}-{secrets.token_hex(4)}"
    cgroup = manager.cgroup(f"{parent}/box")
    yield cgroup
    cgroup.kill()
    cgroup.remove()
    manager.prune(parent)
    assert parent[1:] not in manager.children("")


@contextmanager
def child(cgroup: Cgroup, work: Callable[[], object]) -> Iterator[int]:
    """A process that enters the cgroup and works. It has entered when the block begins, and has been reaped when it ends."""
    entered, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            cgroup.enter()
            os.write(tell, b".")
            work()
            os._exit(0)
        finally:
            os._exit(99)
    os.close(tell)
    try:
        assert os.read(entered, 1) == b"."
        yield pid
    finally:
        os.close(entered)
        cgroup.thaw()
        cgroup.kill()
        os.waitpid(pid, 0)


def status_of(cgroup: Cgroup, work: Callable[[], object]) -> int:
    """Exit code of a process that works in the cgroup, 128 + signal when one killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            cgroup.enter()
            work()
            os._exit(0)
        finally:
            os._exit(99)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def eat_memory() -> None:
    hog = bytearray()
    while True:
        hog += b"x" * (1 << 20)


def fork_without_end() -> None:
    """Every process there is forks again as soon as the limit lets it."""
    while True:
        with suppress(BlockingIOError):
            os.fork()


# --- life -------------------------------------------------------------------------------------------------------------


def test_enter_list_kill_remove(any_cgroup: Cgroup) -> None:
    any_cgroup.create({})
    with child(any_cgroup, signal.pause) as pid:
        assert any_cgroup.pids() == [pid]
        any_cgroup.kill()
    assert any_cgroup.pids() == []
    any_cgroup.remove()
    any_cgroup.remove()
    with pytest.raises(CgroupError) as caught:
        any_cgroup.stats()
    assert caught.value.errno == errno.ENOENT


def test_a_cgroup_that_is_there_is_not_taken_over(any_cgroup: Cgroup) -> None:
    any_cgroup.create({})
    with pytest.raises(CgroupError) as caught:
        any_cgroup.create({})
    assert caught.value.errno == errno.EEXIST
    assert any_cgroup.pids() == []


def test_children(any_manager: CgroupManager, any_cgroup: Cgroup) -> None:
    parent = any_cgroup.path.rpartition("/")[0]
    assert any_manager.children(parent) == set()
    any_cgroup.create({})
    assert any_manager.children(parent) == {"box"}


def test_prune_leaves_what_is_used(any_manager: CgroupManager, any_cgroup: Cgroup) -> None:
    any_cgroup.create({})
    parent = any_cgroup.path.rpartition("/")[0]
    any_manager.prune(parent)
    assert any_manager.children(parent) == {"box"}
    any_cgroup.remove()
    any_manager.prune(parent)
    assert parent[1:] not in any_manager.children("")


def test_freeze_and_thaw(any_cgroup: Cgroup) -> None:
    any_cgroup.create({})
    counter, tell = os.pipe()
    os.set_blocking(counter, False)

    def count() -> None:
        while True:
            os.write(tell, b".")
            time.sleep(0.001)

    def counted() -> int:
        try:
            return len(os.read(counter, 65536))
        except BlockingIOError:
            return 0

    with child(any_cgroup, count):
        assert files.wait_until(lambda: counted() > 0, 10)
        any_cgroup.freeze()
        counted()
        time.sleep(0.05)
        assert counted() == 0
        any_cgroup.thaw()
        assert files.wait_until(lambda: counted() > 0, 10)
    os.close(counter)
    os.close(tell)


def test_frozen_processes_can_be_killed(any_cgroup: Cgroup) -> None:
    any_cgroup.create({})
    with child(any_cgroup, signal.pause):
        any_cgroup.freeze()
        any_cgroup.kill()
        any_cgroup.thaw()
        assert files.wait_until(lambda: not any_cgroup.pids(), 10)


def test_a_fork_bomb_is_killed(cgroup: Cgroup) -> None:
    cgroup.create({"pids": {"limit": 200}})
    with child(cgroup, fork_without_end):
        assert files.wait_until(lambda: len(cgroup.pids()) > 100, 10)
        cgroup.kill()
        assert files.wait_until(lambda: not cgroup.pids(), 10)


def test_cgroups_that_the_container_made_are_removed(any_manager: CgroupManager, any_cgroup: Cgroup) -> None:
    any_cgroup.create({})
    inner = any_manager.cgroup(f"{any_cgroup.path}/inner/most")
    inner.create({})
    with child(inner, signal.pause) as pid:
        assert any_cgroup.pids() == [pid]
        any_cgroup.kill()
    any_cgroup.remove()
    assert any_manager.children(any_cgroup.path) == set()


def test_remove_waits_for_the_dying(any_cgroup: Cgroup) -> None:
    any_cgroup.create({})
    pids = []
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            try:
                any_cgroup.enter()
                signal.pause()
            finally:
                os._exit(99)
        pids.append(pid)
    assert files.wait_until(lambda: len(any_cgroup.pids()) == 20, 10)
    any_cgroup.kill()
    any_cgroup.remove()
    for pid in pids:
        os.waitpid(pid, 0)


def test_entering_from_a_new_pid_namespace(cgroup: Cgroup) -> None:
    cgroup.create({"pids": {"limit": 5}})

    def unshared() -> None:
        assert libc.unshare(CLONE_NEWPID) == 0
        inner = os.fork()
        if inner == 0:
            cgroup.enter()
            os._exit(0 if os.getpid() == 1 else 1)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))

    assert status_of(cgroup, unshared) == 0


# --- limits -----------------------------------------------------------------------------------------------------------


def test_limits_are_in_force(cgroup: Cgroup) -> None:
    cgroup.create(
        {
            "memory": {"limit": 32 << 20, "swap": 32 << 20},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
            "pids": {"limit": 7},
        }
    )
    with child(cgroup, signal.pause) as pid:
        assert os.sched_getaffinity(pid) == {0}
        stats = cgroup.stats()
    assert (stats.memory_limit, stats.pids_limit, stats.pids, stats.oom_kills) == (32 << 20, 7, 1, 0)
    assert stats.cpu_usage_ns > 0


def test_an_oom_kill_is_counted(cgroup: Cgroup) -> None:
    cgroup.create({"memory": {"limit": 16 << 20, "swap": 16 << 20}})
    assert cgroup.oom_kills() == 0
    assert status_of(cgroup, eat_memory) == 128 + signal.SIGKILL
    assert cgroup.oom_kills() == 1
    assert cgroup.stats().oom_kills == 1
    cgroup.remove()
    assert cgroup.oom_kills() == 0


def test_the_pids_limit_holds(cgroup: Cgroup) -> None:
    cgroup.create({"pids": {"limit": 1}})

    def fork() -> None:
        try:
            os.fork()
        except BlockingIOError:
            os._exit(7)

    assert status_of(cgroup, fork) == 7


def test_the_quota_holds(cgroup: Cgroup) -> None:
    cgroup.create({"cpu": {"quota": 10000, "period": 100000}})

    def burn() -> None:
        while True:
            continue

    with child(cgroup, burn):
        assert files.wait_until(lambda: cgroup.stats().cpu_throttled_ns > 0, 20)


def test_update(cgroup: Cgroup) -> None:
    cgroup.create({"memory": {"limit": 32 << 20, "swap": 32 << 20}, "pids": {"limit": 7}})
    for limit in (64 << 20, 16 << 20):
        cgroup.update({"memory": {"limit": limit, "swap": limit}})
        assert cgroup.stats().memory_limit == limit
    cgroup.update({"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}})
    assert (cgroup.stats().memory_limit, cgroup.stats().pids_limit) == (0, 0)


def test_an_impossible_limit_leaves_nothing(cgroup: Cgroup) -> None:
    parent = cgroup.path.rpartition("/")[0]
    with pytest.raises(CgroupError) as caught:
        cgroup.create({"pids": {"limit": 7}, "cpu": {"cpus": "9999"}})
    assert caught.value.value == "9999"
    assert caught.value.path.endswith(f"{cgroup.path}/cpuset.cpus")
    assert cgroups.detect().children(parent) == set()


@pytest.mark.parametrize("done", [[], ["cpuset.cpus"]])
def test_a_parent_that_somebody_else_is_still_making_will_do(cgroup: Cgroup, done: list[str]) -> None:
    """What several make at the same time, each finds half done."""
    root = cpuset()
    parent = root + cgroup.path.rpartition("/")[0]
    os.mkdir(parent)
    for name in done:
        files.write(f"{parent}/{name}", files.read(f"{root}/{name}").decode().strip())
    cgroup.create({})
    assert status_of(cgroup, lambda: None) == 0


def cpuset() -> str:
    for hierarchy in cgroupfs.hierarchies():
        if hierarchy.version == 1 and "cpuset" in hierarchy.options:
            return hierarchy.mount_point
    pytest.skip("no cpuset of version 1")


def may_open(path: str, flags: int) -> bool:
    try:
        os.close(os.open(path, flags))
    except PermissionError:
        return False
    return True


def test_device_rules_hold(any_cgroup: Cgroup) -> None:
    any_cgroup.create({"devices": NULL_ONLY})

    def probe() -> None:
        null, zero = may_open("/dev/null", os.O_RDWR), may_open("/dev/zero", os.O_RDONLY)
        os._exit(null << 1 | zero)

    assert status_of(any_cgroup, probe) == 0b10


def test_all_devices(any_cgroup: Cgroup) -> None:
    any_cgroup.create({"devices": [{"allow": True, "access": "rwm"}]})
    assert status_of(any_cgroup, lambda: os._exit(may_open("/dev/zero", os.O_RDONLY))) == 1


# --- statistics -------------------------------------------------------------------------------------------------------


def test_sampler_follows(cgroup: Cgroup) -> None:
    cgroup.create({})
    sampler = cgroup.sampler()
    assert sampler.read().pids == 0
    with child(cgroup, signal.pause):
        assert sampler.read().pids == 1
        assert sampler.read().memory_usage > 0
    cgroup.remove()
    with pytest.raises(CgroupError) as caught:
        sampler.read()
    assert caught.value.errno == errno.ENODEV
    sampler.close()
