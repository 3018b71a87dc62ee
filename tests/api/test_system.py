"""SystemService, ImageService and NetworkService over a real gRPC server."""

from __future__ import annotations

import time
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from moorage.server.errors import Unauthenticated
from moorage.v1 import image_pb2, network_pb2, runtime_pb2, system_pb2
from moorage.v1.image_pb2_grpc import ImageServiceStub
from moorage.v1.network_pb2_grpc import NetworkServiceStub
from moorage.v1.runtime_pb2_grpc import RuntimeServiceStub
from moorage.v1.system_pb2_grpc import SystemServiceStub
from tests.api.conftest import House
from tests.fakekernel import IMAGE_ID


def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    code: grpc.StatusCode = error.code()
    return code


def run_once(runtime: RuntimeServiceStub) -> str:
    config = runtime_pb2.ContainerConfig(image="base", command=["true"])
    container = runtime.CreateContainer(runtime_pb2.CreateContainerRequest(config=config)).id
    runtime.StartContainer(runtime_pb2.StartContainerRequest(id=container))
    runtime.WaitContainer(runtime_pb2.WaitContainerRequest(id=container))
    return str(container)


def test_version_and_info(system: SystemServiceStub, house: House) -> None:
    version = system.GetVersion(system_pb2.GetVersionRequest())
    assert version.api_version == "moorage.v1" and version.version
    info = system.GetInfo(system_pb2.GetInfoRequest())
    assert (info.root_dir, info.graph_driver, info.exec_driver) == (str(house.root), "fake", "fake")
    storage = info.graph_driver_status
    assert (storage.backing_file_system, list(storage.options)) == ("ext4", ["fakery"])
    assert (storage.quota, storage.quota_obstacle) == ("", "it has none")
    assert info.images == 1 and info.cpus > 0 and info.memory_bytes > 0


def test_events_resume_after_a_sequence_number(system: SystemServiceStub, runtime: RuntimeServiceStub) -> None:
    live = system.StreamEvents(system_pb2.StreamEventsRequest(kinds=["container"]))
    while not any(job.verb == "events" for job in system.ListJobs(system_pb2.ListJobsRequest()).jobs):
        time.sleep(0.01)
    container = run_once(runtime)
    seen: list[Any] = []
    while not seen or seen[-1].action != "die":
        seen.append(next(live))
    live.cancel()
    mine = [event for event in seen if event.id == container]
    assert [event.action for event in mine] == ["create", "start", "die"]
    assert mine[2].attributes["exit_code"] == "0"
    after = system_pb2.StreamEventsRequest(after_sequence=mine[0].sequence, object=container)
    resumed = system.StreamEvents(after)
    assert [next(resumed).sequence, next(resumed).sequence] == [mine[1].sequence, mine[2].sequence]
    resumed.cancel()
    past = system_pb2.StreamEventsRequest(after_sequence=0, object=container, actions=["die"])
    past.until.GetCurrentTime()
    assert [event.sequence for event in system.StreamEvents(past)] == [mine[2].sequence]


def test_jobs_are_listed_with_stages_and_can_be_cancelled(
    system: SystemServiceStub, images: ImageServiceStub, runtime: RuntimeServiceStub, house: House
) -> None:
    run_once(runtime)
    ended = system.ListJobs(system_pb2.ListJobsRequest(all=True)).jobs
    start = next(job for job in ended if job.verb == "start")
    assert start.state == system_pb2.JOB_STATE_DONE and start.caller == "local"
    assert {"pod", "network", "process"} <= {stage.name for stage in start.stages}
    house.puller.block = True
    try:
        pull = images.PullImage(image_pb2.PullImageRequest(reference="base"))
        next(pull)
        (job,) = [job for job in system.ListJobs(system_pb2.ListJobsRequest()).jobs if job.verb == "pull"]
        system.CancelJob(system_pb2.CancelJobRequest(id=job.id))
        assert code_of(lambda: list(pull)) == grpc.StatusCode.CANCELLED
        assert house.puller.cancelled.wait(5)
    finally:
        house.puller.block = False
    assert code_of(lambda: system.CancelJob(system_pb2.CancelJobRequest(id=10**9))) == grpc.StatusCode.NOT_FOUND


