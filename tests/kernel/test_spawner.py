"""The spawner and its tasks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import Cancelled, Unavailable, Unimplemented
from moorage.server.execdriver.spawner_client import SpawnerClient
from tests.spawning import running_spawner

pytestmark = pytest.mark.kernel


@pytest.fixture
def spawner() -> Iterator[SpawnerClient]:
    with running_spawner() as client:
        yield client


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.01)


def reading_task(spawner: SpawnerClient, cancel: CancelToken | None, outcome: list[BaseException]) -> threading.Thread:
    """A thread in whose task nothing happens until it is killed."""

    def run() -> None:
        try:
            spawner.run_task("sleep", {"seconds": 60}, cancel=cancel)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: len(children(spawner.pid)) == 1)
    return thread


def test_a_task_gets_its_arguments_and_descriptors(spawner: SpawnerClient) -> None:
    reader, writer = os.pipe()
    try:
        assert spawner.run_task("echo", {"a": [1, "ü"]}, [reader, writer]) == {"args": {"a": [1, "ü"]}, "fds": 2}
    finally:
        os.close(reader)
        os.close(writer)
    assert children(spawner.pid) == []


def test_an_unknown_task_is_refused(spawner: SpawnerClient) -> None:
    with pytest.raises(Unimplemented, match="no task 'nonsense'"):
        spawner.run_task("nonsense", {})


def test_tasks_run_side_by_side(spawner: SpawnerClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: spawner.run_task("echo", {"n": n, "big": "x" * 300_000})["args"]["n"], range(40))
        )
    assert answers == list(range(40))


def test_cancelling_kills_the_task(spawner: SpawnerClient) -> None:
    cancel, outcome = CancelToken(), list[BaseException]()
    thread = reading_task(spawner, cancel, outcome)
    cancel.cancel("caller hung up")
    thread.join(10)
    assert isinstance(outcome[0], Cancelled)
    assert children(spawner.pid) == []


def test_a_killed_spawner_is_replaced_and_takes_its_tasks_along(spawner: SpawnerClient) -> None:
    outcome = list[BaseException]()
    thread = reading_task(spawner, None, outcome)
    first = spawner.pid
    task = children(first)[0]
    # Before it has begun it would be run once more.
    until(lambda: "nanosleep" in Path(f"/proc/{task}/wchan").read_text())
    os.kill(first, signal.SIGKILL)
    thread.join(10)
    assert isinstance(outcome[0], Unavailable)
    until(lambda: not Path(f"/proc/{task}").exists())
    assert spawner.run_task("echo", {}) == {"args": {}, "fds": 0}
    assert spawner.pid != first


def test_the_spawner_ends_with_its_socket(spawner: SpawnerClient) -> None:
    pid = spawner.pid
    until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"moorage-spawner\0"))
    spawner.close()
    assert not Path(f"/proc/{pid}").exists()


def family(pid: int) -> list[int]:
    """All that descends from a process."""
    return [each for child in children(pid) for each in (child, *family(child))]


def keepers(spawner: int) -> list[int]:
    return [keeper for server in children(spawner) for keeper in children(server)]


@pytest.fixture
def with_spares() -> Iterator[SpawnerClient]:
    client = SpawnerClient(spares=2)
    client.start()
    # The fork server, and twice a keeper, its supervisor and the first process of a container.
    until(lambda: len(family(client.pid)) == 7)
    yield client
    client.close()


@contextmanager
def pod(spawner: SpawnerClient, directory: Path, *namespaces: str) -> Iterator[int]:
    """A pod's supervisor."""
    fd = os.open(directory, os.O_RDONLY)
    settings = {"hostname": "", "sysctls": {}, "users": [], "groups": [], "shm_size": 0}
    spec = {"id": "p", "namespaces": namespaces, **settings}
    try:
        pid, watch = spawner.order_pod(spec, fd)()
    finally:
        os.close(fd)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        assert watch.receive() is None
        watch.close()


def gone(pids: Iterable[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_pod_takes_a_spare_and_another_is_made(with_spares: SpawnerClient, tmp_path: Path) -> None:
    spares = keepers(with_spares.pid)
    with pod(with_spares, tmp_path, "ipc", "net", "uts") as pid:
        assert pid in spares
        until(lambda: len(family(with_spares.pid)) == 10)
        with_spares.close()
        until(lambda: gone(spare for spare in spares if spare != pid))
        assert not gone([pid])


def test_a_pod_with_other_namespaces_takes_no_spare(with_spares: SpawnerClient, tmp_path: Path) -> None:
    before = family(with_spares.pid)
    with pod(with_spares, tmp_path, "ipc") as pid:
        assert set(family(with_spares.pid)) == {*before, pid}
        assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")


def test_spares_end_when_the_spawner_is_killed(with_spares: SpawnerClient) -> None:
    spares = family(with_spares.pid)
    os.kill(with_spares.pid, signal.SIGKILL)
    until(lambda: gone(spares))


def test_a_pod_does_without_spares_that_have_died(with_spares: SpawnerClient, tmp_path: Path) -> None:
    spares = keepers(with_spares.pid)
    for spare in spares:
        os.kill(spare, signal.SIGKILL)
    until(lambda: gone(spares))
    with pod(with_spares, tmp_path, "ipc", "net", "uts") as pid:
        assert pid not in spares


def test_a_fork_server_that_has_died_is_replaced(with_spares: SpawnerClient, tmp_path: Path) -> None:
    (server,) = children(with_spares.pid)
    os.kill(server, signal.SIGKILL)
    until(lambda: gone([server]))
    # These are there yet, and not its children any more.
    for _ in range(3):
        with pod(with_spares, tmp_path, "ipc", "net", "uts"):
            pass
    until(lambda: len(family(with_spares.pid)) == 7)


def test_the_interpreter_of_what_is_forked_cannot_be_written_to(with_spares: SpawnerClient) -> None:
    for pid in (with_spares.pid, *family(with_spares.pid)):
        assert os.statvfs(f"/proc/{pid}/exe").f_flag & os.ST_RDONLY
