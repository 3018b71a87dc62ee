"""Pods outlive the daemon, and what it left half done at any point is put right by the next one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from moorage.server.engine import commands
from moorage.server.engine import podcommands as pods
from moorage.server.errors import FailedPrecondition
from moorage.server.model import Container, PodRecord
from tests.contract.execbox import alive, until
from tests.enginehouse import pod_config
from tests.podhouse import House

pytestmark = pytest.mark.kernel


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with House.temporary() as house:
        yield house


def gone(pid: int) -> bool:
    return not alive(pid)


def forge(house: House, thing: Container | PodRecord) -> None:
    """Leave in the database what a daemon has written that was killed just then."""
    kind = "pod" if isinstance(thing, PodRecord) else "container"
    with house.daemon.rooms.db.transaction() as tx:
        tx.put(kind, thing.id, thing)


async def test_a_pod_lives_through_new_daemons(house: House) -> None:
    async with house.running():
        pod_id = await house.pod(hostname="box")
    async with house.running():
        runs = await house.sh(pod_id, "exec sleep 1000", name="runs", pid="pod")
        ends = await house.sh(pod_id, "sleep 0.3; exit 12", name="ends", pid="pod")
        waits = await house.container(pod_id, "sh", "-c", "hostname", name="waits")
        pid = (await house.inspect(runs)).pid
    await asyncio.sleep(0.5)
    async with house.running():
        assert (await house.inspect(runs)).pid == pid
        ended = await house.inspect(ends)
        assert (ended.state, ended.exit and ended.exit.exit_code) == ("exited", 12)
        await house.run(commands.Start(waits))
        await house.run(commands.Wait(waits))
        assert await house.exec(runs, "cat /etc/hostname") == "box"
    async with house.running():
        await house.run(commands.Remove(ends))
        await house.run(pods.StopPod(pod_id))
        assert gone(pid)
    async with house.running():
        stopped = await house.inspect(runs)
        assert (stopped.state, stopped.exit and stopped.exit.exit_code) == ("exited", 137)
        await house.run(pods.RemovePod(pod_id))
        assert await house.run(commands.ListContainers(all=True)) == []
        assert await house.run(pods.ListPods()) == []


async def test_a_run_that_was_cut_short_is_undone_and_can_be_repeated(house: House) -> None:
    config = pod_config()
    async with house.running():
        pod_id = await house.run(pods.RunPod(config))
        pod = await house.run(pods.InspectPod(pod_id))
        forge(house, replace(pod, state="starting", pid=0, endpoint=None))
    async with house.running():
        assert await house.run(pods.ListPods()) == []
        await until(lambda: gone(pod.pid))
        assert await house.run(pods.RunPod(config)) != pod_id


async def test_a_start_that_was_cut_short_is_undone_and_can_be_repeated(house: House) -> None:
    async with house.running():
        pod_id = await house.pod()
        stays = await house.sh(pod_id, "exec sleep 1000", name="stays")
        container = await house.sh(pod_id, "exec sleep 1000", name="starts")
        before = await house.inspect(container)
        forge(house, replace(before, state="starting", pid=0, started_ns=0))
    async with house.running():
        assert (await house.state(stays), await house.state(container)) == ("running", "created")
        assert gone(before.pid)
        await house.run(commands.Start(container))
        assert await house.state(container) == "running"


@pytest.mark.parametrize("state", ["notready", "removing"])
async def test_an_end_that_was_cut_short_is_finished(house: House, state: str) -> None:
    async with house.running():
        pod_id = await house.pod()
        container = await house.sh(pod_id, "exec sleep 1000")
        running, pod = await house.inspect(container), await house.run(pods.InspectPod(pod_id))
        forge(house, replace(pod, state=state))
    async with house.running():
        assert gone(running.pid)
        await until(lambda: gone(pod.pid))
        if state == "removing":
            assert await house.run(pods.ListPods()) == await house.run(commands.ListContainers(all=True)) == []
            return
        ended = await house.inspect(container)
        assert (ended.state, ended.exit and ended.exit.exit_code) == ("exited", 137)
        await house.run(pods.StopPod(pod_id))
        await house.run(pods.RemovePod(pod_id))


async def test_a_removal_that_was_cut_short_is_finished(house: House) -> None:
    async with house.running():
        pod_id = await house.pod()
        stays = await house.sh(pod_id, "exec sleep 1000", name="stays")
        container = await house.sh(pod_id, "true", name="goes")
        await house.run(commands.Wait(container))
        forge(house, replace(await house.inspect(container), state="removing"))
    async with house.running():
        assert [each.id for each in await house.run(commands.ListContainers(all=True))] == [stays]


async def test_a_pod_whose_supervisor_dies_is_not_ready(house: House) -> None:
    async with house.running():
        pod_id = await house.pod()
        container = await house.sh(pod_id, "exec sleep 1000", pid="pod")
        inner = (await house.inspect(container)).pid
        os.kill((await house.run(pods.InspectPod(pod_id))).pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            ended = await house.run(commands.Wait(container))
            while (await house.run(pods.InspectPod(pod_id))).state != "notready":
                await asyncio.sleep(0.01)
        assert (ended.exit_code, ended.reason) == (255, "Unknown")
        assert gone(inner)
        with pytest.raises(FailedPrecondition):
            await house.container(pod_id, name="late")
        await house.run(pods.RemovePod(pod_id))
        assert await house.run(pods.ListPods()) == []


async def test_a_pod_whose_supervisor_died_meanwhile_is_not_ready(house: House) -> None:
    async with house.running():
        pod_id = await house.pod()
        container = await house.sh(pod_id, "exec sleep 1000")
        supervisor = (await house.run(pods.InspectPod(pod_id))).pid
    os.kill(supervisor, signal.SIGKILL)
    async with house.running():
        pod = await house.run(pods.InspectPod(pod_id))
        assert (pod.state, pod.held) == ("notready", False)
        ended = (await house.inspect(container)).exit
        assert ended is not None and ended.reason == "Unknown"
