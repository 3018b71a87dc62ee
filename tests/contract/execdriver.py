"""What every exec driver does, as tests to inherit: `class TestMine(ExecDriverContract)` with a fixture `box` that has the driver.

The containers run busybox from a directory that is bound as their root file system.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from moorage.server.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from moorage.server.execdriver.base import (
    AttachSpec,
    ExecSpec,
    Output,
    PodSpec,
)
from moorage.server.libcontainer import cgroups
from moorage.server.model import LogConfig
from tests.contract.execbox import Box, alive, read_all, read_until, run_pod, until


def is_gone(box: Box, container_id: str) -> bool:
    """Whether nothing is left of a container's cgroup."""
    return container_id not in cgroups.detect().children(box.cgroup)


class ExecDriverContract:
    """The behaviour of `server/execdriver/base.py`."""

    async def test_runs_a_command_logs_what_it_says_and_tells_its_end(self, box: Box) -> None:
        _pod, spec, started = await box.run("sh", "-c", "echo out; echo err >&2; printf tail; exit 3")
        assert started.pid > 0
        status = await box.exit(spec)
        assert (status.exit_code, status.reason, status.oom_killed) == (3, "Error", False)
        assert status.finished_ns >= started.started_ns
        assert box.logged(spec) == b"out\ntail"
        assert box.logged(spec, "stderr") == b"err\n"

    async def test_a_good_end_is_completed(self, box: Box) -> None:
        _pod, spec, _started = await box.run("true")
        status = await box.exit(spec)
        assert (status.exit_code, status.reason) == (0, "Completed")

    async def test_stages_are_told(self, box: Box) -> None:
        stages: list[str] = []
        pod, spec = await box.pod(), box.spec("true")
        await box.start(pod, spec, lambda name, _at_ns=0: stages.append(name))
        assert len(stages) > 1
        await box.exit(spec)

    async def test_a_pod_has_namespaces_of_its_own(self, box: Box) -> None:
        pod, spec, _started = await box.run("sh", "-c", "hostname; ip link show lo; ls /proc/self/fd")
        await box.exit(spec)
        text = box.logged(spec).decode()
        assert text.startswith("box\n")
        assert "LOOPBACK,UP" in text
        for kind in ("net", "ipc", "uts"):
            assert os.stat(f"/proc/{pod.pid}/ns/{kind}").st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino
        assert os.stat(f"/proc/{pod.pid}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino

    async def test_only_the_named_namespaces_are_new(self, box: Box) -> None:
        pod = await box.pod(namespaces=frozenset({"uts"}))
        assert os.stat(f"/proc/{pod.pid}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
        with pytest.raises(FailedPrecondition, match="no network namespace"):
            await asyncio.to_thread(box.driver.configure_network, pod, [])

    async def test_sysctls_are_the_pods_own_or_refused(self, box: Box) -> None:
        path = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        before = path.read_text()
        pod = await box.pod(sysctls={"net.ipv4.ip_unprivileged_port_start": "7"})
        spec = box.spec("cat", os.fspath(path))
        await box.start(pod, spec)
        await box.exit(spec)
        assert (box.logged(spec), path.read_text()) == (b"7\n", before)
        for name in ("kernel.core_pattern", "net/../kernel/core_pattern", "vm.swappiness", "net.ipv4.no_such_thing"):
            with pytest.raises(InvalidArgument, match="sysctl"):
                await box.pod(sysctls={name: "1"})

    async def test_a_pod_id_is_taken_once(self, box: Box) -> None:
        pod = await box.pod()
        with pytest.raises(AlreadyExists):
            await asyncio.to_thread(run_pod, box.driver, PodSpec(pod.id, "again"))

    async def test_a_pod_is_removed_before_anybody_has_waited_for_it(self, box: Box) -> None:
        def change_of_mind(spec: PodSpec) -> None:
            box.driver.order_pod(spec)
            box.driver.remove_pod(spec.id)

        for _ in range(5):
            await asyncio.to_thread(change_of_mind, PodSpec("changed-mind", "box"))
        pod = await asyncio.to_thread(run_pod, box.driver, PodSpec("changed-mind", "box"))
        assert alive(pod.pid)
        await asyncio.to_thread(box.driver.remove_pod, pod.id)
        await until(lambda: not alive(pod.pid))

    async def test_unknown_pods_and_containers(self, box: Box) -> None:
        pod = await box.pod()
        for pod_id in ("nonsense", pod.id):
            with pytest.raises(NotFound):
                await asyncio.to_thread(box.driver.signal, pod_id, "nonsense", 15)
            with pytest.raises(NotFound):
                await box.driver.exec(pod_id, "nonsense", ExecSpec(box.process("true")))
        with pytest.raises(NotFound):
            await asyncio.to_thread(box.driver.start, "nonsense", box.spec("true"), lambda _name, _at_ns=0: None)
        await asyncio.to_thread(box.driver.remove_pod, "nonsense")

    async def test_a_command_waits_for_what_is_done_meanwhile(self, box: Box) -> None:
        """Also when the container is the second of its pod, which is started in another way."""
        pod = await box.pod()
        for _ in range(2):
            spec = box.spec("cat", "/tmp/meanwhile")
            note = box.directory / "rootfs" / "tmp" / "meanwhile"

            def write(note: Path = note) -> None:
                time.sleep(0.3)
                note.write_text("done")

            await box.start(pod, spec, meanwhile=write)
            assert (await box.exit(spec)).exit_code == 0
            assert box.logged(spec) == b"done"
            note.unlink()

    async def test_nothing_runs_when_what_is_done_meanwhile_fails(self, box: Box) -> None:
        pod = await box.pod()
        for _ in range(2):
            spec = box.spec("sh", "-c", "echo >/tmp/ran")

            def fail() -> None:
                raise ResourceExhausted("no address is left")

            with pytest.raises(ResourceExhausted, match="no address"):
                await box.start(pod, spec, meanwhile=fail)
            await until(functools.partial(is_gone, box, spec.id))
            assert not (box.directory / "rootfs" / "tmp" / "ran").exists()
        assert spec.id not in box.exits
        again = box.spec("true")
        await box.start(pod, again)
        assert (await box.exit(again)).exit_code == 0

    async def test_a_command_that_fails_meanwhile(self, box: Box) -> None:
        pod, done = await box.pod(), threading.Event()

        def finish() -> None:
            time.sleep(0.3)
            done.set()

        with pytest.raises(FailedPrecondition, match="nonsense"):
            await box.start(pod, box.spec("/bin/nonsense"), meanwhile=finish)
        assert done.is_set()

    async def test_a_command_that_does_not_exist(self, box: Box) -> None:
        pod, spec = await box.pod(), box.spec("/bin/nonsense")
        waiting = await box.driver.attach(pod.id, spec.id, AttachSpec())
        with pytest.raises(FailedPrecondition) as caught:
            await box.start(pod, spec)
        assert caught.value.metadata["exit_code"] == "127"
        assert caught.value.metadata["errno"] == "2"
        assert "nonsense" in str(caught.value)
        with pytest.raises(FailedPrecondition, match="nonsense"):
            await waiting.read()
        await waiting.close()
        manager = cgroups.detect()
        assert spec.id not in manager.children(box.cgroup)
        assert spec.id not in box.exits
        again = box.spec("true")
        await box.start(pod, again)
        assert (await box.exit(again)).exit_code == 0

    async def test_a_command_that_may_not_run(self, box: Box) -> None:
        pod, spec = await box.pod(), box.spec("/etc/passwd")
        with pytest.raises(FailedPrecondition) as caught:
            await box.start(pod, spec)
        assert caught.value.metadata["exit_code"] == "126"

    async def test_a_container_can_run_again(self, box: Box) -> None:
        pod, spec, _started = await box.run("true")
        await box.exit(spec)
        await box.start(pod, spec)
        await until(lambda: len(box.exits[spec.id]) == 2)

    async def test_signal_and_kill(self, box: Box) -> None:
        pod, spec, _started = await box.run("sh", "-c", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done")
        await until(lambda: box.logged(spec) == b"ready\n")
        await asyncio.to_thread(box.driver.signal, pod.id, spec.id, signal.SIGUSR1)
        assert (await box.exit(spec)).exit_code == 7
        await asyncio.to_thread(box.driver.signal, pod.id, spec.id, signal.SIGUSR1)
        other = box.spec("sh", "-c", "sleep 100 & sleep 100")
        await box.start(pod, other)
        await asyncio.to_thread(box.driver.kill, pod.id, other.id)
        assert (await box.exit(other)).exit_code == 137

    async def test_running_out_of_memory_is_told(self, box: Box) -> None:
        _pod, spec, _started = await box.run(
            "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1", memory=16 << 20
        )
        status = await box.exit(spec)
        assert (status.exit_code, status.oom_killed, status.reason) == (137, True, "OOMKilled")

    async def test_output_is_logged_also_of_who_holds_the_streams_on(self, box: Box) -> None:
        _pod, spec, _started = await box.run(
            "sh", "-c", "(while :; do echo x; sleep 0.01; done) & sleep 0.2; echo last"
        )
        assert (await box.exit(spec)).exit_code == 0
        assert b"last\n" in box.logged(spec)

    async def test_the_log_rotates(self, box: Box) -> None:
        log = LogConfig(max_size=200_000, max_files=2)
        _pod, spec, _started = await box.run("sh", "-c", "yes 0123456789 | head -n 20000", log=log)
        await box.exit(spec)
        path = Path(spec.log_path)
        assert sorted(each.name for each in path.parent.iterdir()) == ["log", "log.1"]
        assert all(each.stat().st_size <= 200_000 for each in path.parent.iterdir())

    async def test_stop_pod_ends_all_that_runs_and_what_would_start(self, box: Box) -> None:
        pod, spec, started = await box.run("sh", "-c", "sleep 100 & sleep 100")
        other = box.spec("sleep", "100")
        await box.start(pod, other)
        await asyncio.to_thread(box.driver.stop_pod, pod.id)
        assert {(await box.exit(each)).exit_code for each in (spec, other)} == {137}
        assert not alive(started.pid)
        with pytest.raises(FailedPrecondition, match="being stopped"):
            await box.start(pod, box.spec("true"))
        await asyncio.to_thread(box.driver.stop_pod, pod.id)
        await asyncio.to_thread(box.driver.stop_pod, "nonsense")

    async def test_remove_pod_leaves_nothing(self, box: Box) -> None:
        pod, spec, started = await box.run("sh", "-c", "sleep 100 & sleep 100")
        await asyncio.to_thread(box.driver.remove_pod, pod.id)
        assert not alive(started.pid)
        # The supervisor, which holds nothing any more, ends in its own time.
        await until(lambda: not alive(pod.pid))
        assert spec.id not in cgroups.detect().children(box.cgroup)
        assert (await box.exit(spec)).exit_code == 137
        with pytest.raises(NotFound):
            await box.driver.attach(pod.id, spec.id, AttachSpec())

    async def test_attached_before_the_start_misses_nothing(self, box: Box) -> None:
        size = 50 << 20
        pod = await box.pod()
        spec = box.spec("sh", "-c", f"yes 'some text' | head -c {size}; exit 4", log=LogConfig(max_size=0))
        stream = await box.driver.attach(pod.id, spec.id, AttachSpec(lossless=True))
        assert stream.pid == 0
        started = await box.start(pod, spec)
        digest, count = hashlib.sha256(), 0
        async with asyncio.timeout(60):
            while isinstance(item := await stream.read(), Output):
                digest.update(item.data)
                count += len(item.data)
        await stream.close()
        assert stream.pid == started.pid
        assert item.exit_code == 4
        wanted = (b"some text\n" * (size // 10 + 1))[:size]
        assert count == size
        assert digest.hexdigest() == hashlib.sha256(wanted).hexdigest()

    async def test_a_lossless_reader_holds_the_container(self, box: Box) -> None:
        pod = await box.pod()
        spec = box.spec("sh", "-c", "yes | head -c 5000000; echo done >&2")
        stream = await box.driver.attach(pod.id, spec.id, AttachSpec(lossless=True))
        await box.start(pod, spec)
        await asyncio.sleep(0.5)
        assert box.logged(spec, "stderr") == b""
        assert len(box.logged(spec)) < 2_000_000
        out, err, status = await read_all(stream)
        assert (len(out), err, status.exit_code) == (5_000_000, b"done\n", 0)
        await stream.close()

    async def test_a_slow_reader_is_cut_off(self, box: Box) -> None:
        pod = await box.pod()
        spec = box.spec("sh", "-c", "yes 0123456789012345678901234567890123456789 | head -c 5000000")
        stream = await box.driver.attach(pod.id, spec.id, AttachSpec())
        await box.start(pod, spec)
        assert (await box.exit(spec)).exit_code == 0
        with pytest.raises(ResourceExhausted, match="too slow"):
            await read_all(stream)
        await stream.close()
        assert len(box.logged(spec)) == 5_000_000

    async def test_a_reader_that_goes_lets_the_container_go_on(self, box: Box) -> None:
        pod = await box.pod()
        spec = box.spec("sh", "-c", "yes | head -c 5000000")
        stream = await box.driver.attach(pod.id, spec.id, AttachSpec(lossless=True))
        await box.start(pod, spec)
        await stream.read()
        await stream.close()
        assert (await box.exit(spec)).exit_code == 0

    async def test_output_outlives_the_pod(self, box: Box) -> None:
        pod = await box.pod()
        spec = box.spec("sh", "-c", "yes | head -c 400000")
        stream = await box.driver.attach(pod.id, spec.id, AttachSpec(lossless=True))
        await box.start(pod, spec)
        reading = asyncio.create_task(read_all(stream))
        await box.exit(spec)
        await asyncio.to_thread(box.driver.remove_pod, pod.id)
        out, _err, status = await reading
        assert (len(out), status.exit_code) == (400_000, 0)
        await stream.close()

    async def test_stdin_of_an_attached_container(self, box: Box) -> None:
        pod = await box.pod()
        spec = box.spec("cat", stdin_open=True, stdin_once=True)
        stream = await box.driver.attach(pod.id, spec.id, AttachSpec(stdin=True, lossless=True))
        data = os.urandom(3 << 20)

        async def give() -> None:
            await stream.write(b"before the start ")
            await stream.write(data)
            await stream.close_stdin()

        giving = asyncio.create_task(give())
        await box.start(pod, spec)
        out, _err, status = await read_all(stream)
        await giving
        assert out == b"before the start " + data
        assert status.exit_code == 0
        await stream.close()

    async def test_several_may_be_attached(self, box: Box) -> None:
        pod, spec, _started = await box.run("cat", stdin_open=True)
        one = await box.driver.attach(pod.id, spec.id, AttachSpec(stdin=True))
        two = await box.driver.attach(pod.id, spec.id, AttachSpec(stdin=True))
        await one.write(b"one\n")
        assert await read_until(two, b"one\n") == await read_until(one, b"one\n")
        await one.close_stdin()
        await one.close()
        await two.write(b"two\n")
        await read_until(two, b"two\n")
        await two.signal(signal.SIGKILL)
        assert (await read_all(two))[2].exit_code == 137
        await two.close()
        await two.close()

    async def test_attaching_too_late_is_told_the_end(self, box: Box) -> None:
        pod, spec, _started = await box.run("sh", "-c", "exit 9")
        await box.exit(spec)
        stream = await box.driver.attach(pod.id, spec.id, AttachSpec())
        assert (await read_all(stream))[2].exit_code == 9
        await stream.close()

    async def test_a_container_with_a_terminal(self, box: Box) -> None:
        pod = await box.pod()
        spec = box.spec(
            "sh", "-c", "stty size; read line; stty size; echo got $line >&2", terminal=True, stdin_open=True
        )
        stream = await box.driver.attach(pod.id, spec.id, AttachSpec(stdin=True, size=(91, 41)))
        await box.start(pod, spec)
        await read_until(stream, b"41 91")
        await stream.resize(120, 30)
        await stream.write(b"hello\n")
        out, err, status = await read_all(stream)
        assert b"30 120\r\n" in out
        assert b"got hello\r\n" in out
        assert (err, status.exit_code) == (b"", 0)
        await stream.close()
        assert box.logged(spec).endswith(b"got hello\r\n")

    async def test_exec_gives_output_and_end(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        stream = await box.exec(pod, spec, "sh", "-c", "echo out; echo err >&2; exit 5")
        assert alive(stream.pid) or stream.pid > 0
        out, err, status = await read_all(stream)
        assert (out, err, status.exit_code) == (b"out\n", b"err\n", 5)
        await stream.close()

    async def test_exec_as_a_user_can_write_to_its_streams(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        stream = await box.exec(pod, spec, "sh", "-c", "echo again > /proc/self/fd/1", username="user")
        out, _err, status = await read_all(stream)
        assert (out, status.exit_code) == (b"again\n", 0)
        await stream.close()

    async def test_exec_passes_stdin_until_it_is_closed(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        stream = await box.exec(pod, spec, "cat", stdin=True)
        data = os.urandom(2 << 20)

        async def give() -> None:
            await stream.write(data)
            await stream.close_stdin()
            await stream.write(b"dropped")

        giving = asyncio.create_task(give())
        out, _err, status = await read_all(stream)
        await giving
        assert (out, status.exit_code) == (data, 0)
        await stream.close()

    async def test_exec_without_stdin_reads_its_end(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        stream = await box.exec(pod, spec, "cat")
        assert (await read_all(stream))[2].exit_code == 0
        await stream.close()

    async def test_exec_with_a_terminal(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        stream = await box.exec(
            pod, spec, "sh", "-c", "echo ready; read x; stty size; exit 6", terminal=True, stdin=True
        )
        await read_until(stream, b"ready")
        await stream.resize(100, 50)
        await stream.write(b"go\n")
        out, _err, status = await read_all(stream)
        assert b"50 100\r\n" in out
        assert status.exit_code == 6
        await stream.close()

    async def test_exec_can_be_signalled(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        stream = await box.exec(pod, spec, "sleep", "100")
        await stream.signal(signal.SIGKILL)
        assert (await read_all(stream))[2].exit_code == 137
        await stream.close()

    async def test_exec_of_what_does_not_exist(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        with pytest.raises(FailedPrecondition) as caught:
            await box.exec(pod, spec, "/bin/nonsense")
        assert caught.value.metadata["exit_code"] == "127"

    async def test_exec_in_what_has_ended(self, box: Box) -> None:
        pod, spec, _started = await box.run("true")
        await box.exit(spec)
        with pytest.raises(FailedPrecondition, match="not running"):
            await box.exec(pod, spec, "true")

    async def test_closing_an_exec_kills_it_with_all_it_started(self, box: Box) -> None:
        pod, spec, started = await box.run("sleep", "100")
        command = "sleep 101 & sh -c 'sleep 102 & sleep 103' & echo ready; sleep 104"
        stream = await box.exec(pod, spec, "sh", "-c", command)
        await read_until(stream, b"ready")
        group = cgroups.detect().cgroup(f"{box.cgroup}/{spec.id}")
        await until(lambda: len(group.pids()) >= 5)
        await stream.close()
        await until(lambda: group.pids() == [started.pid])

    async def test_a_detached_exec_lives_on(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        stream = await box.exec(pod, spec, "sh", "-c", "sleep 0.3; echo yes > /tmp/done", detach=True)
        await stream.close()
        done = box.directory / "rootfs" / "tmp" / "done"
        await until(done.exists)

    async def test_an_exec_ends_with_its_container(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        stream = await box.exec(pod, spec, "sleep", "100")
        await asyncio.to_thread(box.driver.kill, pod.id, spec.id)
        assert (await read_all(stream))[2].exit_code == 137
        await stream.close()

    async def test_an_exec_does_not_wait_for_who_holds_its_streams(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        stream = await box.exec(pod, spec, "sh", "-c", "echo out; sleep 60 & exit 2")
        out, _err, status = await read_all(stream)
        assert (out, status.exit_code) == (b"out\n", 2)
        await stream.close()

    async def test_a_read_that_is_cancelled_loses_nothing(self, box: Box) -> None:
        pod, spec, _started = await box.run("sleep", "100")
        stream = await box.exec(pod, spec, "sh", "-c", "sleep 0.3; echo out")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await stream.read()
        assert (await read_all(stream))[0] == b"out\n"
        await stream.close()
