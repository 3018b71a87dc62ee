"""A daemon that dies between two calls of a pod's life, or in the middle of one: the pod goes on, the call comes again and succeeds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Box, Cri, Pod, until
from tests.daemon import Daemon
from tests.kernel.conftest import IMAGE

pytestmark = pytest.mark.kernel


class Ship:
    """A pod's life, step by step, by calls that survive the daemon."""

    def __init__(self, daemon: Daemon, logs: Path) -> None:
        self.daemon, self.logs = daemon, logs
        self.cri = Cri(daemon.url, IMAGE, logs)
        self.config = self.cri.pod_config("ship")
        self.pod_id = self.box_id = ""

    @property
    def pod(self) -> Pod:
        return Pod(self.cri, self.pod_id, self.config)

    @property
    def box(self) -> Box:
        return Box(self.cri, self.pod, self.box_id)

    def restart(self) -> None:
        self.daemon.kill()
        self.cri.close()
        self.daemon.start()
        self.cri = Cri(self.daemon.url, IMAGE, self.logs)

    def run_pod(self) -> None:
        self.pod_id = self.cri.run(self.config)

    def create(self) -> None:
        self.box_id = self.pod.create("sh", "-c", "echo aboard; sleep 1000", name="main").id

    def start(self) -> None:
        self.box.start()

    def exec(self) -> None:
        assert self.box.sh("hostname") == self.box.sh("cat /etc/hostname")

    def read_log(self) -> None:
        # An earlier round wrote to the same file.
        assert until(self.box.log)[-1] == ("stdout", "F", "aboard")

    def status(self) -> None:
        assert self.box.status().state == api.CONTAINER_RUNNING
        assert self.pod.status().state == api.SANDBOX_READY
        assert self.pod.ip in self.box.sh("ip -4 address show dev eth0")

    def stop(self) -> None:
        self.box.stop(0)

    def stopped(self) -> None:
        status = self.box.status()
        assert (status.state, status.exit_code, status.reason) == (api.CONTAINER_EXITED, 137, "Error")

    def remove(self) -> None:
        self.box.remove()

    def stop_pod(self) -> None:
        self.pod.stop()

    def remove_pod(self) -> None:
        self.pod.remove()

    @property
    def life(self) -> list[Callable[[], None]]:
        return [
            self.run_pod,
            self.create,
            self.start,
            self.exec,
            self.read_log,
            self.status,
            self.stop,
            self.stopped,
            self.remove,
            self.stop_pod,
            self.remove_pod,
        ]

    def until_step(self, name: str) -> None:
        """All steps before the one of this name."""
        for step in self.life:
            if step.__name__ == name:
                return
            step()

    def close(self) -> None:
        self.cri.clear()
        self.cri.close()


@pytest.fixture
def ship(own_daemon: Daemon, tmp_path: Path) -> Iterator[Ship]:
    ship = Ship(own_daemon, tmp_path)
    yield ship
    ship.close()


def test_the_daemon_may_die_after_every_step(ship: Ship) -> None:
    for step in ship.life:
        step()
        ship.restart()
    assert ship.cri.pods() == []
    assert ship.cri.containers() == []


def test_an_end_while_nobody_looks_is_told_afterwards(ship: Ship) -> None:
    ship.run_pod()
    box = ship.pod.run("sh", "-c", "read go < /tmp/gate; exit 9", mounts=[gate(ship.logs)])
    ship.daemon.kill()
    with open(ship.logs / "gate" / "gate", "w") as fifo:
        fifo.write("go\n")
    ship.restart()
    status = Box(ship.cri, ship.pod, box.id).ended()
    assert (status.exit_code, status.reason) == (9, "Error")


def gate(directory: Path) -> api.Mount:
    """A mount on /tmp with a FIFO, `gate`."""
    import os

    directory.joinpath("gate").mkdir()
    os.mkfifo(directory / "gate" / "gate")
    return api.Mount(container_path="/tmp", host_path=str(directory / "gate"))


@pytest.mark.parametrize("name", ["run_pod", "create", "start", "stop", "stop_pod", "remove_pod"])
def test_the_daemon_may_die_in_the_middle_of_a_step(ship: Ship, name: str) -> None:
    """Killed at several moments of the call; the same call again, as a kubelet makes it, succeeds, and then there is one of each."""
    for milliseconds in (1, 4, 10):
        ship.until_step(name)
        step = getattr(ship, name)
        call = threading.Thread(target=swallow, args=(step,))
        call.start()
        time.sleep(milliseconds / 1000)
        ship.restart()
        call.join()
        retry(ship, name)
        assert len(ship.cri.pods()) <= 1
        assert len(ship.cri.containers()) <= 1
        ship.cri.clear()
        assert ship.cri.containers() == []


def swallow(step: Callable[[], None]) -> None:
    """The call, whose daemon may die."""
    try:
        step()
    except (grpc.RpcError, ValueError):  # ValueError: the channel has been closed
        return


def retry(ship: Ship, name: str) -> None:
    """The call again. What had succeeded before the end is found as a kubelet finds it: in the lists."""
    match name:
        case "run_pod":
            for pod in ship.cri.pods():
                ship.cri.stop_pod(pod.id)
                ship.cri.remove_pod(pod.id)
            ship.run_pod()
        case "create":
            for box in ship.cri.containers():
                Box(ship.cri, ship.pod, box.id).remove()
            ship.create()
        case "start":
            if ship.box.status().state == api.CONTAINER_CREATED:
                ship.start()
            assert ship.box.status().state == api.CONTAINER_RUNNING
        case _:
            getattr(ship, name)()
