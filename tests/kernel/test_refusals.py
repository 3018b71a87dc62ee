"""Bad input is refused with the thing and the cause, and nothing is left of it."""

from __future__ import annotations

import socket

import pytest

from tests.daemon import Daemon
from tests.registry import LoopbackRegistry

pytestmark = pytest.mark.kernel

IMAGE = "registry.example/test/busybox:1"


def refused(daemon: Daemon, *arguments: str) -> str:
    """What is printed about a command that fails; it leaves no container."""
    before = daemon.out("ps", "-aq")
    done = daemon.cli(*arguments, check=False)
    assert done.returncode not in (0, 130)
    assert done.stdout == ""
    assert daemon.out("ps", "-aq") == before
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pull", "registry.example/UPPER/case"), ["UPPER/case"]),
        (("pull", "registry.example/test/busybox@sha256:abc"), ["sha256:abc"]),
        (("run", "--rm", "--pull", "never", "registry.example/test/absent:1"), ["registry.example/test/absent:1"]),
        (("run", "--rm", "-m", "4k", IMAGE), ["memory", "4096"]),
        (("run", "--rm", "--cpus", "1000", IMAGE), ["cpu"]),
        (("run", "--rm", "--cpuset-cpus", "4000", IMAGE), ["cpuset", "4000"]),
        (("run", "--rm", "-v", "/nowhere/at/all:/x", IMAGE), ["/nowhere/at/all"]),
        (("run", "--rm", "-u", "stranger", IMAGE), ["stranger"]),
        (("run", "--rm", "--cap-add", "FLY", IMAGE), ["FLY"]),
        (("run", "--rm", "--network", "absent", IMAGE), ["absent"]),
        (("run", "--rm", "--name", "no spaces", IMAGE), ["no spaces"]),
        (("exec", "absent", "true"), ["absent"]),
        (("inspect", "absent"), ["absent"]),
        (("rmi", "registry.example/test/absent:1"), ["registry.example/test/absent:1"]),
        (("network", "create", "x", "--subnet", "10.0.0.0/99"), ["10.0.0.0/99"]),
        (("network", "rm", "bridge"), ["bridge"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_nonsense(daemon: Daemon, arguments: tuple[str, ...], words: list[str]) -> None:
    printed = refused(daemon, *arguments)
    assert all(word in printed for word in words), printed


def test_an_image_the_registry_does_not_have(daemon: Daemon, registry: LoopbackRegistry) -> None:
    printed = refused(daemon, "pull", f"{registry.host}/test/absent:1")
    assert all(word in printed for word in (registry.host, "test/absent", "404")), printed


def test_a_name_in_use(daemon: Daemon) -> None:
    first = daemon.out("run", "-d", "--name", "taken", IMAGE, "sleep", "1000")
    printed = refused(daemon, "run", "-d", "--name", "taken", IMAGE, "true")
    assert "taken" in printed
    assert first[:12] in printed
    assert daemon.inspect("taken")["state"] == "running"


def test_a_port_in_use_by_a_container(daemon: Daemon) -> None:
    daemon.cli("run", "-d", "--name", "first", "-p", "127.0.0.1::80", IMAGE, "sleep", "1000")
    port = daemon.out("port", "first", "80").rpartition(":")[2]
    assert port in refused(daemon, "run", "--rm", "-p", f"127.0.0.1:{port}:80", IMAGE, "true")


def test_a_port_in_use_by_somebody_else(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert port in refused(daemon, "run", "--rm", "-p", f"127.0.0.1:{port}:80", IMAGE, "true")


def test_exec_where_nothing_runs(daemon: Daemon) -> None:
    daemon.cli("run", "--name", "done", IMAGE, "true")
    assert "done" in refused(daemon, "exec", "done", "true")
