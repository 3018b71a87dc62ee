"""The exec driver `native` on the real kernel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from moorage.server.errors import FailedPrecondition, Internal, Unavailable, Unimplemented
from moorage.server.execdriver.base import AttachSpec, ContainerSpec, Pod, PodSpec
from moorage.server.execdriver.native_channel import call, connect
from moorage.server.libcontainer import cgroups
from moorage.server.libcontainer.seccomp_default import default_profile
from moorage.server.networkdriver.base import InterfaceConfig
from moorage.server.supervisor.protocol import STDOUT, VERSION, Channel, pack_data, pack_message
from tests.contract.execbox import alive, read_all, run_pod, until
from tests.contract.execdriver import ExecDriverContract
from tests.nativebox import NativeBox, box, children, supervisor, title

pytestmark = pytest.mark.kernel

__all__ = ["box"]


class TestContract(ExecDriverContract):
    """What every exec driver does."""


def open_kinds(pid: int) -> Counter[str]:
    files = sorted(os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir())
    # Those who learn what supervisors write to hold that until a container runs.
    return Counter(path.partition(":")[0] for path in files if not path.endswith("/pagemap"))


async def test_a_supervisor_keeps_nothing_of_daemon_and_spawner(box: NativeBox) -> None:
    pod = await box.pod()
    pid, directory = supervisor(pod), str(box.state / "pods" / pod.id)
    assert pid != pod.pid
    # Its watch, its listening socket, those to its keeper and to the process forked ahead, whose pidfd is beside the epoll; both ends
    # of the pipe that SIGCHLD writes to.
    assert open_kinds(pid) == {"socket": 4, "pipe": 2, "/dev/null": 3, "anon_inode": 2, directory: 1}
    assert open_kinds(pod.pid) == {"socket": 1, "/dev/null": 3}
    assert os.readlink(f"/proc/{pod.pid}/cwd") == os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pod.pid) == pod.pid
    assert title(pid) == f"moorage-supervisor {pod.id[:12]}"


@pytest.mark.parametrize("box", [0.0], indirect=True)
async def test_a_quiet_pod_is_left_to_its_keeper(box: NativeBox) -> None:
    pod = await box.pod(shm_size=1 << 20)
    spec = box.spec("sh", "-c", "trap 'echo end; exit 3' TERM; while :; do sleep 0.1; done")
    started = await box.start(pod, spec)
    await until(lambda: title(pod.pid) == f"moorage-supervisor {pod.id[:12]}")
    assert started.pid in children(pod.pid)
    assert supervisor(pod) == pod.pid
    # The pod's watch and its listening socket, its /dev/shm, the container's log and output; and the wait for all that.
    files = Counter({"socket": 2, "pipe": 4, "/dev/null": 3, "anon_inode": 2, "/": 1, spec.log_path: 1})
    assert open_kinds(pod.pid) == files + Counter([str(box.state / "pods" / pod.id)])
    assert call(box.state / "pods" / pod.id, {"op": "status"})["pid"] == pod.pid
    box.driver.signal(pod.id, spec.id, signal.SIGTERM)
    assert (await box.exit(spec)).exit_code == 3
    assert box.logged(spec) == b"end\n"


@pytest.mark.parametrize("box", [0.0], indirect=True)
async def test_an_end_that_nobody_saw_is_seen_by_the_keeper(box: NativeBox) -> None:
    for _ in range(5):
        # As it hands over, or shortly before or after.
        _pod, spec, _started = await box.run("sh", "-c", "sleep 0.05; exit 4")
        assert (await box.exit(spec)).exit_code == 4


@pytest.mark.parametrize("victim", ["supervisor", "keeper"])
@pytest.mark.parametrize("box", [60.0], indirect=True)
async def test_keeper_and_supervisor_end_together(box: NativeBox, victim: str) -> None:
    pod, spec, started = await box.run("sleep", "100")
    pids = {"supervisor": supervisor(pod), "keeper": pod.pid}
    os.kill(pids[victim], signal.SIGKILL)
    status = await box.exit(spec)
    assert status.reason == "Unknown"
    await until(lambda: not any(alive(pid) for pid in (*pids.values(), started.pid)))


async def test_files_are_for_root_only(box: NativeBox) -> None:
    pod, _spec, _started = await box.run("sleep", "100")
    directory = box.state / "pods" / pod.id
    assert directory.stat().st_mode & 0o777 == 0o700
    assert directory.parent.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in directory.iterdir())


async def test_containers_live_through_a_new_daemon(box: NativeBox) -> None:
    pod, runs, started = await box.run("sh", "-c", "while :; do echo x; sleep 0.01; done")
    ends = box.spec("sh", "-c", "sleep 0.3; echo end; exit 12")
    await box.start(pod, ends)
    await box.daemon_dies()
    await asyncio.sleep(0.6)
    await box.daemon_starts()
    (status,) = await box.driver.recover()
    assert status.pod == pod
    found = {container.id: container for container in status.containers}
    assert (found[runs.id].pid, found[runs.id].started_ns, found[runs.id].exit) == (
        started.pid,
        started.started_ns,
        None,
    )
    ended = found[ends.id].exit
    assert ended is not None
    assert ended.exit_code == 12
    assert box.logged(ends) == b"end\n"
    size = len(box.logged(runs))
    await until(lambda: len(box.logged(runs)) > size)
    await asyncio.to_thread(box.driver.kill, pod.id, runs.id)
    assert (await box.exit(runs)).exit_code == 137
    assert ends.id not in box.exits


async def killed_supervisor(box: NativeBox) -> tuple[ContainerSpec, int]:
    """A container whose supervisor is killed, and its pid."""
    pod, spec, started = await box.run("sh", "-c", "sleep 100 & sleep 100")
    os.kill(pod.pid, signal.SIGKILL)
    await until(lambda: not alive(pod.pid))
    return spec, started.pid


async def test_containers_of_a_killed_supervisor_are_killed_and_told(box: NativeBox) -> None:
    spec, pid = await killed_supervisor(box)
    status = await box.exit(spec)
    assert (status.exit_code, status.reason) == (255, "Unknown")
    assert "died" in status.error
    assert not alive(pid)
    assert spec.id not in cgroups.detect().children(box.cgroup)
    with pytest.raises(Unavailable, match="died"):
        await asyncio.to_thread(box.driver.signal, box.pods[0], spec.id, 15)


async def test_streams_of_a_killed_supervisor_end(box: NativeBox) -> None:
    pod, spec, _started = await box.run("sleep", "100")
    attached = await box.driver.attach(pod.id, spec.id, AttachSpec())
    executed = await box.exec(pod, spec, "sleep", "100")
    os.kill(pod.pid, signal.SIGKILL)
    assert (await read_all(attached))[2].reason == "Unknown"
    # Killed with its container.
    assert (await read_all(executed))[2].exit_code == 128 + signal.SIGKILL
    for stream in (attached, executed):
        await stream.close()
    await box.exit(spec)


async def test_a_supervisor_killed_while_no_daemon_runs(box: NativeBox) -> None:
    pod, spec, started = await box.run("sleep", "100")
    ended = box.spec("sh", "-c", "exit 3")
    await box.start(pod, ended)
    await box.exit(ended)
    await box.daemon_dies()
    os.kill(pod.pid, signal.SIGKILL)
    await until(lambda: not alive(pod.pid))
    assert alive(started.pid)
    await box.daemon_starts()
    for _again in range(2):
        (status,) = await box.driver.recover()
        codes = {container.id: container.exit.exit_code for container in status.containers if container.exit}
        assert codes == {spec.id: 255, ended.id: 3}
        assert not alive(started.pid)
    assert status.pod.pid == 0
    await asyncio.to_thread(box.driver.remove_pod, pod.id)
    await asyncio.sleep(0)
    assert box.exits == {}
    assert await box.driver.recover() == []


async def test_a_supervisor_that_hangs_can_be_removed(box: NativeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorage.server.execdriver.native.END_SECONDS", 0.2)
    monkeypatch.setattr("moorage.server.execdriver.native.ANSWER_SECONDS", 0.2)
    pod, spec, started = await box.run("sleep", "100")
    os.kill(supervisor(pod), signal.SIGSTOP)
    with pytest.raises(Unavailable, match="does not answer"):
        await asyncio.to_thread(box.driver.signal, pod.id, spec.id, 15)
    await asyncio.to_thread(box.driver.remove_pod, pod.id)
    assert not alive(pod.pid)
    assert not alive(started.pid)
    assert (await box.exit(spec)).exit_code == 255


async def test_a_killed_spawner_is_replaced(box: NativeBox) -> None:
    pod, spec, _started = await box.run("sleep", "100")
    box.spawner.prime(default_profile(frozenset()))
    os.kill(box.spawner.pid, signal.SIGKILL)
    _other, more, _more_started = await box.run("true")
    assert (await box.exit(more)).exit_code == 0
    stream = await box.exec(pod, spec, "echo", "still here")
    assert (await read_all(stream))[0] == b"still here\n"
    await stream.close()


async def test_a_filter_given_with_the_config_is_loaded(box: NativeBox) -> None:
    box.spawner.prime(default_profile(frozenset()))
    pod, spec = await box.pod(), box.spec("cat", "/proc/self/status")
    spec.config["linux"]["seccomp"] = default_profile(frozenset())
    await box.start(pod, spec)
    await box.exit(spec)
    assert b"Seccomp:\t2\n" in box.logged(spec)


async def test_an_exit_is_in_a_file(box: NativeBox) -> None:
    pod, spec, started = await box.run("sh", "-c", "exit 8")
    await box.exit(spec)
    content = json.loads((box.state / "pods" / pod.id / f"{spec.id}.exit.json").read_text())
    assert content["exit"]["exit_code"] == 8
    assert (content["pid"], content["started_ns"]) == (started.pid, started.started_ns)


async def test_the_log_goes_on_in_a_new_file(box: NativeBox) -> None:
    pod, spec, _started = await box.run("sh", "-c", "while :; do echo x; sleep 0.01; done")
    path = Path(spec.log_path)
    await until(lambda: box.logged(spec) != b"")
    path.rename(path.with_name("old"))
    await asyncio.to_thread(box.driver.reopen_log, pod.id, spec.id)
    await until(lambda: box.logged(spec) != b"")


async def test_the_log_of_what_has_ended_is_not_opened_again(box: NativeBox) -> None:
    """Its descriptor may be another container's by now."""
    pod, first, _started = await box.run("true")
    await box.exit(first)
    second = box.spec("sh", "-c", "while read line; do echo $line; done", stdin_open=True)
    await box.start(pod, second)
    attached = await box.driver.attach(pod.id, second.id, AttachSpec(stdin=True))
    with pytest.raises(FailedPrecondition, match="is not running"):
        await asyncio.to_thread(box.driver.reopen_log, pod.id, first.id)
    await attached.write(b"goes on\n")
    await until(lambda: box.logged(second) == b"goes on\n")
    await attached.close()


