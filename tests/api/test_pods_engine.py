"""Pods as the engine runs them, over a recording fake of the kernel: their life, their containers, and what is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from moorage.server.config import Config
from moorage.server.daemon import Rooms
from moorage.server.engine import commands
from moorage.server.engine import podcommands as pods
from moorage.server.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from moorage.server.execdriver.base import ContainerStatus, Pod, PodStatus
from moorage.server.graph.graphdb import GraphDB
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.model import (
    ContainerConfig,
    ExitStatus,
    IdMap,
    LogConfig,
    Mount,
    NetworkAttachment,
    PortMapping,
    Resources,
    Security,
)
from moorage.server.networkdriver.passive import PassiveDriver
from tests.enginehouse import EngineHouse, pod_config
from tests.fakekernel import IMAGE, IMAGE_ID, FakeCgroups, FakeExecDriver, FakeGraph, FakePuller, no_task
from tests.fakerooms import fake_registry


class Engine(EngineHouse):
    """Over fakes, which stay the same at the next start."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, self._fakes)
        self.kernel, self.graph, self.cgroups = FakeExecDriver(), FakeGraph(), FakeCgroups()
        self.instance = self.config.instance

    def _fakes(self, config: Config, stack: ExitStack) -> Rooms:
        db = GraphDB(self.root / "graph.db")
        stack.callback(db.close)
        return Rooms(
            db=db,
            graph=cast(Any, self.graph),
            puller=cast(Any, FakePuller(IMAGE)),
            **fake_registry(stack),
            exec_driver=self.kernel,
            network_drivers={name: PassiveDriver(db, cast(Any, name)) for name in ("bridge", "host", "none")},
            cgroups=cast(CgroupManager, self.cgroups),
            run_task=no_task,
        )


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path)
    async with engine.running():
        yield engine


async def test_a_pod_from_run_to_remove(engine: Engine) -> None:
    pod_id = await engine.pod(hostname="box", cgroup_parent="/kubepods", log_directory="/l")
    pod = await engine.run(pods.InspectPod(pod_id[:12]))
    assert (pod.id, pod.state, pod.config.hostname) == (pod_id, "ready", "box")
    assert pod.pid > 0
    assert engine.kernel.pod_specs[pod_id].namespaces == {"net", "ipc", "uts"}
    assert ("create", f"/kubepods/{pod_id}", {}) in engine.cgroups.calls
    assert (engine.root / "podfiles" / pod_id / "hostname").read_text() == "box\n"
    await engine.run(pods.StopPod(pod_id))
    await engine.run(pods.StopPod(pod_id))
    stopped = await engine.run(pods.InspectPod(pod_id))
    assert (stopped.state, stopped.pid, stopped.endpoint, stopped.held) == ("notready", 0, None, False)
    assert ("remove", f"/kubepods/{pod_id}") in engine.cgroups.calls
    await engine.run(pods.RemovePod(pod_id))
    await engine.run(pods.RemovePod(pod_id))
    assert await engine.run(pods.ListPods()) == []
    assert not (engine.root / "podfiles" / pod_id).exists()
    told = [action for kind, action, subject in engine.events() if subject == pod_id]
    assert told == ["create", "start", "stop", "remove"]
    with pytest.raises(NotFound):
        await engine.run(pods.InspectPod(pod_id))


async def test_names_of_a_pod_are_taken_once(engine: Engine) -> None:
    config = pod_config()
    first = await engine.run(pods.RunPod(config))
    with pytest.raises(AlreadyExists) as caught:
        await engine.run(pods.RunPod(config))
    assert caught.value.metadata["pod"] == first
    assert await engine.run(pods.RunPod(replace(config, attempt=1))) != first


async def test_identical_calls_at_once_make_one_pod(engine: Engine) -> None:
    command = pods.RunPod(pod_config())
    assert len(set(await asyncio.gather(*(engine.run(command) for _ in range(3))))) == 1


