"""Addresses, and what a URL may ask for."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from moorage.client import TLS
from moorage.client.connection import Address, connect, explain, parse_address
from moorage.client.errors import InvalidArgument, PermissionDenied, Unavailable


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("unix:///run/moorage/moorage.sock", Address(path="/run/moorage/moorage.sock")),
        ("tcp://example.org:2376", Address(host="example.org", port=2376)),
        ("tcp://127.0.0.1:1", Address(host="127.0.0.1", port=1)),
        ("tcp://[::1]:65535", Address(host="::1", port=65535)),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert parse_address(url) == address
    assert str(address) == url
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/run/moorage.sock",
        "unix://run/moorage.sock",
        "unix:",
        "http://localhost:1",
        "tcp://localhost",
        "tcp://:1",
        "tcp://localhost:0",
        "tcp://localhost:65536",
        "tcp://localhost:x",
        "tcp://me@localhost:1",
        "tcp://localhost:1/path",
        "tcp://[::1:5",
    ],
)
def test_urls_that_make_no_sense(url: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        parse_address(url)
    assert raised.value.hint


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_plain_tcp_is_for_loopback_when_asked_for(host: str) -> None:
    channel, _ = connect(f"tcp://{host}:1", insecure=True)
    channel.close()
    with pytest.raises(InvalidArgument, match="needs TLS"):
        connect(f"tcp://{host}:1")


@pytest.mark.parametrize("host", ["10.0.0.1", "example.org", "[2001:db8::1]", "0.0.0.0"])
def test_plain_tcp_never_leaves_the_host(host: str) -> None:
    with pytest.raises(InvalidArgument, match="needs TLS"):
        connect(f"tcp://{host}:1", insecure=True)


def test_tls_files_belong_together_and_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="belong together"):
        connect("tcp://example.org:1", tls=TLS(cert="cert.pem"))
    with pytest.raises(InvalidArgument, match="cannot read"):
        connect("tcp://example.org:1", tls=TLS(ca=str(tmp_path / "missing.pem")))


def test_why_a_socket_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = Unavailable("failed to connect to all addresses")
    path = tmp_path / "daemon.sock"
    explained = explain(Address(path=str(path)), error)
    assert "no such file or directory" in explained.message
    assert f"mooraged --listen unix://{path}" in explained.hint
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert "connection refused" in explain(Address(path=str(path)), error).message
        listener.listen()
        assert explain(Address(path=str(path)), error) is error

    def denied(self: socket.socket, address: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", denied)
    refused = explain(Address(path=str(path)), error)
    assert isinstance(refused, PermissionDenied)
    assert "group" in refused.hint


def test_why_a_port_cannot_be_reached() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    explained = explain(Address(host="127.0.0.1", port=port), Unavailable("no"))
    assert explained.message == f"cannot connect to the daemon at tcp://127.0.0.1:{port}: connection refused"


def test_the_command_line_starts_without_grpc_and_rich() -> None:
    probe = (
        "import sys; from moorage.client.main import cli, main; main(['--help']);"
        "print([name for name in ('grpc', 'rich', 'google.protobuf', 'moorage.server') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
