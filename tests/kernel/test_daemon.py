"""The daemon as a process: addresses, TLS, socket activation, one a root, several side by side, signals, metrics, a damaged database."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.client import TLS, Client, MoorageError
from tests.daemon import PROGRAMS, Daemon
from tests.kernel.conftest import IMAGE
from tests.registry import LoopbackRegistry

pytestmark = pytest.mark.kernel


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="moorage-"))
    yield path
    shutil.rmtree(path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def certificate(directory: Path, name: str, ca: str, *extensions: str) -> TLS:
    """A key and a certificate signed by the CA `ca`, which is made where it is missing."""
    ca_cert, ca_key = directory / f"{ca}.pem", directory / f"{ca}.key"
    if not ca_cert.exists():
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                "-subj", f"/CN={ca}", "-keyout", ca_key, "-out", ca_cert)  # fmt: skip
    key, request, cert = (directory / f"{name}.{end}" for end in ("key", "csr", "pem"))
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", request)  # fmt: skip
    openssl("x509", "-req", "-in", request, "-CA", ca_cert, "-CAkey", ca_key, "-CAcreateserial", "-days", "2",
            "-copy_extensions", "copy", "-out", cert)  # fmt: skip
    return TLS(ca=str(ca_cert), cert=str(cert), key=str(key))


def refused(directory: Path, *arguments: str) -> str:
    """Start a daemon that must refuse to run; answers what it says."""
    command = [str(PROGRAMS / "mooraged"), "--root", f"{directory}/root", "--state", f"{directory}/state", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_a_second_daemon_on_the_same_root_is_refused_with_the_pid_of_the_first(daemon: Daemon) -> None:
    said = refused(daemon.directory, "--listen", f"unix://{daemon.directory}/other.sock")
    assert f"pid {daemon.pid}" in said and "--root" in said


def test_daemons_with_different_roots_live_side_by_side(registry: LoopbackRegistry) -> None:
    mirrors = {"registry.example": registry.url}
    with Daemon.temporary(mirrors) as one, Daemon.temporary(mirrors) as two:
        for each in (one, two):
            each.cli("pull", IMAGE)
            each.cli("run", "-d", "--name", "same", IMAGE, "sleep", "60")
        first, second = one.inspect("same"), two.inspect("same")
        assert first["endpoint"]["address"] != second["endpoint"]["address"]
        assert first["cgroup_path"].split("/")[1] != second["cgroup_path"].split("/")[1]
        one.cli("rm", "-f", "same")
        assert two.inspect("same")["state"] == "running"


def test_sigterm_leaves_containers_running_and_exits_0(own_daemon: Daemon) -> None:
    own_daemon.cli("run", "-d", "--name", "stays", IMAGE, "sleep", "100")
    pid = own_daemon.inspect("stays")["pid"]
    assert own_daemon.stop() == 0
    assert Path(f"/proc/{pid}").exists()
    own_daemon.start()
    assert own_daemon.inspect("stays")["pid"] == pid


def test_sigterm_ends_streams_and_jobs_that_wait(own_daemon: Daemon) -> None:
    """At once: the grace is for those who do something."""
    own_daemon.config.write_text("shutdown_seconds = 300\n" + own_daemon.config.read_text())
    own_daemon.stop()
    own_daemon.start()
    own_daemon.cli("run", "-d", "--name", "c", IMAGE, "sleep", "100")
    following = [own_daemon.popen(*verb) for verb in (("events",), ("logs", "-f", "c"), ("wait", "c"))]
    try:
        time.sleep(1)
        assert own_daemon.stop() == 0
        assert all(process.wait(20) != 0 for process in following)
    finally:
        for process in following:
            process.kill()
            process.communicate()
    own_daemon.start()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://0.0.0.0:0"])
def test_tcp_without_tls_is_refused(directory: Path, address: str) -> None:
    assert "without TLS" in refused(directory, "--listen", address)


def test_plain_tcp_on_other_than_loopback_is_refused_however_it_is_asked_for(directory: Path) -> None:
    assert "without TLS" in refused(directory, "--insecure-loopback", "--listen", "tcp://0.0.0.0:0")


def test_plain_tcp_on_loopback_when_asked_for(directory: Path) -> None:
    port = free_port()
    daemon = Daemon(directory, arguments=("--insecure-loopback", "--listen", f"tcp://127.0.0.1:{port}"))
    daemon.start()
    with contextlib.closing(daemon):
        daemon.cli("version")  # answered when every address is bound
        with Client(f"tcp://127.0.0.1:{port}", insecure=True) as client:
            assert client.system.version().api_version == "moorage.v1"


def test_tls_lets_in_who_shows_a_certificate_of_our_ca(directory: Path) -> None:
    server = certificate(directory, "server", "ca")
    known, stranger = certificate(directory, "operator", "ca"), certificate(directory, "stranger", "other-ca")
    port = free_port()
    settings = f'[tls]\nca = "{server.ca}"\ncert = "{server.cert}"\nkey = "{server.key}"\n'
    daemon = Daemon(directory, settings=settings, arguments=("--listen", f"tcp://127.0.0.1:{port}"))
    daemon.start()
    with contextlib.closing(daemon):
        daemon.cli("version")  # answered when every address is bound
        url = f"tcp://127.0.0.1:{port}"
        with Client(url, tls=known) as client:
            client.system.info()
        wrong = TLS(ca=server.ca, cert=stranger.cert, key=stranger.key)
        with Client(url, tls=wrong, timeout=5) as client, pytest.raises(MoorageError):
            client.system.version()
        with Client(url, insecure=True, timeout=5) as client, pytest.raises(MoorageError):
            client.system.version()
    assert "cn:operator" in daemon.log.read_text()


def test_a_socket_passed_by_the_service_manager_is_served(directory: Path) -> None:
    """As systemd does: a listening socket as descriptor 3, LISTEN_FDS and LISTEN_PID in the environment, READY=1 on NOTIFY_SOCKET."""
    path, ready = directory / "passed.sock", directory / "notify.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(ready))
    notify.settimeout(30)
    script = 'exec 3<&"$0"; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
    command = [
        str(PROGRAMS / "mooraged"),
        "--root",
        f"{directory}/root",
        "--state",
        f"{directory}/state",
        "--listen",
        "fd://",
    ]
    environment = {**os.environ, "NOTIFY_SOCKET": str(ready)}
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", script, str(listening.fileno()), *command],
            pass_fds=(listening.fileno(),),
            env=environment,
            stderr=log,
        )
    listening.close()
    try:
        assert notify.recv(64) == b"READY=1"
        with Client(f"unix://{path}") as client:
            assert client.system.info().pid == process.pid
    finally:
        process.terminate()
        assert process.wait(30) == 0
        notify.close()


def test_metrics_and_channelz_when_asked_for(directory: Path) -> None:
    port = free_port()
    daemon = Daemon(directory, arguments=("--metrics", f"127.0.0.1:{port}", "--channelz"))
    daemon.start()
    with contextlib.closing(daemon):
        daemon.cli("version")  # answered when every address is bound
        daemon.cli("info")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text = answer.read().decode()
    assert 'moorage_rpcs_total{code="OK",method="/moorage.v1.SystemService/GetInfo"}' in text
    assert 'moorage_job_seconds_count{status="done",verb="info"}' in text


def test_a_damaged_database_is_refused_and_left_as_it_is(directory: Path) -> None:
    daemon = Daemon(directory)
    daemon.start()
    daemon.close()
    database = daemon.root / "graph.db"
    damaged = b"\xde\xad\xbe\xef" * 4096
    database.write_bytes(damaged)
    said = refused(directory, "--listen", daemon.url)
    assert "graph.db" in said and "hint:" in said
    assert database.read_bytes() == damaged


def test_the_socket_is_not_for_everybody(daemon: Daemon) -> None:
    assert daemon.socket.stat().st_mode & 0o777 == 0o660
    assert daemon.root.stat().st_mode & 0o777 == 0o700
    assert (daemon.state / "pods").stat().st_mode & 0o777 == 0o700