async def test_output_held_outside_does_not_hold_the_exit(box: NativeBox) -> None:
    pod, spec, started = await box.run("sh", "-c", "echo out; sleep 0.3; exit 1")
    # Another process's hold on the container's stdout, as one that was passed it over a socket has.
    fd = os.open(f"/proc/{started.pid}/fd/1", os.O_WRONLY)
    try:
        assert (await box.exit(spec)).exit_code == 1
    finally:
        os.close(fd)
    assert box.logged(spec) == b"out\n"
    assert pod.pid


async def test_cycles_leave_processes_and_descriptors_as_they_were(box: NativeBox) -> None:
    async def cycle() -> None:
        pod, spec, _started = await box.run("cat", stdin_open=True)
        stream = await box.driver.attach(pod.id, spec.id, AttachSpec(stdin=True))
        executed = await box.exec(pod, spec, "true")
        assert (await read_all(executed))[2].exit_code == 0
        await executed.close()
        await stream.close()
        await asyncio.to_thread(box.driver.remove_pod, pod.id)

    await cycle()
    await asyncio.sleep(0.1)
    files, children = len(os.listdir("/proc/self/fd")), spawned(box)
    for _number in range(50):
        await cycle()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= files and spawned(box) == children)


def spawned(box: NativeBox) -> int:
    pid = box.spawner.pid
    return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


