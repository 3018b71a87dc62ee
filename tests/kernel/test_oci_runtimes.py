"""Containers that an OCI runtime makes for us: the contract of exec drivers over runc and crun, and what is special about them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moorage.server.errors import FailedPrecondition, Unavailable
from moorage.server.execdriver.base import AttachSpec, ContainerSpec, Pod
from moorage.server.execdriver.mounts import id_mappings
from moorage.server.execdriver.native import NativeDriver
from moorage.server.execdriver.runtimeoptions import OciRuntime
from moorage.server.libcontainer import cgroups
from moorage.server.model import IdMap
from tests.contract.execbox import alive, read_all, until
from tests.contract.execdriver import ExecDriverContract
from tests.nativebox import NativeBox, ready_spawner

pytestmark = pytest.mark.kernel

CRUN = """#!/bin/sh
# crun refuses a host with cgroups of both versions, so that it does not see those of version 2 that have no controllers.
[ -e /sys/fs/cgroup/unified ] || exec {path} "$@"
exec unshare --mount --propagation private sh -c 'umount /sys/fs/cgroup/unified && exec {path} "$@"' crun "$@"
"""


class OciBox(NativeBox):
    """A NativeBox whose containers an OCI runtime makes."""

    def __init__(self, directory: Path, runtime: OciRuntime) -> None:
        self.runtime = runtime
        # Pods go to their keepers as soon as they can.
        super().__init__(directory, 0.0)
        self.driver = self.new_driver()

    def new_driver(self) -> NativeDriver:
        return NativeDriver(self.state, self.spawner, [self.runtime])

    async def daemon_starts(self) -> None:
        self.exits.clear()
        self.spawner = ready_spawner(self.patience)
        self.driver = self.new_driver()
        await self.open()

    def spec(self, *command: str, memory: int = 0, **settings: Any) -> ContainerSpec:
        return super().spec(*command, memory=memory, runtime=self.runtime.name, **settings)


def runtime_of(name: str, directory: Path) -> OciRuntime:
    """The host's runtime of that name."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}")
    if name == "crun":
        script = directory / "crun"
        script.write_text(CRUN.format(path=path))
        script.chmod(0o755)
        path = os.fspath(script)
    return OciRuntime(name, path)


@pytest.fixture
async def box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OciBox]:
    """With runc, or what `box` is parametrized with."""
    box = OciBox(tmp_path, runtime_of(getattr(request, "param", "runc"), tmp_path))
    await box.open()
    yield box
    await box.close()


def scripted(tmp_path: Path, command: str, does: str) -> OciRuntime:
    """A runc that, for one of its commands, executes something else."""
    script = tmp_path / "runtime"
    path = runtime_of("runc", tmp_path).path
    script.write_text(f'#!/bin/sh\nfor word; do [ "$word" = {command} ] && {does}\ndone\nexec {path} "$@"\n')
    script.chmod(0o755)
    return OciRuntime("scripted", os.fspath(script))


@pytest.mark.slow
@pytest.mark.parametrize("box", ["runc", "crun"], indirect=True)
class TestContract(ExecDriverContract):
    """What every exec driver does."""


def files(box: OciBox, pod: Pod) -> set[str]:
    """What there is in a pod's directory besides what every pod has, and the runtime's own, which is empty."""
    directory = box.state / "pods" / pod.id
    state = directory / "oci"
    assert not state.exists() or os.listdir(state) == []
    return {path.name for path in directory.iterdir()} - {"supervisor.sock", "oci"}


async def run_in(box: OciBox, pod: Pod, spec: ContainerSpec, *command: str, **settings: str) -> tuple[bytes, int]:
    stream = await box.exec(pod, spec, *command, **settings)
    out, _err, status = await read_all(stream)
    await stream.close()
    return out, status.exit_code


@pytest.mark.parametrize("box", ["runc", "crun"], indirect=True)
async def test_a_container_from_its_start_to_its_end(box: OciBox) -> None:
    pod, spec, started = await box.run("sh", "-c", "echo $HOME; cat /proc/self/mounts; read x; exit 6", stdin_open=True)
    assert str(box.directory) not in Path("/proc/self/mountinfo").read_text()
    assert str(box.state) not in Path(f"/proc/{started.pid}/mountinfo").read_text()
    for kind in ("net", "ipc", "uts"):
        assert os.readlink(f"/proc/{started.pid}/ns/{kind}") == os.readlink(f"/proc/{pod.pid}/ns/{kind}")
    assert await run_in(box, pod, spec, "sh", "-c", "echo $HOME; exit 3", username="user:root") == (b"/\n", 3)
    attached = await box.driver.attach(pod.id, spec.id, AttachSpec(stdin=True))
    await attached.write(b"end\n")
    assert (await read_all(attached))[2].exit_code == 6
    await attached.close()
    assert (await box.exit(spec)).exit_code == 6
    assert box.logged(spec).startswith(b"/\n")
    assert files(box, pod) == {f"{spec.id}.json", f"{spec.id}.exit.json"}


