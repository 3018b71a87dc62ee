"""A kubelet's long days, shortened: probes every second, logs rotated under load, statistics polled, events read late, many pods."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Box, Cri, Pod, parse, refused, until
from tests.daemon import Daemon
from tests.usage import Usage, grown

pytestmark = pytest.mark.kernel

GROWTH_LIMIT = 6 << 20
WARM_UP_ROUNDS = 100
"""Enough for what the daemon keeps of its last jobs to be full."""


def supervisor(pod: Pod) -> int:
    """The process that stands beside the pod's containers."""
    request = api.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
    return int(json.loads(pod.cri.runtime.PodSandboxStatus(request).info["info"])["pid"])


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """`work` in a thread, told to stop at the end; what it raises is raised here."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work, stop)
        try:
            yield stop
        finally:
            stop.set()
        future.result()


def relist(cri: Cri) -> None:
    """What a kubelet asks every second to learn whether something has changed."""
    cri.pods()
    cri.containers()
    cri.runtime.Status(api.StatusRequest())


def probe(boxes: list[Box], number: int) -> None:
    """One second's probes: all are well, one is not ready, and now and then one hangs."""
    main, sidecar = boxes
    with ThreadPoolExecutor(3) as pool:
        live = [pool.submit(box.exec, "true") for box in boxes]
        ready = pool.submit(main.exec, "test", "-e", "/ready")
        assert [one.result().exit_code for one in live] == [0, 0]
        assert ready.result().exit_code == 1
    if number % 10 == 9:
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            sidecar.exec("sleep", "1000", timeout=1)


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(240)], id="a-minute"),
        pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(900)], id="five-minutes"),
    ],
)
def test_probes_every_second_cost_neither_descriptors_nor_memory(cri: Cri, shared_daemon: Daemon, rounds: int) -> None:
    pod = cri.pod()
    assert pod.run("true", name="init").ended().reason == "Completed"
    boxes = [pod.run("sleep", "100000", name=name) for name in ("main", "sidecar")]
    for number in (*[0] * WARM_UP_ROUNDS, 9):
        probe(boxes, number)
        relist(cri)
    held = {pid: Usage.of(pid) for pid in (shared_daemon.pid, supervisor(pod))}
    began = time.monotonic()
    for number in range(rounds):
        probe(boxes, number)
        relist(cri)
        time.sleep(max(0.0, began + number + 1 - time.monotonic()))
    assert grown(held, GROWTH_LIMIT) == []
    assert [box.status().state for box in boxes] == [api.CONTAINER_RUNNING] * 2


BURSTS, BURST = 100, 20_000
WRITER = f"""
i=0
while [ $i -lt {BURSTS} ]; do
  echo burst $i >&2
  seq $((i * {BURST})) $((i * {BURST} + {BURST - 1}))
  i=$((i + 1))
  usleep 50000
done
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rotation_of_two_streams_under_load_loses_no_line(cri: Cri, shared_daemon: Daemon) -> None:
    pod = cri.pod()
    box = pod.run("sh", "-c", WRITER)
    path, kept = box.log_path, list[Path]()
    until(lambda: path.exists() and path.stat().st_size)
    held = {pid: Usage.of(pid) for pid in (shared_daemon.pid, supervisor(pod))}
    while box.status().state == api.CONTAINER_RUNNING:
        kept.append(path.with_name(f"{path.name}.{len(kept)}"))
        path.rename(kept[-1])
        try:
            box.reopen_log()
        except grpc.RpcError:
            until(lambda: box.status().state == api.CONTAINER_EXITED)
        time.sleep(0.1)
    assert len(kept) > 20
    assert box.status().exit_code == 0
    expected = {"stdout": map(str, range(BURSTS * BURST)), "stderr": (f"burst {number}" for number in range(BURSTS))}
    for stream, text in whole_lines([*kept, *([path] if path.exists() else [])]):
        assert text == next(expected[stream])
    assert [next(rest, None) for rest in expected.values()] == [None, None]
    assert grown(held, GROWTH_LIMIT) == []


def whole_lines(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Stream and text of the lines that these files hold one after the other; the parts of a line may be in two of them."""
    parts = {"stdout": "", "stderr": ""}
    for file in files:
        with file.open() as entries:
            for entry in entries:
                _, stream, tag, text = parse(entry.rstrip("\n"))
                parts[stream] += text
                if tag == "F":
                    yield stream, parts[stream]
                    parts[stream] = ""
    assert parts == {"stdout": "", "stderr": ""}


def churn(cri: Cri, pods: int) -> None:
    """Pods come and go."""
    for _ in range(pods):
        pod = cri.pod()
        pod.run("sh", "-c", "echo hello").ended()
        pod.stop()
        pod.remove()


