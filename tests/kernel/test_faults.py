"""SIGKILL of the daemon at any moment: after the next start everything is whole or gone, and can be used and removed."""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path

import pytest

from tests.contract.execbox import alive
from tests.daemon import Daemon
from tests.kernel.conftest import IMAGE

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

ROUNDS = 8


def kill_during(daemon: Daemon, delay: float, *command: str) -> None:
    """Start a command, kill the daemon `delay` seconds later, and start the daemon again."""
    client = daemon.popen(*command)
    time.sleep(delay)
    daemon.kill()
    client.communicate(timeout=30)
    daemon.start()


def processes_of(daemon: Daemon) -> list[int]:
    """The first processes of the containers that run."""
    names = daemon.out("ps", "-q").split()
    return [daemon.inspect(name)["pid"] for name in names]


def pids_below(cgroup: str) -> set[int]:
    """Processes in the daemon's cgroups, as the kernel knows them."""
    tasks = Path(f"/sys/fs/cgroup/pids{cgroup}").glob("*/cgroup.procs")
    return {int(pid) for file in tasks for pid in file.read_text().split()}


def supervisors_of(daemon: Daemon) -> set[str]:
    return {path.name for path in (daemon.state / "pods").iterdir()}


@pytest.mark.timeout(300)
def test_killed_while_containers_start(own_daemon: Daemon) -> None:
    chance = random.Random(20261124)
    for number in range(ROUNDS):
        name = f"c{number}"
        kill_during(
            own_daemon, chance.uniform(0.15, 0.45), "run", "-d", "--name", name, "-p", "0:80", IMAGE, "sleep", "1000"
        )
        known = set(own_daemon.out("ps", "-aq", "--no-trunc").split())
        running = set(own_daemon.out("ps", "-q", "--no-trunc").split())
        assert supervisors_of(own_daemon) == running <= known
        cgroup = json.loads(own_daemon.out("info", "--format", "json"))["cgroup_parent"]
        assert set(processes_of(own_daemon)) == pids_below(cgroup)
    for name in own_daemon.out("ps", "-aq").split():
        own_daemon.cli("start", name)
        own_daemon.cli("rm", "-f", name)


@pytest.mark.timeout(300)
def test_killed_while_containers_stop_and_go(own_daemon: Daemon) -> None:
    chance = random.Random(42)
    for number in range(ROUNDS):
        name = f"c{number}"
        own_daemon.cli("run", "-d", "--name", name, IMAGE, "sleep", "1000")
        kill_during(own_daemon, chance.uniform(0.1, 0.35), "rm", "-f", name)
        left = own_daemon.cli("inspect", "--format", "json", name, check=False)
        if left.returncode == 0:
            own_daemon.cli("rm", "-f", name)
        assert not own_daemon.out("ps", "-aq")
        assert not supervisors_of(own_daemon)
        assert not list((own_daemon.root / "containers").iterdir())


def test_a_name_is_free_again_after_a_create_that_was_killed(own_daemon: Daemon) -> None:
    chance = random.Random(7)
    for _ in range(4):
        kill_during(own_daemon, chance.uniform(0.1, 0.25), "create", "--name", "same", IMAGE, "true")
        if own_daemon.out("ps", "-aq"):
            own_daemon.cli("rm", "same")
        own_daemon.cli("create", "--name", "same", IMAGE, "true")
        own_daemon.cli("rm", "same")
    assert not list((own_daemon.root / "overlay" / "containers").iterdir())


def test_supervisor_and_spawner_killed_under_the_daemon(own_daemon: Daemon) -> None:
    own_daemon.cli("run", "-d", "--name", "victim", IMAGE, "sleep", "1000")
    pid = own_daemon.inspect("victim")["pid"]
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    subprocess.run(["kill", "-9", str(parent)], check=True)
    assert own_daemon.out("wait", "victim") == "255"
    ended = own_daemon.inspect("victim")
    assert (ended["state"], ended["reason"]) == ("exited", "Unknown") and "supervisor" in ended["error"]
    assert not alive(pid)
    spawner = next(int(p) for p in children_of(own_daemon.pid))
    subprocess.run(["kill", "-9", str(spawner)], check=True)
    assert own_daemon.out("run", "--rm", IMAGE, "echo", "again") == "again"


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
