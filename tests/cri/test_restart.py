"""A daemon that dies between two calls of a pod's life, or in the middle of one: the pod goes on, the call comes again and succeeds."""

from __future__ import annotations

import os
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


Life = list[Callable[[], None]]
LIVES = (
    "whole",
    "pod-stopped-under-a-running-container",
    "pod-removed-under-a-running-container",
    "never-started",
    "removed-while-running",
    "empty-pod",
)


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

    def rotate_log(self) -> None:
        path = self.box.log_path
        path.rename(path.with_suffix(".old"))
        self.box.reopen_log()
        assert path.exists()

    def update(self) -> None:
        resources = api.LinuxContainerResources(cpu_shares=512, memory_limit_in_bytes=64 << 20)
        self.cri.runtime.UpdateContainerResources(
            api.UpdateContainerResourcesRequest(container_id=self.box_id, linux=resources)
        )

    def updated(self) -> None:
        assert self.box.status().resources.linux.memory_limit_in_bytes == 64 << 20

    def stats(self) -> None:
        [told] = self.cri.runtime.ListContainerStats(api.ListContainerStatsRequest()).stats
        assert (told.attributes.id, told.memory.working_set_bytes.value > 0) == (self.box_id, True)
        [pod] = self.cri.runtime.ListPodSandboxStats(api.ListPodSandboxStatsRequest()).stats
        assert [one.attributes.id for one in pod.linux.containers] == [self.box_id]

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

    def remove_pod_as_it_is(self) -> None:
        """Its container was not stopped, or not even started."""
        self.pod.remove()

    def gone(self) -> None:
        assert (self.cri.pods(), self.cri.containers()) == ([], [])

    @property
    def life(self) -> Life:
        return [
            self.run_pod,
            self.create,
            self.start,
            self.exec,
            self.read_log,
            self.rotate_log,
            self.update,
            self.updated,
            self.stats,
            self.status,
            self.stop,
            self.stopped,
            self.remove,
            self.stop_pod,
            self.remove_pod,
            self.gone,
        ]

    @property
    def lives(self) -> dict[str, Life]:
        """The whole life, and the short cuts that a kubelet takes through it."""
        return {
            "whole": self.life,
            "pod-stopped-under-a-running-container": [
                self.run_pod,
                self.create,
                self.start,
                self.stop_pod,
                self.stopped,
                self.remove_pod,
                self.gone,
            ],
            "pod-removed-under-a-running-container": [
                self.run_pod,
                self.create,
                self.start,
                self.remove_pod_as_it_is,
                self.gone,
            ],
            "never-started": [
                self.run_pod,
                self.create,
                self.stop,
                self.remove,
                self.stop_pod,
                self.remove_pod,
                self.gone,
            ],
            "removed-while-running": [self.run_pod, self.create, self.start, self.remove, self.remove_pod, self.gone],
            "empty-pod": [self.run_pod, self.stop_pod, self.remove_pod, self.gone],
        }

    def until_step(self, name: str) -> None:
        """All steps before the one of this name."""
        for step in self.life:
            if step.__name__ == name:
                return
            step()

    def rest_of_life(self, name: str) -> None:
        """All steps after the one of this name."""
        names = [step.__name__ for step in self.life]
        for step in self.life[names.index(name) + 1 :]:
            step()

    def close(self) -> None:
        self.cri.clear()
        self.cri.close()


@pytest.fixture
def ship(own_daemon: Daemon, tmp_path: Path) -> Iterator[Ship]:
    ship = Ship(own_daemon, tmp_path)
    yield ship
    ship.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("life", [LIVES[0], *(pytest.param(life, marks=pytest.mark.slow) for life in LIVES[1:])])
def test_the_daemon_may_die_after_every_step(ship: Ship, life: str) -> None:
    for step in ship.lives[life]:
        step()
        ship.restart()
    ship.gone()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("life", LIVES)
def test_the_daemon_may_die_between_any_two_steps(ship: Ship, life: str) -> None:
    """Once in each life: an earlier end cannot have put right what this one breaks."""
    for last in range(len(ship.lives[life]) - 1):
        for number, step in enumerate(ship.lives[life]):
            step()
            if number == last:
                ship.restart()


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
    directory.joinpath("gate").mkdir()
    os.mkfifo(directory / "gate" / "gate")
    return api.Mount(container_path="/tmp", host_path=str(directory / "gate"))


CALLS = ["run_pod", "create", "start", "stop", "stop_pod", "remove_pod"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CALLS)
def test_the_daemon_may_die_in_the_middle_of_a_call(ship: Ship, name: str) -> None:
    die_in_the_middle(ship, name, (1, 4, 10))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CALLS)
def test_the_daemon_may_die_at_any_moment_of_a_call(ship: Ship, name: str) -> None:
    die_in_the_middle(ship, name, (0.5, 1.5, 2, 3, 5, 6, 8, 12, 15, 20, 25, 30))


def die_in_the_middle(ship: Ship, name: str, moments: tuple[float, ...]) -> None:
    """Killed so many milliseconds after the call; the same call again succeeds, nothing is there twice, and life goes on to its end."""
    for milliseconds in moments:
        ship.until_step(name)
        step = getattr(ship, name)
        call = threading.Thread(target=swallow, args=(step,))
        call.start()
        time.sleep(milliseconds / 1000)
        ship.restart()
        call.join()
        again(ship, name)
        assert len(ship.cri.pods()) <= 1
        assert len(ship.cri.containers()) <= 1
        ship.rest_of_life(name)
        until(lambda: not pods_on_disk(ship.daemon))


def swallow(step: Callable[[], None]) -> None:
    """The call, whose daemon may die."""
    try:
        step()
    except (grpc.RpcError, ValueError):  # ValueError: the channel has been closed
        return


def again(ship: Ship, name: str) -> None:
    """The same call. Where it had succeeded and only its answer was lost, what it made is in the lists, and there a kubelet finds it."""
    try:
        getattr(ship, name)()
    except grpc.RpcError as error:
        match name, error.code():
            case "run_pod", grpc.StatusCode.ALREADY_EXISTS:
                [pod] = ship.cri.pods()
                assert pod.state == api.SANDBOX_READY
                ship.pod_id = pod.id
            case "create", grpc.StatusCode.ALREADY_EXISTS:
                [box] = ship.cri.containers()
                ship.box_id = box.id
            case "start", grpc.StatusCode.FAILED_PRECONDITION:
                assert ship.box.status().state == api.CONTAINER_RUNNING
            case _:
                raise


def pods_on_disk(daemon: Daemon) -> list[str]:
    """Directories of pods under the daemon's state."""
    return sorted(str(path) for path in (daemon.state / "pods").iterdir())