async def test_other_versions_and_unknown_operations_are_refused(box: NativeBox) -> None:
    pod = await box.pod()
    directory = box.state / "pods" / pod.id
    with pytest.raises(Unimplemented, match="'nonsense'"):
        await asyncio.to_thread(call, directory, {"op": "nonsense"})
    with contextlib.closing(Channel(connect(directory))) as channel:
        channel.send({"op": "status", "version": 0})
        frame = await asyncio.to_thread(channel.receive)
        assert frame is not None
        assert "speaks version" in frame.message["error"]["message"]
        assert await asyncio.to_thread(channel.receive) is None


async def test_nonsense_on_a_socket_does_not_hurt_the_pod(box: NativeBox) -> None:
    pod, spec, _started = await box.run("sleep", "100")
    directory = box.state / "pods" / pod.id
    for wire in (
        b"\xff" * 100,
        pack_data(STDOUT, b"x"),
        pack_message({"op": "exec", "version": VERSION}),
        pack_message({"op": "start", "id": 1, "version": VERSION}),
    ):
        with connect(directory) as sock:
            sock.sendall(wire)
            sock.settimeout(0.2)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                sock.recv(1000)
    stream = await box.exec(pod, spec, "true")
    assert (await read_all(stream))[2].exit_code == 0
    await stream.close()