class Poll:
    """An eviction manager's eyes: all statistics again and again; those of `steady` containers must be in every answer."""

    def __init__(self, cri: Cri, steady: list[Box]) -> None:
        self.cri = cri
        self.boxes, self.pods = {box.id for box in steady}, {box.pod.id for box in steady}
        self.rounds = 0
        self._used: dict[str, int] = {}

    def until_stopped(self, stop: threading.Event) -> None:
        """Look, once more after it has been stopped: by then the files of what has gone are closed."""
        last = False
        while not last:
            last = stop.is_set() and self.rounds >= 10
            self._once()
            self.rounds += 1
            time.sleep(0.02)

    def _once(self) -> None:
        runtime = self.cri.runtime
        boxes = {one.attributes.id: one for one in runtime.ListContainerStats(api.ListContainerStatsRequest()).stats}
        pods = {one.attributes.id: one for one in runtime.ListPodSandboxStats(api.ListPodSandboxStatsRequest()).stats}
        assert self.boxes <= boxes.keys()
        assert self.pods <= pods.keys()
        for identifier in self.boxes:
            self._rises(identifier, boxes[identifier].cpu.usage_core_nano_seconds.value)
            assert boxes[identifier].memory.working_set_bytes.value > 0
        for identifier in self.pods:
            self._rises(identifier, pods[identifier].linux.cpu.usage_core_nano_seconds.value)
        metrics = runtime.ListPodSandboxMetrics(api.ListPodSandboxMetricsRequest()).pod_metrics
        assert self.pods <= {one.pod_sandbox_id for one in metrics}
        [image_files] = self.cri.images.ImageFsInfo(api.ImageFsInfoRequest()).image_filesystems
        assert image_files.used_bytes.value > 0

    def _rises(self, identifier: str, used: int) -> None:
        assert used >= self._used.get(identifier, 1)
        self._used[identifier] = used


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_statistics_polled_while_pods_come_and_go_are_whole_and_cost_nothing(cri: Cri, shared_daemon: Daemon) -> None:
    steady = [cri.pod().run("sh", "-c", "while :; do usleep 10000; done") for _ in range(10)]
    churn(cri, 5)
    poll = Poll(cri, steady)
    poll.until_stopped(stopped())
    held = {shared_daemon.pid: Usage.of(shared_daemon.pid)}
    with meanwhile(poll.until_stopped), ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(churn, cri, 30) for _ in range(2)]:
            done.result()
    assert poll.rounds > 10
    poll.until_stopped(stopped())
    assert grown(held, GROWTH_LIMIT) == []


def stopped() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_subscriber_that_does_not_read_holds_up_nobody_and_misses_nothing(cri: Cri, shared_daemon: Daemon) -> None:
    late = cri.runtime.GetContainerEvents(api.GetEventsRequest())
    late.initial_metadata()
    pod = cri.pod()
    bulk = {"bulk": "x" * 30_000}
    lives = []
    held: dict[int, Usage] = {}
    for number in range(
        150
    ):  # 600 events, of which 450 carry the annotation: more than the transport holds for a reader
        if number == 10:
            held = {shared_daemon.pid: Usage.of(shared_daemon.pid)}
        box = pod.run("true", annotations=bulk)
        box.ended()
        box.remove()
        lives.append(box.id)
    assert grown(held, GROWTH_LIMIT) == []
    expected = [
        (pod.id, api.CONTAINER_CREATED_EVENT),
        (pod.id, api.CONTAINER_STARTED_EVENT),
        *itertools.product(
            lives,
            (
                api.CONTAINER_CREATED_EVENT,
                api.CONTAINER_STARTED_EVENT,
                api.CONTAINER_STOPPED_EVENT,
                api.CONTAINER_DELETED_EVENT,
            ),
        ),
    ]
    told = [(event.container_id, event.container_event_type) for event in itertools.islice(late, len(expected))]
    late.cancel()
    assert told == expected


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_five_hundred_pods_are_up_listed_and_measured(
    cri: Cri, shared_daemon: Daemon, record_property: Callable[[str, object], None]
) -> None:
    count = 500

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        record_property(name, seconds)
        logging.getLogger(__name__).info("%d pods: %s %.3f s", count, name, seconds)

    with ThreadPoolExecutor(8) as pool:
        with timed("up"):
            boxes = list(pool.map(lambda _: cri.pod().run("sleep", "100000"), range(count)))
        ids, pods = {box.id for box in boxes}, {box.pod.id for box in boxes}
        with timed("ListPodSandbox"):
            assert {pod.id for pod in cri.pods(state=api.PodSandboxStateValue(state=api.SANDBOX_READY))} == pods
        with timed("ListContainers"):
            assert {box.id for box in cri.containers()} == ids
        for name in ("ListContainerStats", "ListContainerStats again"):
            with timed(name):
                stats = cri.runtime.ListContainerStats(api.ListContainerStatsRequest()).stats
            assert {one.attributes.id for one in stats} == ids
            time.sleep(0.1)  # the next one is of a new sample
        with timed("ListPodSandboxStats"):
            pod_stats = cri.runtime.ListPodSandboxStats(api.ListPodSandboxStatsRequest()).stats
        assert {one.attributes.id for one in pod_stats} == pods
        with timed("ContainerStatus of each"):
            assert {box.status().state for box in boxes} == {api.CONTAINER_RUNNING}
        with timed("PodSandboxStatus of each"):
            assert len({box.pod.ip for box in boxes}) == count
        with timed("ExecSync in each"):
            assert {done.exit_code for done in pool.map(lambda box: box.exec("true"), boxes)} == {0}
        with timed("down"):
            list(pool.map(lambda box: (box.pod.stop(), box.pod.remove()), boxes))
    assert cri.pods() == []
    assert cri.containers() == []
