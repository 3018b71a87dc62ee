"""Commands that the driver `native` adds to containers by runners."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from moorage.server.errors import FailedPrecondition
from moorage.server.execdriver.base import ContainerSpec, Pod
from moorage.server.libcontainer import cgroups
from moorage.server.libcontainer.seccomp_default import default_profile
from tests.contract.execbox import alive, read_all, until
from tests.nativebox import NativeBox, box, supervisor

__all__ = ["box"]

pytestmark = pytest.mark.kernel


def runner_of(pid: int) -> int:
    """The process that executed `pid`, which is no child of the pod's supervisor."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


async def output_of(box: NativeBox, pod: Pod, spec: ContainerSpec, *command: str) -> tuple[bytes, int]:
    stream = await box.exec(pod, spec, *command)
    out, _err, status = await read_all(stream)
    await stream.close()
    return out, status.exit_code


async def test_a_killed_runner_takes_its_command_along(box: NativeBox) -> None:
    pod, spec, _started = await box.run("sleep", "100")
    stream = await box.exec(pod, spec, "sleep", "1000")
    runner = runner_of(stream.pid)
    assert Path(f"/proc/{runner}/cmdline").read_bytes().startswith(b"moorage-runner\0")
    os.kill(runner, signal.SIGKILL)
    _out, _err, status = await read_all(stream)
    await stream.close()
    assert status.exit_code == 128 + signal.SIGKILL
    await until(lambda: not alive(stream.pid))
    assert await output_of(box, pod, spec, "echo", "on") == (b"on\n", 0)


@pytest.mark.parametrize("box", [60.0], indirect=True)
async def test_an_exec_is_none_of_the_supervisors_business(box: NativeBox) -> None:
    pod, spec, started = await box.run("sleep", "100")
    holder = supervisor(pod)
    os.kill(holder, signal.SIGSTOP)
    try:
        assert await output_of(box, pod, spec, "echo", "out") == (b"out\n", 0)
        os.kill(started.pid, signal.SIGKILL)
        await until(lambda: not alive(started.pid))
        # It is not reaped, and its end not told.
        with pytest.raises(FailedPrecondition, match=f"container {spec.id} is not running"):
            await box.exec(pod, spec, "true")
    finally:
        os.kill(holder, signal.SIGCONT)
    assert (await box.exit(spec)).exit_code == 128 + signal.SIGKILL


async def test_another_daemon_finds_its_way_in(box: NativeBox) -> None:
    profile = default_profile(frozenset())
    box.spawner.prime(profile)
    pod, spec = await box.pod(), box.spec("sleep", "100")
    spec.config["linux"]["seccomp"] = profile
    await box.start(pod, spec)
    for known in (True, False):
        await box.daemon_dies()
        await box.daemon_starts()
        if known:
            box.spawner.prime(profile)
        await box.driver.recover()
        files = len(os.listdir("/proc/self/fd"))
        for _again in range(3):
            stream = await box.exec(pod, spec, "busybox", "cat", "/proc/self/status", "-", stdin=True)
            forked = runner_of(stream.pid) == supervisor(pod)
            await stream.close_stdin()
            assert b"\nSeccomp:\t2\n" in (await read_all(stream))[0]
            await stream.close()
            # Where no runner has the filter, a fork of the supervisor does.
            assert forked is not known
        if known:
            # The way in, and the sockets to two runners that wait.
            assert len(os.listdir("/proc/self/fd")) <= files + 3


async def test_exec_at_the_limit_of_processes(box: NativeBox) -> None:
    """Who enters is let in; a runner's child would be one too many."""
    pod, spec = await box.pod(), box.spec("sleep", "100")
    spec.config["linux"]["resources"] = {"pids": {"limit": 2}}
    await box.start(pod, spec)
    stream = await box.exec(pod, spec, "sleep", "1000")
    group = cgroups.detect().cgroup(spec.config["linux"]["cgroupsPath"])
    await until(lambda: len(group.pids()) == 2)
    assert await output_of(box, pod, spec, "echo", "one more") == (b"one more\n", 0)
    await stream.close()