async def test_an_interface_is_configured_inside(box: NativeBox) -> None:
    pod, spec, _started = await box.run("sleep", "100")
    host = f"mveth{pod.id[:8]}"
    command = ["ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", str(pod.pid)]
    subprocess.run(command, check=True)
    config = InterfaceConfig("eth0", "10.199.7.2/20", "10.199.0.1", 1400)
    await asyncio.to_thread(box.driver.configure_network, pod, [config])
    stream = await box.exec(pod, spec, "sh", "-c", "ip addr show dev eth0; ip route")
    text = (await read_all(stream))[0].decode()
    await stream.close()
    assert "inet 10.199.7.2/20 brd 10.199.15.255" in text
    assert "mtu 1400" in text
    assert "default via 10.199.0.1 dev eth0" in text
    for wrong in (InterfaceConfig("eth9", "10.0.0.1/8", "", 0), InterfaceConfig("eth0", "nonsense", "", 0)):
        with pytest.raises(Internal):
            await asyncio.to_thread(box.driver.configure_network, pod, [wrong])


def descriptors(pid: int) -> Iterator[str]:
    """What a process holds open, while it opens and closes more."""
    for path in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(path)


async def test_a_pod_of_the_same_id_waits_until_the_earlier_one_holds_no_mounts(box: NativeBox) -> None:
    """A container that is started again mounts its root again, and must find it unmounted."""
    identity = uuid4().hex
    box.pods.append(identity)
    spec = replace(box.spec("sleep", "100"), id=identity)
    for _ in range(5):
        holder = supervisor(await stopped(box, spec))
        await asyncio.to_thread(box.driver.remove_pod, identity)
        await asyncio.to_thread(run_pod, box.driver, PodSpec(identity, "box"))
        assert not alive(holder)
        await asyncio.to_thread(box.driver.remove_pod, identity)


async def stopped(box: NativeBox, spec: ContainerSpec) -> Pod:
    """A pod that still holds the mounts of its container, of the same ID, which has run and been killed."""
    pod = await asyncio.to_thread(run_pod, box.driver, PodSpec(spec.id, "box"))
    started = await box.start(pod, spec)
    namespace = os.readlink(f"/proc/{started.pid}/ns/mnt")
    await asyncio.to_thread(box.driver.stop_pod, pod.id)
    await until(lambda: not alive(started.pid) and namespace in descriptors(supervisor(pod)))
    return pod
