"""The daemon dies; containers, their output and their exit codes do not."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from moorage.server.libcontainer import cgroups
from tests.daemon import PROGRAMS, Daemon

pytestmark = pytest.mark.kernel

IMAGE = "registry.example/test/busybox:1"
COUNT = "i=0; until [ -e /tmp/enough ]; do echo $i; i=$((i+1)); usleep 1000; done; exit 5"


def grows(path: Path, beyond: int) -> None:
    """Returns when the log file has more than `beyond` lines."""
    while path.read_bytes().count(b"\n") <= beyond:
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_container_outlives_its_daemon(own_daemon: Daemon, how: str) -> None:
    daemon = own_daemon
    daemon.cli("run", "-d", "--name", "counter", IMAGE, "sh", "-c", COUNT)
    before = daemon.inspect("counter")
    log = Path(before["log_path"])
    grows(log, 100)
    daemon.kill() if how == "kill" else daemon.stop()
    grows(log, log.read_bytes().count(b"\n") + 300)
    daemon.start()
    assert daemon.inspect("counter")["pid"] == before["pid"]
    # The counter may see the file, and end with all in its container, before `touch` has.
    daemon.cli("exec", "counter", "touch", "/tmp/enough", check=False)
    assert daemon.out("wait", "counter") == "5"
    lines = daemon.out("logs", "counter").splitlines()
    assert len(lines) > 400 and lines == [str(n) for n in range(len(lines))]
    found = daemon.inspect("counter")
    assert (found["state"], found["exit_code"]) == ("exited", 5)


def test_a_container_that_was_left_frozen_goes_on(own_daemon: Daemon) -> None:
    """As a daemon leaves it that is killed while it takes a container's changes."""
    daemon = own_daemon
    container = daemon.out("run", "-d", "--name", "counter", IMAGE, "sh", "-c", COUNT)
    log = Path(daemon.inspect("counter")["log_path"])
    grows(log, 10)
    daemon.kill()
    # Of whatever version the cgroups are.
    directory = next(Path("/sys/fs/cgroup").glob(f"**/moorage*/{container}"))
    cgroups.detect().cgroup(f"/{directory.parent.name}/{container}").freeze()
    still = log.read_bytes().count(b"\n")
    daemon.start()
    grows(log, still + 100)
    daemon.cli("rm", "-f", "counter")


def test_an_exit_while_the_daemon_is_down_is_known_after(own_daemon: Daemon, tmp_path: Path) -> None:
    daemon, gate = own_daemon, tmp_path / "gate"
    script = "until [ -e /shared/gate ]; do usleep 10000; done; echo last; exit 9"
    daemon.cli("run", "-d", "--name", "brief", "-v", f"{tmp_path}:/shared", IMAGE, "sh", "-c", script)
    pid = daemon.inspect("brief")["pid"]
    daemon.kill()
    gate.touch()
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.01)
    daemon.start()
    found = daemon.inspect("brief")
    assert (found["state"], found["exit_code"], found["reason"]) == ("exited", 9, "Error")
    assert daemon.out("logs", "brief") == "last"
    assert daemon.out("wait", "brief") == "9"


def test_auto_remove_happens_when_the_daemon_is_back(own_daemon: Daemon) -> None:
    daemon = own_daemon
    daemon.cli("run", "-d", "--rm", "--name", "brief", IMAGE, "sleep", "1000")
    pid = daemon.inspect("brief")["pid"]
    daemon.kill()
    os.kill(pid, 9)
    daemon.start()
    while daemon.out("ps", "-aq"):
        time.sleep(0.05)


def test_a_published_port_works_without_the_daemon_and_after(own_daemon: Daemon) -> None:
    daemon = own_daemon
    script = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"
    daemon.cli("run", "-d", "--name", "web", "-p", "127.0.0.1::80", IMAGE, "sh", "-c", script)
    daemon.cli("exec", "web", "sh", "-c", "until wget -q -O /dev/null http://127.0.0.1/; do usleep 10000; done")
    address = daemon.out("port", "web", "80")

    def page() -> bytes:
        with urllib.request.urlopen(f"http://{address}/", timeout=10) as answer:
            body: bytes = answer.read()
        return body

    daemon.kill()
    assert page() == b"hello\n"
    daemon.start()
    assert page() == b"hello\n"
    assert daemon.out("port", "web", "80") == address


def test_events_go_on_counting_after_a_restart(own_daemon: Daemon) -> None:
    daemon = own_daemon

    def numbers() -> list[int]:
        lines = daemon.out("events", "--after", "0", "--until", "0s", "--format", "json").splitlines()
        return [json.loads(line)["sequence"] for line in lines]

    daemon.cli("run", "--rm", IMAGE, "true")
    before = numbers()
    daemon.kill()
    daemon.start()
    daemon.cli("run", "--rm", IMAGE, "true")
    after = numbers()
    assert after[: len(before)] == before
    assert after == list(range(after[0], after[0] + len(after)))


def test_a_second_daemon_on_the_same_root_is_refused(own_daemon: Daemon) -> None:
    second = subprocess.run(
        [PROGRAMS / "mooraged", "--root", own_daemon.root, "--state", own_daemon.directory / "other"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode not in (0, None)
    assert str(own_daemon.pid) in second.stderr + second.stdout
    assert own_daemon.out("ps", "-q") == ""


def test_two_daemons_live_side_by_side(own_daemon: Daemon, daemon: Daemon) -> None:
    for each in (own_daemon, daemon):
        each.cli("run", "-d", "--name", "same", IMAGE, "sleep", "1000")
    first, second = own_daemon.inspect("same"), daemon.inspect("same")
    assert first["endpoint"]["gateway"] != second["endpoint"]["gateway"]
    assert first["cgroup_path"].split("/")[1] != second["cgroup_path"].split("/")[1]
    own_daemon.remove_containers()
    assert daemon.inspect("same")["state"] == "running"


def test_what_was_executed_ends_with_the_daemon(own_daemon: Daemon) -> None:
    daemon = own_daemon
    container = daemon.out("run", "-d", "--name", "box", IMAGE, "sleep", "1000")
    command = ("exec", "box", "sh", "-c", "sleep 1001 & echo here; exec sleep 1002")
    directory = next(Path("/sys/fs/cgroup").glob(f"**/moorage*/{container}"))
    group = cgroups.detect().cgroup(f"/{directory.parent.name}/{container}")
    with daemon.popen(*command) as client:
        assert client.stdout is not None and client.stdout.readline() == b"here\n"
        # Its parent goes back to where it came from.
        while len(group.pids()) != 3:
            time.sleep(0.01)
        daemon.kill()
    while len(group.pids()) > 1:
        time.sleep(0.01)
    daemon.start()
    assert group.pids() == [daemon.inspect("box")["pid"]]
    daemon.cli("rm", "-f", "box")
