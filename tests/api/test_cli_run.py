"""`moorage run`, `exec`, `attach` and `start -a` against a scripted daemon: streams, signals, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from moorage.client.main import main
from moorage.v1 import image_pb2, runtime_pb2
from tests.api.fake_daemon import FakeDaemon, Refusal

MOORAGE = [sys.executable, "-m", "moorage.client.main"]
ID = "c0ffee" + "0" * 58


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path)
    daemon.script["CreateContainer"] = runtime_pb2.CreateContainerResponse(id=ID, name="calm_whale")
    daemon.script["RemoveContainer"] = runtime_pb2.RemoveContainerResponse()
    with daemon.serving():
        yield daemon


def process(
    talk: Callable[[Iterator[Any]], Iterator[dict[str, Any]]] = lambda requests: iter(()), exit_code: int = 0
) -> Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]]:
    """A script for Attach or Exec: started, what `talk` gives for the requests, then exited (unless `talk` told so itself)."""

    def answer(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        opening = next(requests)
        response = (
            runtime_pb2.ExecResponse if isinstance(opening, runtime_pb2.ExecRequest) else runtime_pb2.AttachResponse
        )
        yield response(started=runtime_pb2.Started(pid=77))
        for message in talk(requests):
            yield response(**message)
            if "exited" in message:
                return
        yield response(exited=runtime_pb2.Exited(exit_code=exit_code))

    return answer


def says(*messages: dict[str, Any]) -> Callable[[Iterator[Any]], Iterator[dict[str, Any]]]:
    return lambda requests: iter(messages)


def run(daemon: FakeDaemon, *arguments: str) -> int:
    return main(["-H", daemon.url, *arguments])


def spawn(daemon: FakeDaemon, *arguments: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*MOORAGE, "-H", daemon.url, *arguments], stdin=pipe, stdout=pipe, stderr=pipe)


def test_run_creates_attaches_and_exits_as_the_container_does(
    daemon: FakeDaemon, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    daemon.script["Attach"] = process(
        says({"stdout": b"out\n"}, {"stderr": b"err\n"}, {"stdout": b"end"}), exit_code=42
    )
    assert run(daemon, "run", "--name", "box", "busybox", "sh", "-c", "exit 42") == 42
    printed = capfdbinary.readouterr()
    assert (printed.out, printed.err) == (b"out\nend", b"err\n")
    (create,) = daemon.requests("CreateContainer")
    assert (create.name, create.config.image, list(create.config.command)) == (
        "box",
        "busybox",
        ["sh", "-c", "exit 42"],
    )
    opening = daemon.requests("Attach")[0].open
    assert (opening.id, opening.start, opening.lossless) == (ID, True, True)
    assert (opening.stdin, opening.stdout, opening.stderr) == (False, True, True)


def test_every_byte_goes_both_ways_and_the_end_of_stdin_arrives(daemon: FakeDaemon) -> None:
    def echo(requests: Iterator[Any]) -> Iterator[dict[str, Any]]:
        for request in requests:
            if request.WhichOneof("message") == "stdin_close":
                yield {"stdout": b"<end>"}
                return
            yield {"stdout": request.stdin}
            yield {"stderr": request.stdin[::-1]}

    daemon.script["Attach"] = process(echo)
    data = os.urandom(3_000_000)
    with spawn(daemon, "run", "-i", "busybox", "cat") as client:
        out, err = client.communicate(data, timeout=60)
    assert client.returncode == 0
    assert out == data + b"<end>"
    assert len(err) == len(data)
    assert daemon.requests("Attach")[0].open.stdin
    config = daemon.requests("CreateContainer")[0].config
    assert (config.stdin_open, config.stdin_once) == (True, True)


def test_output_may_follow_the_end_of_stdin(daemon: FakeDaemon) -> None:
    def count(requests: Iterator[Any]) -> Iterator[dict[str, Any]]:
        for request in requests:
            if request.stdin_close:
                break
        yield from ({"stdout": b"x" * 65536} for _ in range(64))

    daemon.script["Attach"] = process(count, exit_code=3)
    with spawn(daemon, "run", "-i", "busybox", "wc") as client:
        out, _ = client.communicate(b"a", timeout=60)
    assert (client.returncode, len(out)) == (3, 64 * 65536)


def test_run_detached_starts_and_prints_the_id(daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> None:
    daemon.script["StartContainer"] = runtime_pb2.StartContainerResponse(pid=7)
    assert run(daemon, "run", "-d", "-i", "busybox") == 0
    assert capfd.readouterr().out == ID + "\n"
    assert daemon.requests("StartContainer")[0].id == ID
    assert not daemon.requests("CreateContainer")[0].config.stdin_once


def test_run_pulls_an_image_that_is_not_here(daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> None:
    created = daemon.script["CreateContainer"]
    missing = Refusal("NOT_FOUND", "image busybox does not exist")
    daemon.script["CreateContainer"] = lambda request, context: created if daemon.requests("PullImage") else missing
    daemon.script["GetImage"] = missing
    digest = "sha256:" + "ab" * 32
    daemon.script["PullImage"] = [
        image_pb2.PullImageResponse(stage=image_pb2.PULL_STAGE_RESOLVING),
        image_pb2.PullImageResponse(digest=digest, stage=image_pb2.PULL_STAGE_DOWNLOADING, total_bytes=12_300_000),
        image_pb2.PullImageResponse(digest=digest, stage=image_pb2.PULL_STAGE_DONE, total_bytes=12_300_000),
        image_pb2.PullImageResponse(image=image_pb2.Image(id=digest)),
    ]
    daemon.script["Attach"] = process()
    assert run(daemon, "run", "--platform", "linux/arm64", "busybox") == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "image: resolving",
        "abababababab: downloading 12.3MB",
        "abababababab: done 12.3MB",
    ]
    assert daemon.requests("PullImage")[0].platform.architecture == "arm64"


def test_run_does_not_pull_when_something_else_is_missing(
    daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon.script["CreateContainer"] = Refusal("NOT_FOUND", "network quay does not exist")
    daemon.script["GetImage"] = image_pb2.Image(id="sha256:1")
    assert run(daemon, "run", "--network", "quay", "busybox") == 125
    assert capfd.readouterr().err == "moorage: network quay does not exist\n"
    assert not daemon.requests("PullImage")


def test_run_never_pulls_when_told_so(daemon: FakeDaemon) -> None:
    daemon.script["CreateContainer"] = Refusal("NOT_FOUND", "image busybox does not exist")
    assert run(daemon, "run", "--pull", "never", "busybox") == 125
    assert [name for name, _ in daemon.asked] == ["CreateContainer"]


def test_run_pulls_first_when_told_so(daemon: FakeDaemon) -> None:
    daemon.script["PullImage"] = [image_pb2.PullImageResponse(image=image_pb2.Image(id="sha256:1"))]
    daemon.script["Attach"] = process()
    assert run(daemon, "run", "--pull", "always", "busybox") == 0
    assert [name for name, _ in daemon.asked][:2] == ["PullImage", "CreateContainer"]


@pytest.mark.parametrize(("metadata", "code"), [({"exit_code": "127"}, 127), ({"exit_code": "126"}, 126), ({}, 125)])
def test_a_container_that_cannot_start(
    daemon: FakeDaemon, capfd: pytest.CaptureFixture[str], metadata: dict[str, str], code: int
) -> None:
    daemon.script["Attach"] = Refusal("FAILED_PRECONDITION", "cannot run /nope", hint="look at the path", **metadata)
    assert run(daemon, "run", "busybox", "/nope") == code
    assert capfd.readouterr().err == "moorage: cannot run /nope\nhint: look at the path\n"
    assert not daemon.requests("RemoveContainer")


@pytest.mark.parametrize("options", [["--rm"], ["--rm", "-d"]])
def test_a_container_that_cannot_start_is_removed_when_asked_for(daemon: FakeDaemon, options: list[str]) -> None:
    refusal = Refusal("FAILED_PRECONDITION", "cannot run /nope", exit_code="127")
    daemon.script |= {"Attach": refusal, "StartContainer": refusal}
    assert run(daemon, "run", *options, "busybox", "/nope") == 127
    (removal,) = daemon.requests("RemoveContainer")
    assert (removal.id, removal.force) == (ID, True)


def test_run_tells_of_warnings_and_of_want_of_memory(daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> None:
    daemon.script["CreateContainer"] = runtime_pb2.CreateContainerResponse(id=ID, warnings=["no swap accounting"])
    daemon.script["Attach"] = process(says({"exited": runtime_pb2.Exited(exit_code=137, oom_killed=True)}))
    assert run(daemon, "run", "--rm", "-m", "32m", "busybox") == 137
    err = capfd.readouterr().err
    assert "warning: no swap accounting\n" in err
    assert "OOMKilled" in err
    assert daemon.requests("CreateContainer")[0].config.resources.memory_limit_bytes == 32 << 20


def test_a_stream_that_breaks_off_is_an_error(daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> None:
    def vanish(requests: Iterator[Any]) -> Iterator[dict[str, Any]]:
        yield {"stdout": b"half"}
        raise Refusal("UNAVAILABLE", "the daemon is going down")

    daemon.script["Attach"] = process(vanish)
    assert run(daemon, "run", "--rm", "busybox") == 125
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("half", "moorage: the daemon is going down\n")
    assert not daemon.requests("RemoveContainer")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(daemon: FakeDaemon, number: signal.Signals) -> None:
    def wait_for_signal(requests: Iterator[Any]) -> Iterator[dict[str, Any]]:
        yield {"stdout": b"ready\n"}
        yield {"stdout": next(requests).signal.encode()}

    daemon.script["Attach"] = process(wait_for_signal, exit_code=9)
    with spawn(daemon, "run", "busybox") as client:
        assert client.stdout and client.stdout.readline() == b"ready\n"
        client.send_signal(number)
        out, _ = client.communicate(timeout=60)
    assert (out, client.returncode) == (number.name.encode(), 9)


def test_a_signal_arrives_though_stdin_is_stuck(daemon: FakeDaemon) -> None:
    stuck = threading.Event()

    def read_nothing_for_a_while(requests: Iterator[Any]) -> Iterator[dict[str, Any]]:
        yield {"stdout": b"ready\n"}
        stuck.wait(60)
        yield {"stdout": next(request.signal for request in requests if request.signal).encode()}

    daemon.script["Attach"] = process(read_nothing_for_a_while)
    with spawn(daemon, "run", "-i", "busybox") as client:
        assert client.stdin and client.stdout and client.stdout.readline() == b"ready\n"
        os.set_blocking(client.stdin.fileno(), False)
        flood(client.stdin.fileno())
        client.send_signal(signal.SIGTERM)
        stuck.set()
        assert client.stdout.read() == b"SIGTERM"
    assert client.returncode == 0


def flood(fd: int) -> None:
    """Write until nobody takes more."""
    while True:
        try:
            os.write(fd, bytes(65536))
        except BlockingIOError:
            return


def test_the_third_ctrl_c_gives_up(daemon: FakeDaemon) -> None:
    hung_up = threading.Event()

    def deaf(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(hung_up.set)
        assert next(requests).open.start
        yield runtime_pb2.AttachResponse(started=runtime_pb2.Started(pid=7))
        yield runtime_pb2.AttachResponse(stdout=b"ready\n")
        for request in requests:
            yield runtime_pb2.AttachResponse(stdout=request.signal.encode() + b"\n")

    daemon.script["Attach"] = deaf
    with spawn(daemon, "run", "busybox") as client:
        assert client.stdout and client.stdout.readline() == b"ready\n"
        for _ in range(2):
            client.send_signal(signal.SIGINT)
            assert client.stdout.readline() == b"SIGINT\n"
        client.send_signal(signal.SIGINT)
        client.communicate(timeout=60)
    assert client.returncode == 130
    assert hung_up.wait(60)


@pytest.fixture
def running(daemon: FakeDaemon) -> FakeDaemon:
    """A daemon with a container that runs and takes stdin."""
    daemon.script["GetContainer"] = runtime_pb2.Container(
        id=ID,
        name="box",
        state=runtime_pb2.CONTAINER_STATE_RUNNING,
        config=runtime_pb2.ContainerConfig(stdin_open=True),
    )
    return daemon


def test_attach_connects_without_starting(running: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> None:
    running.script["Attach"] = process(says({"stdout": b"hello"}), exit_code=4)
    assert run(running, "attach", "--no-stdin", "box") == 4
    assert capfd.readouterr().out == "hello"
    opening = running.requests("Attach")[0].open
    assert (opening.id, opening.start, opening.stdin) == (ID, False, False)


def test_attach_wants_a_container_that_runs(daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> None:
    daemon.script["GetContainer"] = runtime_pb2.Container(name="box", state=runtime_pb2.CONTAINER_STATE_EXITED)
    assert run(daemon, "attach", "box") == 1
    assert capfd.readouterr().err == "moorage: container box is not running\nhint: moorage start -a box\n"


def test_start_attached_starts_through_attach(running: FakeDaemon) -> None:
    running.script["Attach"] = process(exit_code=6)
    assert run(running, "start", "-a", "box") == 6
    opening = running.requests("Attach")[0].open
    assert (opening.start, opening.stdin) == (True, False)
    assert not running.requests("StartContainer")


def test_exec_asks_for_what_was_said(daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> None:
    daemon.script["Exec"] = process(says({"stdout": b"o"}, {"stderr": b"e"}), exit_code=5)
    options = ("-e", "A=1", "-w", "/tmp", "-u", "nobody", "--privileged")
    assert run(daemon, "exec", *options, "box", "ls", "-l", "-e") == 5
    assert capfd.readouterr() == ("o", "e")
    assert daemon.requests("Exec")[0].open == runtime_pb2.ExecRequest.Open(
        id="box", command=["ls", "-l", "-e"], env=["A=1"], working_dir="/tmp", user="nobody", privileged=True
    )


def test_exec_detached_does_not_wait(daemon: FakeDaemon) -> None:
    def start(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        assert next(requests).open.detach
        yield runtime_pb2.ExecResponse(started=runtime_pb2.Started(pid=3))

    daemon.script["Exec"] = start
    assert run(daemon, "exec", "-d", "box", "sleep", "1000") == 0
    assert daemon.requests("Exec")[0].open.detach


@pytest.mark.parametrize(("metadata", "code"), [({"exit_code": "127"}, 127), ({}, 125)])
def test_exec_that_cannot_run(daemon: FakeDaemon, metadata: dict[str, str], code: int) -> None:
    daemon.script["Exec"] = Refusal("FAILED_PRECONDITION", "cannot run /nope", **metadata)
    assert run(daemon, "exec", "box", "/nope") == code


def test_a_terminal_wants_a_terminal(daemon: FakeDaemon) -> None:
    for arguments in (("run", "-it", "busybox"), ("exec", "-it", "box", "sh")):
        with spawn(daemon, *arguments) as client:
            _, err = client.communicate(timeout=60)
        assert client.returncode == 125
        assert b"moorage: stdin is not a terminal" in err
    assert not daemon.asked


def test_create_reads_every_option(
    daemon: FakeDaemon, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    env_file = tmp_path / "env"
    env_file.write_text("# comment\n\nA=1\nFROM_HERE\n")
    profile = tmp_path / "seccomp.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    arguments = f"""-i -t --rm --name box -e B=2 -e NOT_HERE --env-file {env_file} -w /w -u 1:2 -v /src:/dst:ro,rslave
        --tmpfs /t:size=1m -p 127.0.0.1:8080-8081:80-81 -p 53/udp -m 1g --memory-swap -1 --cpus 1.5 --cpu-shares 512
        --cpuset-cpus 0-1 --pids-limit 99 --ulimit nofile=10:20 --network quay -h host --dns 10.0.0.1 --dns-search lan
        --dns-option ndots:2 --add-host db:10.0.0.2 --read-only --cap-add NET_ADMIN --cap-drop ALL --privileged
        --security-opt no-new-privileges=false --security-opt seccomp={profile} --entrypoint /bin/sh --init -l a=b -l c
        --stop-signal QUIT --stop-timeout 3 --log-max-size 10m --log-max-files 2 busybox -c exit""".split()
    assert run(daemon, "create", *arguments) == 0
    assert capfd.readouterr().out == ID + "\n"
    assert daemon.requests("CreateContainer")[0] == runtime_pb2.CreateContainerRequest(
        name="box",
        config=runtime_pb2.ContainerConfig(
            image="busybox",
            entrypoint=["/bin/sh"],
            command=["-c", "exit"],
            env=["A=1", "FROM_HERE=yes", "B=2"],
            working_dir="/w",
            user="1:2",
            hostname="host",
            tty=True,
            stdin_open=True,
            stdin_once=True,
            labels={"a": "b", "c": ""},
            stop_signal="QUIT",
            stop_timeout_seconds=3,
            mounts=[
                runtime_pb2.Mount(
                    kind=runtime_pb2.Mount.KIND_BIND,
                    source="/src",
                    target="/dst",
                    read_only=True,
                    propagation="rslave",
                ),
                runtime_pb2.Mount(kind=runtime_pb2.Mount.KIND_TMPFS, target="/t", size_bytes=1 << 20),
            ],
            resources=runtime_pb2.Resources(
                memory_limit_bytes=1 << 30,
                memory_swap_limit_bytes=-1,
                cpu_nanos=1_500_000_000,
                cpu_shares=512,
                cpuset_cpus="0-1",
                pids_limit=99,
                rlimits=[runtime_pb2.Rlimit(name="nofile", soft=10, hard=20)],
            ),
            security=runtime_pb2.Security(
                cap_add=["NET_ADMIN"],
                cap_drop=["ALL"],
                privileged=True,
                allow_new_privileges=True,
                seccomp_profile='{"defaultAction": "SCMP_ACT_ALLOW"}',
            ),
            network=runtime_pb2.NetworkAttachment(
                network="quay",
                ports=[
                    published("127.0.0.1", 8080, 80),
                    published("127.0.0.1", 8081, 81),
                    published("", 0, 53, runtime_pb2.PROTOCOL_UDP),
                ],
                dns_servers=["10.0.0.1"],
                dns_searches=["lan"],
                dns_options=["ndots:2"],
                extra_hosts=["db:10.0.0.2"],
            ),
            init=True,
            auto_remove=True,
            log=runtime_pb2.LogConfig(max_size_bytes=10 << 20, max_files=2),
            read_only=True,
        ),
    )


def published(
    host_ip: str, host: int, container: int, protocol: runtime_pb2.Protocol = runtime_pb2.PROTOCOL_TCP
) -> runtime_pb2.PortMapping:
    return runtime_pb2.PortMapping(host_ip=host_ip, host_port=host, container_port=container, protocol=protocol)


def test_an_empty_entrypoint_clears_the_images(daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(daemon, "create", "--entrypoint", "", "busybox", "ls", "-l") == 0
    config = daemon.requests("CreateContainer")[0].config
    assert (list(config.entrypoint), list(config.command)) == (["ls"], ["-l"])
    assert run(daemon, "create", "--entrypoint", "", "busybox") == 2
    assert "needs a command" in capfd.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["-p", "0:80"],
        ["-v", "relative:/x"],
        ["-m", "lots"],
        ["--cpus", "0"],
        ["--ulimit", "files=3"],
        ["--security-opt", "magic"],
        ["-e", "=1"],
        ["--pull", "sometimes"],
        ["--no-such-option"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(daemon: FakeDaemon, options: list[str]) -> None:
    assert run(daemon, "run", *options, "busybox") == 2
    assert not daemon.asked
