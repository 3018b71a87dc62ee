"""CRI's images, statistics, metrics and events over a real gRPC server and a fake kernel."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.api.cri import common
from moorage.server.api.cri.images import image
from moorage.server.engine import commands
from moorage.server.engine.job import JobState
from moorage.server.errors import NotFound
from moorage.server.model import Image
from moorage.v1 import system_pb2
from moorage.v1.system_pb2_grpc import SystemServiceStub
from tests.api.conftest import House
from tests.api.crihouse import Cri, refused
from tests.fakekernel import IMAGE, IMAGE_ID

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def cri(grpc_channel: Any) -> Cri:
    return Cri(grpc_channel)


@pytest.fixture
def pod(cri: Cri) -> str:
    return cri.run(labels={"app": "stats"})


def spec(name: str) -> pb.ImageSpec:
    return pb.ImageSpec(image=name)


# --- images -----------------------------------------------------------------------------------------------------------


def test_an_image_is_the_same_by_every_name(cri: Cri) -> None:
    names = ("base", "base:latest", IMAGE_ID, "1" * 12, "base@sha256:" + "4" * 64)
    found = [cri.images.ImageStatus(pb.ImageStatusRequest(image=spec(name))).image for name in names]
    assert all(each == found[0] for each in found)
    assert found[0].id == IMAGE_ID and list(found[0].repo_tags) == ["docker.io/library/base:latest"]
    assert found[0].repo_digests and found[0].size > 0 and not found[0].pinned
    wanted = pb.ListImagesRequest(filter=pb.ImageFilter(image=spec("base")))
    assert list(cri.images.ListImages(wanted).images) == [found[0]]
    streamed = cri.images.StreamImages(pb.StreamImagesRequest())
    assert IMAGE_ID in [each.id for batch in streamed for each in batch.images]


def test_an_image_that_is_not_here(cri: Cri) -> None:
    assert not cri.images.ImageStatus(pb.ImageStatusRequest(image=spec("absent"))).HasField("image")
    assert not cri.images.ListImages(pb.ListImagesRequest(filter=pb.ImageFilter(image=spec("absent")))).images
    cri.images.RemoveImage(pb.RemoveImageRequest(image=spec("absent")))
    with refused(INVALID):
        cri.images.ImageStatus(pb.ImageStatusRequest())
    with refused(INVALID):
        cri.images.RemoveImage(pb.RemoveImageRequest())


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [("", None, ""), ("0", 0, ""), ("1000:1000", 1000, ""), ("nginx", None, "nginx"), ("nginx:www", None, "nginx")],
)
def test_an_images_user_is_a_number_or_a_name(user: str, uid: int | None, username: str) -> None:
    message = image(replace(IMAGE, config=replace(IMAGE.config, user=user)), set())
    assert (message.uid.value if message.HasField("uid") else None, message.username) == (uid, username)


def test_size_is_never_0_and_pins_are_told() -> None:
    message = image(replace(IMAGE, layers=()), {IMAGE_ID})
    assert message.size > 0 and message.pinned


def test_pull_answers_the_id_and_passes_credentials_on(cri: Cri, house: House) -> None:
    def pulled_with(reference: str, **fields: Any) -> Any:
        request = pb.PullImageRequest(image=spec(reference), auth=pb.AuthConfig(**fields))
        assert cri.images.PullImage(request).image_ref == IMAGE_ID
        return house.puller.asked[-1][2]

    given = pulled_with("base", username="me", password="secret")
    assert (given.username, given.password) == ("me", "secret")
    given = pulled_with("base", auth=base64.b64encode(b"me:a:b").decode())
    assert (given.username, given.password) == ("me", "a:b")
    assert pulled_with("base", identity_token="t").identity_token == "t"
    assert (
        pulled_with(
            "registry.example/x", registry_token="t", server_address="https://registry.example/v1/"
        ).registry_token
        == "t"
    )
    assert pulled_with("base", username="me", server_address="https://index.docker.io/v1/").username == "me"
    assert pulled_with("base", username="me", password="secret", server_address="other.example") is None
    assert pulled_with("base") is None
    assert house.puller.asked[-1][0] == "docker.io/library/base:latest"
    with refused(INVALID):
        cri.images.PullImage(pb.PullImageRequest(image=spec("base"), auth=pb.AuthConfig(auth="!")))
    with refused(INVALID):
        cri.images.PullImage(pb.PullImageRequest())


def test_a_pull_that_fails_says_why(cri: Cri, house: House) -> None:
    house.puller.fail = NotFound("registry.example has no image x")
    try:
        with refused(grpc.StatusCode.NOT_FOUND, "no image x"):
            cri.images.PullImage(pb.PullImageRequest(image=spec("x")))
    finally:
        house.puller.fail = None


def test_the_image_file_system_is_there(cri: Cri) -> None:
    info = cri.images.ImageFsInfo(pb.ImageFsInfoRequest())
    for usage in (*info.image_filesystems, *info.container_filesystems):
        assert Path(usage.fs_id.mountpoint).is_dir() and usage.timestamp > 0
        assert usage.used_bytes.value == IMAGE.size and usage.inodes_used.value > 0
    assert len(info.image_filesystems) == len(info.container_filesystems) == 1


# --- statistics -------------------------------------------------------------------------------------------------------


def test_the_rate_is_unset_until_there_are_two_samples(cri: Cri, pod: str) -> None:
    container = cri.started(pod, labels={"n": "1"})
    first = cri.runtime.ContainerStats(pb.ContainerStatsRequest(container_id=container)).stats
    assert first.attributes.id == container and dict(first.attributes.labels) == {"n": "1"}
    assert first.cpu.usage_core_nano_seconds.value > 0 and not first.cpu.HasField("usage_nano_cores")
    assert (first.memory.usage_bytes.value, first.memory.working_set_bytes.value) == (1000, 800)
    assert (first.memory.rss_bytes.value, first.swap.swap_usage_bytes.value) == (600, 50)
    assert (first.memory.page_faults.value, first.memory.major_page_faults.value) == (40, 4)
    assert first.writable_layer.used_bytes.value == 4096 and Path(first.writable_layer.fs_id.mountpoint).is_dir()
    while True:
        second = cri.runtime.ContainerStats(pb.ContainerStatsRequest(container_id=container)).stats
        if second.cpu.timestamp != first.cpu.timestamp:
            break
    assert second.cpu.HasField("usage_nano_cores")


def test_a_poll_of_statistics_ends_as_it_should(cri: Cri, pod: str, house: House) -> None:
    """In the audit log, a job that is left in the middle is one whose caller hung up."""
    container = cri.started(pod)
    cri.runtime.ListContainerStats(pb.ListContainerStatsRequest())
    cri.runtime.ContainerStats(pb.ContainerStatsRequest(container_id=container))
    ended = [job for job in house.daemon.engine.jobs(ended=True) if isinstance(job.command, commands.Stats)]
    assert {job.state for job in ended} == {JobState.DONE}


def test_statistics_are_filtered(cri: Cri, pod: str) -> None:
    one, two = cri.started(pod, labels={"n": "1"}), cri.started(pod, labels={"n": "2"})
    idle = cri.create(pod)

    def listed(**wanted: Any) -> set[str]:
        request = pb.ListContainerStatsRequest(filter=pb.ContainerStatsFilter(**wanted))
        return {each.attributes.id for each in cri.runtime.ListContainerStats(request).stats}

    while not listed(pod_sandbox_id=pod):
        time.sleep(0.01)
    assert listed(pod_sandbox_id=pod[:20]) == {one, two}
    assert listed(pod_sandbox_id=pod, label_selector={"n": "2"}) == {two}
    assert listed(id=one[:20]) == {one} and listed(id=idle) == set() and listed(id="f" * 64) == set()
    streamed = cri.runtime.StreamContainerStats(
        pb.StreamContainerStatsRequest(filter=pb.ContainerStatsFilter(pod_sandbox_id=pod))
    )
    assert {each.attributes.id for batch in streamed for each in batch.container_stats} == {one, two}
    unused = cri.runtime.ContainerStats(pb.ContainerStatsRequest(container_id=idle)).stats
    assert unused.attributes.id == idle and not unused.HasField("cpu")


def test_a_pods_statistics(cri: Cri, pod: str) -> None:
    container = cri.started(pod)
    request = pb.PodSandboxStatsRequest(pod_sandbox_id=pod[:20])
    while not (stats := cri.runtime.PodSandboxStats(request).stats).linux.containers:
        time.sleep(0.01)
    assert stats.attributes.id == pod and dict(stats.attributes.labels) == {"app": "stats"}
    assert stats.linux.process.process_count.value == 3
    assert (stats.linux.memory.rss_bytes.value, stats.linux.memory.page_faults.value) == (600, 40)
    assert not stats.linux.HasField("network"), "the passive driver makes no interface"
    assert [each.attributes.id for each in stats.linux.containers] == [container]
    wanted = pb.PodSandboxStatsFilter(id=pod, label_selector={"app": "stats"})
    listed = cri.runtime.ListPodSandboxStats(pb.ListPodSandboxStatsRequest(filter=wanted)).stats
    assert [each.attributes.id for each in listed] == [pod]
    streamed = cri.runtime.StreamPodSandboxStats(pb.StreamPodSandboxStatsRequest(filter=wanted))
    assert [each.attributes.id for batch in streamed for each in batch.pod_sandbox_stats] == [pod]
    nothing = pb.PodSandboxStatsFilter(id=pod, label_selector={"app": "other"})
    assert not cri.runtime.ListPodSandboxStats(pb.ListPodSandboxStatsRequest(filter=nothing)).stats


def test_metrics_have_the_labels_of_their_descriptors(cri: Cri, pod: str) -> None:
    container = cri.started(pod)
    descriptors = cri.runtime.ListMetricDescriptors(pb.ListMetricDescriptorsRequest()).descriptors
    keys = {each.name: len(each.label_keys) for each in descriptors}
    assert len(keys) == len(descriptors) > 40
    assert all(each.help and each.label_keys for each in descriptors)
    found = cri.runtime.ListPodSandboxMetrics(pb.ListPodSandboxMetricsRequest()).pod_metrics
    (mine,) = [each for each in found if each.pod_sandbox_id == pod]
    assert [each.container_id for each in mine.container_metrics] == [container]
    metrics = [*mine.metrics, *mine.container_metrics[0].metrics]
    assert metrics
    for metric in metrics:
        assert len(metric.label_values) == keys[metric.name], metric.name
        assert metric.timestamp > 0
    streamed = cri.runtime.StreamPodSandboxMetrics(pb.StreamPodSandboxMetricsRequest())
    assert pod in [each.pod_sandbox_id for batch in streamed for each in batch.pod_sandbox_metrics]


def test_lists_are_cut_into_batches_below_what_a_client_takes() -> None:
    pods = [pb.PodSandbox(id=str(number), annotations={"a": "x" * 300_000}) for number in range(20)]
    batches = list(common.batches(pods))
    assert [pod for batch in batches for pod in batch] == pods
    assert len(batches) > 1
    assert max(sum(pod.ByteSize() for pod in batch) for batch in batches) < 4 << 20
    assert list(common.batches([])) == []


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_of_pods_and_containers_carry_statuses(cri: Cri, system: SystemServiceStub) -> None:
    events = cri.runtime.GetContainerEvents(pb.GetEventsRequest())
    while not any(job.verb == "events" for job in system.ListJobs(system_pb2.ListJobsRequest()).jobs):
        time.sleep(0.01)
    pod = cri.run()
    container = cri.started(pod)
    cri.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod))
    cri.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod))
    seen: list[pb.ContainerEventResponse] = []
    while not seen or (seen[-1].container_id, seen[-1].container_event_type) != (pod, pb.CONTAINER_DELETED_EVENT):
        seen.append(next(events))
    events.cancel()
    created, started, stopped, deleted = (
        pb.CONTAINER_CREATED_EVENT,
        pb.CONTAINER_STARTED_EVENT,
        pb.CONTAINER_STOPPED_EVENT,
        pb.CONTAINER_DELETED_EVENT,
    )
    for owner in (pod, container):
        assert [each.container_event_type for each in seen if each.container_id == owner] == [
            created,
            started,
            stopped,
            deleted,
        ]
    assert seen[0].pod_sandbox_status.id == pod and seen[0].created_at > 0
    assert not seen[-1].HasField("pod_sandbox_status")


def test_a_new_reader_gets_what_is_to_come_whatever_the_clock_does(
    cri: Cri, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = house.daemon.rooms.db
    with db.transaction() as tx:
        tx.event("pod", "start", "a" * 64, "")
    events = cri.runtime.GetContainerEvents(pb.GetEventsRequest())
    events.initial_metadata()
    monkeypatch.setattr("moorage.server.graph.graphdb.time", SimpleNamespace(time_ns=lambda: 1))
    with db.transaction() as tx:
        tx.event("pod", "start", "b" * 64, "")
    event = next(events)
    events.cancel()
    assert (event.container_id, event.created_at) == ("b" * 64, 1)


# --- removal: last, for it takes the image of the others ------------------------------------------------------------------


def test_removing_drops_every_name_and_may_be_done_by_many_at_once(cri: Cri, house: House) -> None:
    other = replace(
        IMAGE, id="sha256:" + "5" * 64, tags=("docker.io/library/other:1", "docker.io/library/other:2"), digests=()
    )
    house.graph.images[other.id] = other
    removals: list[str] = []

    def remove(name: str, in_use: Any, forget: bool, force: bool) -> Any:
        assert forget
        found: Image = house.graph.get(name)
        removals.append(name)
        del house.graph.images[found.id]
        return pytest.importorskip("moorage.server.graph.graph").Removed(found.tags, (found.id,), 1)

    house.graph.remove = remove  # type: ignore[attr-defined]

    def call(_: int) -> None:
        cri.images.RemoveImage(pb.RemoveImageRequest(image=spec("other:2")))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    assert removals and set(removals) == {other.id}
    assert not cri.images.ImageStatus(pb.ImageStatusRequest(image=spec("other:1"))).HasField("image")


def test_a_reader_that_is_too_slow_is_told_what_it_missed(
    cri: Cri, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = house.daemon.rooms.db
    monkeypatch.setattr(db, "_event_limit", 100)
    events = cri.runtime.GetContainerEvents(pb.GetEventsRequest())
    events.initial_metadata()
    with db.transaction() as tx:
        for _ in range(20_000):
            tx.event("pod", "start", "f" * 64, "")
    with pytest.raises(grpc.RpcError, match="are no longer kept: their reader was too slow") as lost:
        for _ in events:
            continue
    assert lost.value.code() == grpc.StatusCode.DATA_LOSS