async def test_what_cannot_be_executed(box: OciBox) -> None:
    pod, spec, _started = await box.run("sleep", "100")
    for command, code in (("/bin/nonsense", 127), ("nonsense", 127), ("/etc/passwd", 126), ("/bin", 126)):
        other = box.spec(command)
        with pytest.raises(FailedPrecondition, match="OCI runtime runc: ") as started:
            await box.start(pod, other)
        assert started.value.metadata["exit_code"] == str(code)
        assert other.id not in cgroups.detect().children(box.cgroup)
        with pytest.raises(FailedPrecondition, match="OCI runtime runc: ") as executed:
            await box.exec(pod, spec, command)
        assert executed.value.metadata["exit_code"] == str(code)
    await asyncio.to_thread(box.driver.remove_container, pod.id, spec.id)
    assert files(box, pod) == set()


@pytest.mark.slow
async def test_a_user_that_is_not_there(box: OciBox) -> None:
    pod = await box.pod()
    with pytest.raises(FailedPrecondition, match="unable to find user nobody") as caught:
        await box.start(pod, box.spec("true", username="nobody"))
    assert caught.value.metadata["exit_code"] == "126"
    assert files(box, pod) == set()


@pytest.mark.slow
@pytest.mark.parametrize("users", [(), (IdMap(0, 100_000, 65536),)], ids=["plain", "mapped"])
@pytest.mark.parametrize("box", ["runc", "crun"], indirect=True)
async def test_a_directory_of_the_host_is_shown_and_not_changed(box: OciBox, users: tuple[IdMap, ...]) -> None:
    shown = box.directory / "shown"
    shown.mkdir()
    (shown / "file").write_text("of the host\n")
    pod = await box.pod(users=users, groups=users)
    spec = box.spec("sh", "-c", "cat /a/file /f; echo x >/a/new; echo x >/f")
    spec.config["linux"]["uidMappings"] = spec.config["linux"]["gidMappings"] = id_mappings(users)
    if users:
        # Configs name IDs as they are outside.
        terminals = next(mount for mount in spec.config["mounts"] if mount["destination"] == "/dev/pts")
        terminals["options"] = ["newinstance", "ptmxmode=0666", "mode=0620", "gid=100005"]
    for destination, source in (("/a", shown), ("/f", shown / "file")):
        options = ["rbind", "ro", "rro", "rprivate"]
        spec.config["mounts"].append({"destination": destination, "source": os.fspath(source), "options": options})
    await box.start(pod, spec)
    assert (await box.exit(spec)).exit_code == 1
    assert box.logged(spec) == b"of the host\n" * 2
    assert box.logged(spec, "stderr").count(b"Read-only file system") == 2
    assert [path.name for path in shown.iterdir()] == ["file"]


@pytest.mark.slow
async def test_a_pid_namespace_is_shared(box: OciBox) -> None:
    pod, first = await box.pod(), box.spec("sleep", "1000", pid="pod")
    await box.start(pod, first)
    second = box.spec("sh", "-c", "grep -l sleep /proc/[0-9]*/comm | wc -l", pid="pod")
    await box.start(pod, second)
    assert (await box.exit(second)).exit_code == 0
    assert box.logged(second) == b"1\n"


async def test_a_new_daemon_goes_on(box: OciBox) -> None:
    pod, spec, started = await box.run("sh", "-c", "while :; do sleep 0.1; done")
    await box.daemon_dies()
    await box.daemon_starts()
    (status,) = await box.driver.recover()
    assert [container.pid for container in status.containers] == [started.pid]
    assert await run_in(box, pod, spec, "echo", "on") == (b"on\n", 0)
    await asyncio.to_thread(box.driver.kill, pod.id, spec.id)
    assert (await box.exit(spec)).exit_code == 137