def test_health_is_told_for_every_service(grpc_channel: Any) -> None:
    health: Any = health_pb2_grpc.HealthStub(grpc_channel)
    for name in (
        "",
        "moorage.v1.BuildService",
        "moorage.v1.ImageService",
        "moorage.v1.RuntimeService",
        "moorage.v1.NetworkService",
        "moorage.v1.SystemService",
    ):
        assert (
            health.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
        )


def test_pull_tells_its_progress_and_ends_with_the_image(images: ImageServiceStub, house: House) -> None:
    auth = image_pb2.RegistryAuth(username="me", password="secret")
    steps = list(images.PullImage(image_pb2.PullImageRequest(reference="base:1", auth=auth)))
    assert [step.stage for step in steps] == [
        image_pb2.PULL_STAGE_RESOLVING,
        image_pb2.PULL_STAGE_DOWNLOADING,
        image_pb2.PULL_STAGE_DONE,
        image_pb2.PULL_STAGE_DONE,
    ]
    assert (steps[1].digest, steps[1].current_bytes, steps[1].total_bytes) == ("sha256:aa", 5, 10)
    assert steps[-1].image.id == IMAGE_ID
    reference, _, given = house.puller.asked[-1]
    assert reference == "docker.io/library/base:1" and given.password == "secret" and "secret" not in repr(given)


def test_a_pull_that_fails_says_why(images: ImageServiceStub, house: House) -> None:
    house.puller.fail = Unauthenticated("registry.example wants a password", hint="log in")
    try:
        assert (
            code_of(lambda: list(images.PullImage(image_pb2.PullImageRequest(reference="base"))))
            == grpc.StatusCode.UNAUTHENTICATED
        )
    finally:
        house.puller.fail = None
    wrong = image_pb2.PullImageRequest(reference="Not/A Reference")
    assert code_of(lambda: list(images.PullImage(wrong))) == grpc.StatusCode.INVALID_ARGUMENT


def test_hanging_up_stops_the_pull(images: ImageServiceStub, house: House) -> None:
    house.puller.block = True
    house.puller.cancelled.clear()
    try:
        pull = images.PullImage(image_pb2.PullImageRequest(reference="base"))
        next(pull)
        pull.cancel()
        assert house.puller.cancelled.wait(5)
    finally:
        house.puller.block = False


def test_images_by_every_name(images: ImageServiceStub) -> None:
    for name in ("base", "base:latest", "docker.io/library/base", IMAGE_ID, "111111111111", "base@sha256:" + "4" * 64):
        assert images.GetImage(image_pb2.GetImageRequest(reference=name)).id == IMAGE_ID
    listed = images.ListImages(image_pb2.ListImagesRequest(reference="base")).images
    assert [image.size_bytes for image in listed] == [1234]
    assert not images.ListImages(image_pb2.ListImagesRequest(reference="other")).images
    assert code_of(lambda: images.GetImage(image_pb2.GetImageRequest(reference="absent"))) == grpc.StatusCode.NOT_FOUND


def test_networks_that_are_always_there(networks: NetworkServiceStub) -> None:
    listed = networks.ListNetworks(network_pb2.ListNetworksRequest()).networks
    assert [network.name for network in listed] == ["bridge", "host", "none"]
    found = networks.GetNetwork(network_pb2.GetNetworkRequest(network=listed[0].id[:12]))
    assert found.name == "bridge"
    assert (
        code_of(lambda: networks.RemoveNetwork(network_pb2.RemoveNetworkRequest(network="host")))
        == grpc.StatusCode.FAILED_PRECONDITION
    )
    assert (
        code_of(lambda: networks.GetNetwork(network_pb2.GetNetworkRequest(network="absent")))
        == grpc.StatusCode.NOT_FOUND
    )


def test_a_deadline_that_passes_is_told(runtime: RuntimeServiceStub) -> None:
    config = runtime_pb2.ContainerConfig(image="base", command=["sleep"])
    container = runtime.CreateContainer(runtime_pb2.CreateContainerRequest(config=config)).id
    runtime.StartContainer(runtime_pb2.StartContainerRequest(id=container))
    begun = time.monotonic()
    wait = runtime_pb2.WaitContainerRequest(id=container)
    assert code_of(lambda: runtime.WaitContainer(wait, timeout=0.2)) == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 10
    runtime.RemoveContainer(runtime_pb2.RemoveContainerRequest(id=container, force=True))
