"""What a kubelet watches: events, statistics and metrics."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest
from grpc import RpcError

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Cri, until

pytestmark = pytest.mark.kernel

CREATED, STARTED = api.CONTAINER_CREATED_EVENT, api.CONTAINER_STARTED_EVENT
STOPPED, DELETED = api.CONTAINER_STOPPED_EVENT, api.CONTAINER_DELETED_EVENT


class Watch:
    """A subscriber that reads all that comes."""

    def __init__(self, cri: Cri) -> None:
        self.events: queue.Queue[api.ContainerEventResponse] = queue.Queue()
        self._call = cri.runtime.GetContainerEvents(api.GetEventsRequest())
        self._call.initial_metadata()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._call:
                self.events.put(event)
        except RpcError:
            return

    def next(self) -> api.ContainerEventResponse:
        return self.events.get(timeout=30)

    def expect(self, *events: tuple[str, int]) -> api.ContainerEventResponse:
        """The next events are these; the last of them."""
        for expected in events:
            event = self.next()
            assert (event.container_id, event.container_event_type) == expected
            assert event.created_at > 0
        return event

    def close(self) -> None:
        self._call.cancel()
        self._thread.join()


@pytest.fixture
def watch(cri: Cri) -> Iterator[Watch]:
    watch = Watch(cri)
    yield watch
    watch.close()


def test_events_of_a_pods_life(cri: Cri, watch: Watch) -> None:
    pod = cri.pod()
    assert watch.expect((pod.id, CREATED), (pod.id, STARTED)).pod_sandbox_status.state == api.SANDBOX_READY
    box = pod.create("sleep", "1000")
    [told] = watch.expect((box.id, CREATED)).containers_statuses
    assert (told.id, told.state) == (box.id, api.CONTAINER_CREATED)
    box.start()
    [told] = watch.expect((box.id, STARTED)).containers_statuses
    assert told.state == api.CONTAINER_RUNNING
    box.stop(0)
    [told] = watch.expect((box.id, STOPPED)).containers_statuses
    assert (told.state, told.exit_code) == (api.CONTAINER_EXITED, 137)
    box.remove()
    assert list(watch.expect((box.id, DELETED)).containers_statuses) == []
    pod.stop()
    assert watch.expect((pod.id, STOPPED)).pod_sandbox_status.state == api.SANDBOX_NOTREADY
    pod.remove()
    assert watch.expect((pod.id, DELETED)).container_id == pod.id


def test_nothing_is_missed_of_a_life_that_is_over_before_it_is_told(cri: Cri, watch: Watch) -> None:
    pod = cri.pod()
    box = pod.run("true")
    box.ended()
    pod.remove()
    life = [(pod.id, CREATED), (pod.id, STARTED), (box.id, CREATED), (box.id, STARTED), (box.id, STOPPED)]
    watch.expect(*life, (pod.id, STOPPED), (box.id, DELETED), (pod.id, DELETED))


def test_an_end_of_its_own_is_an_event(cri: Cri, watch: Watch) -> None:
    box = cri.pod().run("sh", "-c", "exit 3")
    while (event := watch.next()).container_event_type != STOPPED:
        assert event.container_event_type in (CREATED, STARTED)
    assert (event.container_id, event.containers_statuses[0].exit_code) == (box.id, 3)


def test_every_subscriber_gets_every_event(cri: Cri, watch: Watch) -> None:
    other = Watch(cri)
    pod = cri.pod()
    assert [watch.next().container_id, other.next().container_id] == [pod.id, pod.id]
    other.close()


def test_statistics_of_a_container(cri: Cri) -> None:
    pod = cri.pod()
    script = "head -c 3000000 /dev/zero > /data; echo ready; while :; do :; done"
    box = pod.run("sh", "-c", script, labels={"app": "a"})
    until(box.log)
    stats = cri.runtime.ContainerStats(api.ContainerStatsRequest(container_id=box.id)).stats
    assert stats.attributes.id == box.id
    assert dict(stats.attributes.labels) == {"app": "a"}
    assert stats.attributes.metadata == box.status().metadata
    assert stats.cpu.usage_core_nano_seconds.value > 0
    assert stats.memory.working_set_bytes.value > 0
    assert stats.cpu.timestamp > 0
    assert stats.memory.rss_bytes.value > 0
    assert stats.memory.page_faults.value > stats.memory.major_page_faults.value
    assert stats.swap.timestamp > 0 and stats.swap.HasField("swap_usage_bytes")
    assert stats.writable_layer.fs_id.mountpoint
    assert stats.writable_layer.used_bytes.value >= 3_000_000
    assert stats.writable_layer.inodes_used.value > 1


def test_cores_in_use_are_told_from_the_second_sample_on(cri: Cri) -> None:
    box = cri.pod().run("sh", "-c", "while :; do :; done")
    request = api.ContainerStatsRequest(container_id=box.id)
    assert not cri.runtime.ContainerStats(request).stats.cpu.HasField("usage_nano_cores")
    until(lambda: cri.runtime.ContainerStats(request).stats.cpu.HasField("usage_nano_cores"))
    assert until(lambda: cri.runtime.ContainerStats(request).stats.cpu.usage_nano_cores.value) > 0


def test_statistics_are_filtered(cri: Cri) -> None:
    one, two = cri.pod(), cri.pod()
    boxes = [pod.run("sleep", "1000", labels={"app": "a"}) for pod in (one, two)]

    def ids(**filter: object) -> list[str]:
        request = api.ListContainerStatsRequest(filter=api.ContainerStatsFilter(**filter))  # type: ignore[arg-type]
        return sorted(stats.attributes.id for stats in cri.runtime.ListContainerStats(request).stats)

    assert ids() == sorted(box.id for box in boxes)
    assert ids(id=boxes[0].id) == [boxes[0].id]
    assert ids(pod_sandbox_id=two.id, label_selector={"app": "a"}) == [boxes[1].id]
    assert ids(pod_sandbox_id=two.id, label_selector={"app": "b"}) == []


def test_statistics_of_a_pod(cri: Cri) -> None:
    pod = cri.pod()
    box = pod.run("sh", "-c", "ping -c 3 -i 0.1 127.0.0.1; sleep 1000")
    stats = cri.runtime.PodSandboxStats(api.PodSandboxStatsRequest(pod_sandbox_id=pod.id)).stats
    assert stats.attributes.metadata == pod.config.metadata
    assert stats.linux.cpu.usage_core_nano_seconds.value > 0
    assert stats.linux.memory.usage_bytes.value > 0
    assert stats.linux.memory.rss_bytes.value > 0
    assert stats.linux.memory.page_faults.value > 0
    interface = stats.linux.network.default_interface
    assert interface.name == "eth0" and interface.rx_bytes.value > 0
    assert interface.HasField("rx_errors") and interface.HasField("tx_errors")
    assert stats.linux.process.process_count.value > 0
    assert [one.attributes.id for one in stats.linux.containers] == [box.id]


def test_every_metric_is_described_and_sampled(cri: Cri) -> None:
    pod = cri.pod()
    box = pod.run("sleep", "1000")
    descriptors = cri.runtime.ListMetricDescriptors(api.ListMetricDescriptorsRequest()).descriptors
    labels = {one.name: len(one.label_keys) for one in descriptors}
    assert len(labels) == len(descriptors) > 10
    assert all(one.help for one in descriptors)
    assert min(labels.values()) >= 1
    [told] = cri.runtime.ListPodSandboxMetrics(api.ListPodSandboxMetricsRequest()).pod_metrics
    assert told.pod_sandbox_id == pod.id
    assert [one.container_id for one in told.container_metrics] == [box.id]
    samples = [*told.metrics, *told.container_metrics[0].metrics]
    assert {one.name for one in samples} == set(labels)
    assert all(len(one.label_values) == labels[one.name] for one in samples)
    assert all(one.timestamp > 0 for one in samples)
    [batch] = cri.runtime.StreamPodSandboxMetrics(api.StreamPodSandboxMetricsRequest())
    assert [one.pod_sandbox_id for one in batch.pod_sandbox_metrics] == [pod.id]