async def test_a_killed_supervisor_leaves_nothing(tmp_path: Path) -> None:
    """Of a runtime that has its state in a place of its own, too."""
    box = OciBox(tmp_path, replace(runtime_of("runc", tmp_path), root=os.fspath(tmp_path / "state of runc")))
    await box.open()
    pod, spec, started = await box.run("sh", "-c", "sleep 100 & sleep 100")
    assert os.listdir(box.runtime.root) == [spec.id]
    os.kill(pod.pid, signal.SIGKILL)
    assert (await box.exit(spec)).reason == "Unknown"
    assert not alive(started.pid)
    assert os.listdir(box.runtime.root) == []
    assert spec.id not in cgroups.detect().children(box.cgroup)
    await asyncio.to_thread(box.driver.remove_pod, pod.id)
    assert os.listdir(box.state / "pods") == []
    await box.close()


async def test_a_supervisor_that_is_killed_while_a_runtime_works_takes_it_along(tmp_path: Path) -> None:
    box = OciBox(tmp_path, scripted(tmp_path, "create", "exec sleep 12345"))
    await box.open()
    pod, spec = await box.pod(), box.spec("true")
    starting = asyncio.create_task(box.start(pod, spec))
    await until(lambda: sleepers() != [])
    (runtime,) = sleepers()
    os.kill(pod.pid, signal.SIGKILL)
    with pytest.raises(Unavailable):
        await starting
    await until(lambda: not alive(runtime))
    await asyncio.to_thread(box.driver.remove_pod, pod.id)
    assert spec.id not in cgroups.detect().children(box.cgroup)
    assert os.listdir(box.state / "pods") == []
    await box.close()


def sleepers() -> list[int]:
    """Processes that execute what a scripted runtime executes instead."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes() == b"sleep\x0012345\x00":
                found.append(int(path.parent.name))
    return found


async def test_an_exec_that_hangs_in_the_runtime_holds_nobody_else(tmp_path: Path) -> None:
    box = OciBox(tmp_path, scripted(tmp_path, "exec", "exec sleep 12345"))
    await box.open()
    pod, spec, _started = await box.run("sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")
    executing = asyncio.create_task(box.exec(pod, spec, "true"))
    await until(lambda: sleepers() != [] and box.logged(spec) == b"up\n")
    await asyncio.to_thread(box.driver.signal, pod.id, spec.id, signal.SIGTERM)
    assert (await box.exit(spec)).exit_code == 9
    await asyncio.to_thread(box.driver.remove_pod, pod.id)
    with pytest.raises(Unavailable):
        await executing
    await until(lambda: sleepers() == [])
    await box.close()


@pytest.mark.slow
async def test_a_command_that_has_ended_before_the_runtime_says_so(tmp_path: Path) -> None:
    box, go = slow_exec(tmp_path)
    await box.open()
    pod, spec, _started = await box.run("sleep", "1000")
    executing = asyncio.create_task(run_in(box, pod, spec, "sh", "-c", "echo said >/said; echo out; exit 5"))
    await until((box.directory / "rootfs" / "said").exists)
    go.touch()
    assert await executing == (b"out\n", 5)
    await box.close()


@pytest.mark.slow
async def test_who_goes_before_the_runtime_is_done_takes_the_command_along(tmp_path: Path) -> None:
    box, go = slow_exec(tmp_path)
    await box.open()
    pod, spec, _started = await box.run("sleep", "1000")
    executing = asyncio.create_task(box.exec(pod, spec, "sleep", "12345"))
    await until(lambda: sleepers() != [])
    executing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await executing
    go.touch()
    await until(lambda: sleepers() == [])
    assert await run_in(box, pod, spec, "echo", "on") == (b"on\n", 0)
    await box.close()


def slow_exec(tmp_path: Path) -> tuple[OciBox, Path]:
    """A box whose runtime has started a command and does not end before there is a file of this name."""
    go = tmp_path / "go"
    path = runtime_of("runc", tmp_path).path
    waits = f'{{ {path} "$@"; code=$?; until [ -e {go} ]; do sleep 0.05; done; exit $code; }}'
    return OciBox(tmp_path, scripted(tmp_path, "exec", waits)), go


async def test_a_runtime_that_is_not_there(box: OciBox, tmp_path: Path) -> None:
    pod, spec = await box.pod(), box.spec("true")
    box.driver._runtimes["runc"] = OciRuntime("runc", os.fspath(tmp_path / "gone"))
    with pytest.raises(FailedPrecondition, match="gone is not there") as caught:
        await box.start(pod, spec)
    assert caught.value.metadata["exit_code"] == "128"
    assert files(box, pod) == set()
    del box.driver._runtimes["runc"]
    with pytest.raises(FailedPrecondition, match="not configured any more"):
        await box.start(pod, spec)