async def test_a_pod_that_fails_leaves_nothing(engine: Engine) -> None:
    engine.kernel.fail_pod = Internal("no")
    config = pod_config()
    with pytest.raises(Internal, match="no"):
        await engine.run(pods.RunPod(config))
    assert await engine.run(pods.ListPods()) == []
    engine.kernel.fail_pod = None
    assert await engine.run(pods.RunPod(config))


async def test_a_pod_that_cannot_be_undone_stays_to_be_removed(engine: Engine) -> None:
    engine.kernel.fail_pod, engine.kernel.fail_remove = Internal("first"), True
    with pytest.raises(Internal, match="first"):
        await engine.pod()
    (pod,) = await engine.run(pods.ListPods())
    assert (pod.state, pod.held) == ("notready", True)
    engine.kernel.fail_remove = False
    await engine.run(pods.RemovePod(pod.id))
    assert await engine.run(pods.ListPods()) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"hostname": "no spaces"},
        {"cgroup_parent": "/a/../b"},
        {"network": "host", "attachment": NetworkAttachment(ports=(PortMapping(80, 80),))},
        {"users": (IdMap(1, 100000, 65536),)},
        {"users": (IdMap(0, 100000, 10), IdMap(10, 200000, 10))},
        {"users": (IdMap(0, 100000, 65536),), "network": "host"},
    ],
)
async def test_pods_that_cannot_be(engine: Engine, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        await engine.pod(**fields)


async def test_containers_share_a_pod_and_outlive_one_another(engine: Engine) -> None:
    pod_id = await engine.pod(hostname="box")
    one = await engine.started(pod_id, "sleep", name="one")
    two = await engine.started(pod_id, "sleep", name="two", pid="pod", log=LogConfig(0, 0, "/x/two.log"))
    assert [call for call in engine.kernel.calls if call[0] in ("order_pod", "configure_network")] == [
        ("order_pod", pod_id),
        ("configure_network", pod_id, ()),
    ]
    spec = engine.kernel.specs[two]
    assert (spec.pid, spec.log_path, spec.log.max_size) == ("pod", "/x/two.log", 0)
    assert spec.config["linux"]["cgroupsPath"] == f"/{engine.instance}/{pod_id}/{two}"
    assert "HOSTNAME=box" in spec.config["process"]["env"]
    binds = {mount["destination"]: mount["source"] for mount in spec.config["mounts"]}
    assert binds["/etc/hosts"] == str(engine.root / "podfiles" / pod_id / "hosts")
    await engine.run(commands.Stop(one, 5))
    assert (await engine.state(one), await engine.state(two)) == ("exited", "running")
    assert ("remove_pod", pod_id) not in engine.kernel.calls
    await engine.run(commands.Remove(one))
    assert ("remove_container", pod_id, one) in engine.kernel.calls
    assert [c.id for c in await engine.run(commands.ListContainers(all=True))] == [two]


async def test_stopping_a_pod_kills_its_containers_and_records_how(engine: Engine) -> None:
    pod_id = await engine.pod()
    ran = await engine.started(pod_id, "stubborn", name="a")
    never = await engine.container(pod_id, name="b")
    await engine.run(pods.StopPod(pod_id))
    ended = await engine.run(commands.InspectContainer(ran))
    assert (ended.state, ended.exit.exit_code) == ("exited", 137)
    assert await engine.state(never) == "created"
    with pytest.raises(FailedPrecondition, match="not ready"):
        await engine.run(commands.Start(never))
    with pytest.raises(FailedPrecondition, match="not ready"):
        await engine.container(pod_id, name="c")
    await engine.run(pods.RemovePod(pod_id))
    assert await engine.run(commands.ListContainers(all=True)) == []
    assert not engine.graph.roots


async def test_a_container_of_a_pod_runs_once(engine: Engine) -> None:
    pod_id = await engine.pod()
    container = await engine.started(pod_id, "true")
    await engine.run(commands.Wait(container))
    with pytest.raises(FailedPrecondition, match="runs once"):
        await engine.run(commands.Start(container))
    with pytest.raises(AlreadyExists):
        await engine.container(pod_id)
    assert await engine.container(pod_id, metadata_attempt=1) != container


async def test_what_a_pod_does_not_allow(engine: Engine) -> None:
    pod_id, other = await engine.pod(), await engine.pod()
    target = await engine.started(other, "sleep")
    with pytest.raises(InvalidArgument, match="privileged pod"):
        await engine.container(pod_id, security=Security(privileged=True))
    with pytest.raises(InvalidArgument, match="same pod"):
        await engine.container(pod_id, pid=target)
    await engine.run(commands.Stop(target, 0))
    with pytest.raises(FailedPrecondition, match="not running"):
        await engine.container(other, name="debug", pid=target)
    with pytest.raises(InvalidArgument, match="needs a pod"):
        await engine.run(commands.Create("", ContainerConfig("base", pid="pod")))


async def test_an_image_is_held_by_who_mounts_it(engine: Engine) -> None:
    pod_id = await engine.pod()
    mount = Mount("image", "/data", "base", read_only=True, sub_path="a/b")
    container = await engine.started(pod_id, "sleep", mounts=(mount,))
    assert (await engine.run(commands.InspectContainer(container))).mounted_images == (IMAGE_ID,)
    (shown,) = [m for m in engine.kernel.specs[container].config["mounts"] if m["type"] == "image"]
    assert (shown["destination"], shown["subPath"]) == ("/data", "a/b")
    assert shown["layers"][0]["source"] == f"/nowhere/{IMAGE_ID}"
    for wrong in (replace(mount, read_only=False), replace(mount, sub_path="../x")):
        with pytest.raises(InvalidArgument):
            await engine.container(pod_id, name="wrong", mounts=(wrong,))


async def test_limits_are_changed_and_kept(engine: Engine) -> None:
    pod_id = await engine.pod(cgroup_parent="kubepods")
    container = await engine.started(pod_id, "sleep", resources=Resources(memory=64 << 20, cpu_shares=10))
    await engine.run(commands.Update(container, Resources(memory=128 << 20), {"a": "b"}))
    change = {"memory": {"limit": 128 << 20, "swap": 128 << 20}, "cpu": {"shares": 10}}
    assert engine.cgroups.calls[-1] == ("update", f"/kubepods/{pod_id}/{container}", change)
    kept = (await engine.run(commands.InspectContainer(container))).config
    assert (kept.resources.memory, kept.resources.cpu_shares, kept.annotations) == (128 << 20, 10, {"a": "b"})
    with pytest.raises(InvalidArgument):
        await engine.run(commands.Update(container, Resources(memory=1)))
    await engine.run(pods.UpdatePod(pod_id, Resources(memory=1 << 30), Resources(memory=1 << 20)))
    total = (1 << 30) + (1 << 20)
    assert engine.cgroups.calls[-1] == ("update", f"/kubepods/{pod_id}", {"memory": {"limit": total, "swap": total}})


async def test_a_log_is_reopened_while_its_container_runs(engine: Engine) -> None:
    pod_id = await engine.pod()
    container = await engine.container(pod_id)
    with pytest.raises(FailedPrecondition):
        await engine.run(commands.ReopenLog(container))
    await engine.run(commands.Start(container))
    await engine.run(commands.ReopenLog(container))
    assert engine.kernel.calls[-1] == ("reopen_log", pod_id, container)


async def test_exec_sync(engine: Engine) -> None:
    pod_id = await engine.pod()
    container = await engine.started(pod_id, "sleep")
    assert await engine.run(commands.ExecSync(container, ("echo", "hi"))) == commands.ExecResult(b"hi\n", b"", 0)
    assert (await engine.run(commands.ExecSync(container, ("exit", "7"), 5))).exit_code == 7
    with pytest.raises(DeadlineExceeded):
        await engine.run(commands.ExecSync(container, ("stubborn",), 0.05))
    assert engine.kernel.calls[-1][0] == "signalled"
    with pytest.raises(InvalidArgument):
        await engine.run(commands.ExecSync(container, ()))
    with pytest.raises(NotFound):
        await engine.run(commands.ExecSync("nobody", ("true",)))


async def test_a_port_of_a_pod_is_dialled(engine: Engine) -> None:
    pod_id = await engine.pod()
    with await engine.run(pods.DialPod(pod_id, 80)) as sock:
        sock.sendall(b"ping")
        assert await asyncio.to_thread(sock.recv, 10) == b"ping"
    with pytest.raises(Unavailable):
        await engine.run(pods.DialPod(pod_id, 1))
    with pytest.raises(InvalidArgument):
        await engine.run(pods.DialPod(pod_id, 0))
    await engine.run(pods.StopPod(pod_id))
    with pytest.raises(FailedPrecondition):
        await engine.run(pods.DialPod(pod_id, 80))


async def test_samples_of_pods(engine: Engine) -> None:
    pod_id, empty = await engine.pod(), await engine.pod()
    container = await engine.started(pod_id, "sleep")
    samples = {sample.pod.id: sample for sample in await engine.run(pods.SamplePods())}
    assert [each.id for each in samples[pod_id].containers] == [container]
    assert samples[empty].containers == ()
    assert (samples[pod_id].working_set, samples[pod_id].cpu_nano_cores) == (800, None)
    await asyncio.sleep(0.1)
    (again,) = await engine.run(pods.SamplePods((pod_id[:10],)))
    assert again.cpu_nano_cores > 0


async def test_a_new_daemon_finds_pods_as_they_are(engine: Engine, tmp_path: Path) -> None:
    other = Engine(tmp_path / "other")
    other.root.mkdir()
    config = pod_config()
    async with other.running():
        lives, dead = await other.run(pods.RunPod(config)), await other.pod()
        runs = await other.started(lives, "sleep", name="runs")
        ends = await other.started(lives, "sleep", name="ends")
        lost = await other.started(dead, "sleep")
        waits = await other.container(lives, name="waits")
    status = ExitStatus(3, 5, reason="Error")
    inside = (ContainerStatus(runs, 77, 1), ContainerStatus(ends, 78, 1, status))
    other.kernel.left_over = [PodStatus(Pod(lives, 4242), inside)]
    async with other.running():
        assert {p.id: p.state for p in await other.run(pods.ListPods())} == {lives: "ready", dead: "notready"}
        found = {c.id: c for c in await other.run(commands.ListContainers(all=True))}
        assert (found[runs].state, found[runs].pid) == ("running", 77)
        assert (found[ends].state, found[ends].exit) == ("exited", status)
        assert (found[lost].state, found[lost].exit.reason) == ("exited", "Unknown")
        # The answer to the first of these may not have been heard; a pod with containers has been.
        assert await other.container(lives, name="waits") == waits
        with pytest.raises(AlreadyExists):
            await other.run(pods.RunPod(config))


async def test_a_pod_whose_answer_was_not_heard_is_answered_again(tmp_path: Path) -> None:
    engine, config = Engine(tmp_path), pod_config()
    async with engine.running():
        pod_id = await engine.run(pods.RunPod(config))
    engine.kernel.left_over = [PodStatus(Pod(pod_id, 4242), ())]
    async with engine.running():
        assert await engine.run(pods.RunPod(config)) == pod_id


async def test_what_recovery_ends_is_reaped_when_recovery_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(tmp_path)
    kernel = engine.kernel
    async with engine.running():
        step = (await engine.run(commands.Create("step", ContainerConfig(engine.image, command=("sleep",))))).id
        await engine.run(commands.Start(step))
        engine.daemon.containers.save(replace(await engine.inspect(step), transient=True))
    threads: set[int] = set()
    other = threading.Event()

    def remove_pod(pod_id: str) -> None:
        threads.add(threading.get_ident())
        if len(threads) > 1:
            other.set()
        kernel.tell(pod_id, pod_id, ExitStatus(137, 1, reason="Error"))
        # Who reaped it meanwhile would remove the pod, too.
        other.wait(0.3)

    monkeypatch.setattr(kernel, "remove_pod", remove_pod)
    kernel.left_over = [PodStatus(Pod(step, 4242), (ContainerStatus(step, 77, 1),))]
    async with engine.running():
        assert await engine.run(commands.ListContainers(all=True)) == []
    assert len(threads) == 1
