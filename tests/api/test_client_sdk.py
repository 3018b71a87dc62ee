"""The SDK against a scripted daemon: errors, streams, sessions, TLS."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from moorage.client import TLS, Client, MoorageError, Output
from moorage.client import errors as kinds
from moorage.v1 import image_pb2, runtime_pb2, system_pb2
from tests.api.fake_daemon import FakeDaemon, Refusal


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path)
    with daemon.serving():
        yield daemon


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.url) as client:
        yield client


@pytest.mark.parametrize("kind", MoorageError.__subclasses__())
def test_every_code_has_its_class(daemon: FakeDaemon, client: Client, kind: type[MoorageError]) -> None:
    daemon.script["GetVersion"] = Refusal(kind.code, "no such luck", reason="BAD_LUCK", hint="try again", path="/x")
    with pytest.raises(kind) as raised:
        client.system.version()
    error = raised.value
    assert (error.message, error.reason, error.hint, error.metadata) == (
        "no such luck",
        "BAD_LUCK",
        "try again",
        {"path": "/x"},
    )
    assert type(error) is kind


def test_an_error_without_details(daemon: FakeDaemon, client: Client) -> None:
    def crash(request: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "")

    daemon.script["GetVersion"] = crash
    with pytest.raises(kinds.ResourceExhausted, match="resource exhausted") as raised:
        client.system.version()
    assert (raised.value.reason, raised.value.metadata, raised.value.exit_code) == ("RESOURCE_EXHAUSTED", {}, None)


def test_a_deadline(daemon: FakeDaemon) -> None:
    late = threading.Event()

    def answer(request: Any, context: grpc.ServicerContext) -> system_pb2.GetVersionResponse:
        late.wait(30)
        return system_pb2.GetVersionResponse()

    daemon.script["GetVersion"] = answer
    with Client(daemon.url, timeout=0.05) as client, pytest.raises(kinds.DeadlineExceeded):
        client.system.version()
    late.set()


def test_a_pull_is_its_progress_and_then_its_image(daemon: FakeDaemon, client: Client) -> None:
    steps = [
        image_pb2.PullImageResponse(digest="sha256:1", stage=image_pb2.PULL_STAGE_DOWNLOADING),
        image_pb2.PullImageResponse(image=image_pb2.Image(id="sha256:2")),
    ]
    daemon.script["PullImage"] = list(steps)
    with client.images.pull("app") as pull:
        assert list(pull) == steps
        assert pull.result().id == "sha256:2"
    assert client.images.pull("app").result().id == "sha256:2"


def test_a_pull_that_ends_without_an_image_is_an_error(daemon: FakeDaemon, client: Client) -> None:
    daemon.script["PullImage"] = []
    with pytest.raises(MoorageError, match="before the image was here"):
        client.images.pull("app").result()


def test_closing_a_stream_hangs_up(daemon: FakeDaemon, client: Client) -> None:
    gone = threading.Event()

    def endless(request: Any, context: grpc.ServicerContext) -> Iterator[system_pb2.Event]:
        context.add_callback(gone.set)
        yield system_pb2.Event(sequence=1)
        gone.wait(30)

    daemon.script["StreamEvents"] = endless
    with client.system.events(since=datetime(2024, 1, 1, tzinfo=UTC)) as events:
        assert next(events).sequence == 1
    assert gone.wait(30)
    assert list(events) == []
    assert daemon.requests("StreamEvents")[0].since.seconds == 1_704_067_200


def test_exec_sync(daemon: FakeDaemon, client: Client) -> None:
    def answer(request: runtime_pb2.ExecSyncRequest, context: grpc.ServicerContext) -> runtime_pb2.ExecSyncResponse:
        return runtime_pb2.ExecSyncResponse(exit_code=request.timeout_millis, stdout=" ".join(request.command).encode())

    daemon.script["ExecSync"] = answer
    done = client.containers.exec_sync("box", ["echo", "hi"], timeout=1.5)
    assert (done.exit_code, done.stdout) == (1500, b"echo hi")


def test_a_session_writes_reads_resizes_signals_and_exits(daemon: FakeDaemon, client: Client) -> None:
    def mirror(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[runtime_pb2.ExecResponse]:
        opening = next(requests).open
        yield runtime_pb2.ExecResponse(started=runtime_pb2.Started(pid=opening.size.width))
        for request in requests:
            if request.WhichOneof("message") == "stdin_close":
                break
            yield runtime_pb2.ExecResponse(stdout=str(request).strip().encode())
        yield runtime_pb2.ExecResponse(exited=runtime_pb2.Exited(exit_code=7, oom_killed=True))

    daemon.script["Exec"] = mirror
    with client.containers.exec("box", ["cat"], tty=True, stdin=True, size=(80, 25)) as session:
        assert session.pid == 80
        output = iter(session)
        session.write(b"hi")
        assert next(output) == Output("stdout", b'stdin: "hi"')
        session.resize(100, 30)
        assert b"width: 100" in next(output).data
        session.signal("SIGINT")
        assert next(output).data == b'signal: "SIGINT"'
        session.close_stdin()
        assert list(output) == []
        assert session.exit_code == 7
        assert session.exited is not None and session.exited.oom_killed
        assert not session.write(b"too late")


def test_a_session_that_cannot_be_opened(daemon: FakeDaemon, client: Client) -> None:
    daemon.script["Attach"] = Refusal("FAILED_PRECONDITION", "cannot run /nope", exit_code="127")
    with pytest.raises(kinds.FailedPrecondition) as raised:
        client.containers.attach("box", start=True)
    assert raised.value.exit_code == 127
    daemon.script["Attach"] = []
    with pytest.raises(kinds.Unavailable, match="before the process was started"):
        client.containers.attach("box")


def test_a_writer_is_held_back_until_the_daemon_reads(daemon: FakeDaemon, client: Client) -> None:
    go = threading.Event()
    data = bytes(48 << 20)

    def late_reader(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[runtime_pb2.AttachResponse]:
        next(requests)
        yield runtime_pb2.AttachResponse(started=runtime_pb2.Started(pid=1))
        go.wait(30)
        count = 0
        for request in requests:
            if request.stdin_close:
                break
            count += len(request.stdin)
        yield runtime_pb2.AttachResponse(exited=runtime_pb2.Exited(exit_code=count >> 20))

    daemon.script["Attach"] = late_reader
    with client.containers.attach("box", stdin=True) as session:
        wrote = threading.Event()

        def write() -> None:
            session.write(data)
            session.close_stdin()
            wrote.set()

        writer = threading.Thread(target=write)
        writer.start()
        assert not wrote.is_set()
        go.set()
        assert list(session) == []
        writer.join()
        assert session.exit_code == 48


def test_messages_of_sixteen_mebibytes(daemon: FakeDaemon, client: Client) -> None:
    label = "x" * ((16 << 20) - 1000)
    daemon.script["CreateContainer"] = lambda request, context: runtime_pb2.CreateContainerResponse(
        id="1", warnings=[request.config.labels["big"]]
    )
    created = client.containers.create(runtime_pb2.ContainerConfig(image="app", labels={"big": label}))
    assert created.warnings == [label]


def test_mutual_tls(daemon: FakeDaemon, tmp_path: Path) -> None:
    authority, server, user = (make_certificate(tmp_path, name) for name in ("authority", "server", "user"))
    daemon.script["GetVersion"] = system_pb2.GetVersionResponse(version="1")
    pairs = [(server[1].read_bytes(), server[0].read_bytes())]
    credentials = grpc.ssl_server_credentials(pairs, authority[0].read_bytes(), require_client_auth=True)
    ca, cert, key = str(authority[0]), str(user[0]), str(user[1])
    with daemon.serving("127.0.0.1:0", credentials) as port:
        with Client(f"tcp://localhost:{port}", tls=TLS(ca, cert, key)) as client:
            assert client.system.version().version == "1"
        for wrong in (TLS(ca=ca), TLS(ca=cert, cert=cert, key=key)):
            with Client(f"tcp://localhost:{port}", tls=wrong) as client, pytest.raises(kinds.Unavailable):
                client.system.version()


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A certificate for localhost with its key; all but the authority's are signed by the authority's."""
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    signer = []
    if name != "authority":
        signer = ["-CA", str(directory / "authority.pem"), "-CAkey", str(directory / "authority.key")]
    names = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"]
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
    subprocess.run(
        ["openssl", "req", "-x509", *new_key, "-out", str(cert), "-days", "2", *names, *signer],
        check=True,
        capture_output=True,
    )
    return cert, key
