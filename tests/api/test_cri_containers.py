"""CRI's containers over a real gRPC server and a fake kernel: their life, what their config becomes, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import grpc
import pytest

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.model import Container, Device
from moorage.v1 import runtime_pb2
from moorage.v1.runtime_pb2_grpc import RuntimeServiceStub
from tests.api.conftest import House
from tests.api.crihouse import Cri, refused
from tests.fakekernel import IMAGE_ID

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
NOBODY = "f" * 64


@pytest.fixture
def cri(grpc_channel: Any) -> Cri:
    return Cri(grpc_channel)


@pytest.fixture
def pod(cri: Cri) -> str:
    return cri.run()


def stored(house: House, container: str) -> Container:
    return house.daemon.containers.get(container)


def until_exited(cri: Cri, container: str) -> pb.ContainerStatus:
    return next(status for _ in itertools.count() if (status := cri.status(container)).state == pb.CONTAINER_EXITED)


def test_a_container_from_create_to_remove(cri: Cri, pod: str) -> None:
    labels, annotations = {"a": "b"}, {"c": "d\n"}
    container = cri.create(pod, "exit", "3", labels=labels, annotations=annotations, name="main")
    made = cri.status(container[:20])
    assert made.state == pb.CONTAINER_CREATED and made.created_at > 0
    assert (made.started_at, made.finished_at, made.exit_code, made.reason) == (0, 0, 0, "")
    cri.start(container)
    ended = until_exited(cri, container)
    assert ended.created_at <= ended.started_at <= ended.finished_at
    assert (ended.exit_code, ended.reason, ended.metadata.name) == (3, "Error", "main")
    assert dict(ended.labels) == labels and dict(ended.annotations) == annotations
    assert ended.image.image == "docker.io/library/base:latest" and ended.image_id == IMAGE_ID
    assert ended.image_ref.startswith("docker.io/library/base@sha256:")
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        cri.start(container)
    for _ in range(2):
        cri.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=container))
    with refused(NOT_FOUND):
        cri.status(container)


def test_a_command_that_is_not_there_is_a_start_error(cri: Cri, pod: str) -> None:
    container = cri.create(pod, "nosuch")
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "nosuch"):
        cri.start(container)
    status = cri.status(container)
    assert (status.state, status.exit_code, status.reason) == (pb.CONTAINER_EXITED, 128, "StartError")
    assert "nosuch" in status.message and status.finished_at > 0


def test_out_of_memory_is_a_reason(cri: Cri, pod: str, house: House) -> None:
    container = cri.started(pod)
    house.kernel.out_of_memory(container)
    status = until_exited(cri, container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_stop_kills_after_the_timeout(cri: Cri, pod: str, house: House) -> None:
    polite, stubborn, untouched = cri.started(pod), cri.started(pod, "stubborn"), cri.create(pod)
    cri.runtime.StopContainer(pb.StopContainerRequest(container_id=polite, timeout=30))
    assert cri.status(polite).exit_code == 128 + 15
    cri.runtime.StopContainer(pb.StopContainerRequest(container_id=stubborn))
    assert cri.status(stubborn).exit_code == 128 + 9
    cri.runtime.StopContainer(pb.StopContainerRequest(container_id=untouched))
    assert cri.status(untouched).state == pb.CONTAINER_CREATED


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("StartContainer", pb.StartContainerRequest(container_id=NOBODY)),
        ("ContainerStatus", pb.ContainerStatusRequest(container_id=NOBODY)),
        ("ExecSync", pb.ExecSyncRequest(container_id=NOBODY, cmd=["true"])),
        ("Exec", pb.ExecRequest(container_id=NOBODY, cmd=["true"], stdout=True)),
        ("Attach", pb.AttachRequest(container_id=NOBODY, stdout=True)),
        ("PortForward", pb.PortForwardRequest(pod_sandbox_id=NOBODY)),
        ("ContainerStats", pb.ContainerStatsRequest(container_id=NOBODY)),
        ("PodSandboxStats", pb.PodSandboxStatsRequest(pod_sandbox_id=NOBODY)),
        ("UpdateContainerResources", pb.UpdateContainerResourcesRequest(container_id=NOBODY)),
        ("ReopenContainerLog", pb.ReopenContainerLogRequest(container_id=NOBODY)),
    ],
)
def test_the_unknown_is_not_found(cri: Cri, method: str, message: Any) -> None:
    with refused(NOT_FOUND, NOBODY):
        getattr(cri.runtime, method)(message)


def test_to_be_rid_of_the_unknown_is_fine(cri: Cri) -> None:
    cri.runtime.StopContainer(pb.StopContainerRequest(container_id=NOBODY))
    cri.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=NOBODY))
    cri.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=NOBODY))
    cri.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=NOBODY))


def test_an_attempt_exists_once_in_a_pod(cri: Cri, pod: str) -> None:
    cri.create(pod, "true", name="main")
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        cri.create(pod, "false", name="main")
    cri.create(pod, "false", metadata=pb.ContainerMetadata(name="main", attempt=1))
    cri.create(cri.run(), "false", name="main")
    long = "x" * 200
    cri.create(pod, "true", name=long)
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        cri.create(pod, "false", name=long)


def test_filters_are_anded(cri: Cri, pod: str) -> None:
    one, two = cri.create(pod, labels={"n": "1"}), cri.started(pod, labels={"n": "1"})
    other = cri.create(cri.run(), labels={"n": "1"})
    assert set(cri.containers(label_selector={"n": "1"})) >= {one, two, other}
    assert cri.containers(label_selector={"n": "1"}, pod_sandbox_id=pod[:20]) == [two, one]
    running = pb.ContainerStateValue(state=pb.CONTAINER_RUNNING)
    assert cri.containers(pod_sandbox_id=pod, state=running) == [two]
    assert cri.containers(id=one, state=running) == []
    assert cri.containers(id=one, pod_sandbox_id=NOBODY) == []
    assert cri.containers(id=NOBODY) == [] and cri.containers(label_selector={"n": "2"}) == []
    streamed = cri.runtime.StreamContainers(pb.StreamContainersRequest(filter=pb.ContainerFilter(pod_sandbox_id=pod)))
    assert [each.id for batch in streamed for each in batch.containers] == [two, one]


def test_containers_without_a_pod_are_not_cris(cri: Cri, runtime: RuntimeServiceStub) -> None:
    config = runtime_pb2.ContainerConfig(image="base", command=["sleep"])
    lone = runtime.CreateContainer(runtime_pb2.CreateContainerRequest(config=config)).id
    assert cri.containers(id=lone) == []
    with refused(NOT_FOUND):
        cri.status(lone)
    cri.runtime.RemoveContainer(pb.RemoveContainerRequest(container_id=lone))
    assert runtime.GetContainer(runtime_pb2.GetContainerRequest(id=lone)).id == lone


def test_a_pod_that_is_stopped_takes_no_containers(cri: Cri, pod: str) -> None:
    cri.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod))
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        cri.create(pod)
    with refused(NOT_FOUND):
        cri.create(NOBODY)


def test_a_config_reaches_the_engine(cri: Cri, house: House, tmp_path: Path) -> None:
    pod = cri.run(log_directory=str(tmp_path))
    container = cri.create(
        pod,
        "sleep",
        args=["1"],
        working_dir="/srv",
        envs=[pb.KeyValue(key="K", value=b"v=w"), pb.KeyValue(key="EMPTY")],
        log_path="main/0.log",
        stdin=True,
        stdin_once=True,
        tty=True,
        stop_signal=pb.SIGNAL_SIGRTMINPLUS3,
        devices=[pb.Device(host_path="/dev/null", container_path="/dev/nothing", permissions="r")],
        security={
            "run_as_user": pb.Int64Value(value=1000),
            "run_as_group": pb.Int64Value(value=2000),
            "supplemental_groups": [3, 4],
            "supplemental_groups_policy": pb.Strict,
            "no_new_privs": True,
            "readonly_rootfs": True,
            "capabilities": pb.Capability(add_capabilities=["NET_ADMIN"], drop_capabilities=["CHOWN"]),
            "namespace_options": pb.NamespaceOption(pid=pb.CONTAINER),
            "masked_paths": ["/proc/kcore"],
        },
    )
    config = stored(house, container).config
    assert (config.entrypoint, config.command, config.user) == (("sleep",), ("1",), "1000:2000")
    assert config.env == ("K=v=w", "EMPTY=") and config.working_dir == "/srv"
    assert config.tty and config.stdin_open and config.stdin_once and config.read_only
    assert (config.log.path, config.log.max_size) == (f"{tmp_path}/main/0.log", 0)
    assert config.stop_signal == "SIGRTMIN+3" and config.pid == ""
    assert config.devices == (Device("/dev/null", "/dev/nothing", "r"),)
    kept = config.security
    assert (kept.cap_add, kept.cap_drop) == (("NET_ADMIN",), ("CHOWN",))
    assert kept.groups == (3, 4) and kept.strict_groups and not kept.allow_new_privileges
    assert (kept.masked_paths, kept.readonly_paths) == (("/proc/kcore",), ())
    status = cri.status(container)
    assert status.log_path == f"{tmp_path}/main/0.log" and status.stop_signal == pb.SIGNAL_SIGRTMINPLUS3
    assert not status.HasField("user")


def test_what_is_not_said_is_as_cri_says(cri: Cri, pod: str, house: House) -> None:
    container = cri.create(pod)
    config = stored(house, container).config
    assert config.pid == "pod" and config.user == "" and config.log.path == ""
    assert config.security.allow_new_privileges and config.security.seccomp_profile == "unconfined"
    status = cri.status(container)
    assert status.stop_signal == pb.SIGNAL_SIGTERM and not status.mounts and status.log_path == ""


def test_seccomp_profiles(cri: Cri, pod: str, house: House, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    local, kind = pb.SecurityProfile.Localhost, pb.SecurityProfile
    cases: list[tuple[dict[str, Any], str]] = [
        ({"seccomp": kind()}, "default"),
        ({"seccomp": kind(profile_type=kind.Unconfined)}, "unconfined"),
        ({"seccomp": kind(profile_type=local, localhost_ref=str(profile))}, profile.read_text()),
        ({"seccomp": kind(profile_type=local, localhost_ref=f"localhost/{profile}")}, profile.read_text()),
        ({"seccomp_profile_path": "runtime/default"}, "default"),
    ]
    for security, expected in cases:
        assert stored(house, cri.create(pod, security=security)).config.security.seccomp_profile == expected
    privileged = cri.run(security={"privileged": True})
    ignored = {"privileged": True, "seccomp": kind(profile_type=local, localhost_ref="/absent")}
    assert stored(house, cri.create(privileged, security=ignored)).config.security.seccomp_profile == "unconfined"
    for wrong in ("/absent.json", "relative.json", str(tmp_path), "/dev/zero"):
        with refused(INVALID):
            cri.create(pod, security={"seccomp": kind(profile_type=local, localhost_ref=wrong)})


@pytest.mark.parametrize(
    "security",
    [
        {"run_as_group": pb.Int64Value(value=1)},
        {"privileged": True},
        {"run_as_user": pb.Int64Value(value=1 << 40)},
        {"supplemental_groups": [-1]},
        {"namespace_options": pb.NamespaceOption(pid=pb.TARGET)},
        {
            "namespace_options": pb.NamespaceOption(
                userns_options=pb.UserNamespace(
                    uids=[pb.IDMapping(host_id=1, length=1)], gids=[pb.IDMapping(host_id=1, length=1)]
                )
            )
        },
    ],
)
def test_a_security_context_that_cannot_be_is_refused(cri: Cri, pod: str, security: dict[str, Any]) -> None:
    with refused(INVALID):
        cri.create(pod, security=security)


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": pb.ContainerMetadata()},
        {"envs": [pb.KeyValue(key="K", value=b"\xff")]},
        {"devices": [pb.Device(host_path="null")]},
        {"devices": [pb.Device(host_path="/dev/null", permissions="x")]},
        {"image": pb.ImageSpec()},
        {"linux": pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(oom_score_adj=5000))},
    ],
)
def test_a_config_that_cannot_be_is_refused(cri: Cri, pod: str, fields: dict[str, Any]) -> None:
    with refused(INVALID):
        cri.create(pod, **fields)


def test_a_log_stays_in_the_pods_directory(cri: Cri, tmp_path: Path) -> None:
    with refused(INVALID):
        cri.create(cri.run(log_directory=str(tmp_path)), log_path="../../escaped")


def test_the_target_of_a_pid_namespace_runs_in_the_same_pod(cri: Cri, pod: str, house: House) -> None:
    def target(container: str) -> dict[str, Any]:
        return {"namespace_options": pb.NamespaceOption(pid=pb.TARGET, target_id=container)}

    running = cri.started(pod)
    assert stored(house, cri.create(pod, security=target(running))).config.pid == running
    with refused(NOT_FOUND):
        cri.create(pod, security=target(NOBODY))
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        cri.create(pod, security=target(cri.create(pod)))
    with refused(INVALID):
        cri.create(cri.run(), security=target(running))


def test_mounts_come_back_as_they_were_asked_for(cri: Cri, pod: str, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    missing = tmp_path / "made" / "deep"
    asked = [
        pb.Mount(container_path="/a", host_path=str(link), readonly=True, recursive_read_only=True),
        pb.Mount(container_path="/b", host_path=str(missing)),
        pb.Mount(container_path="/c", readonly=True, image=pb.ImageSpec(image="base"), image_sub_path="srv"),
    ]
    status = cri.status(cri.create(pod, mounts=asked))
    assert missing.is_dir()
    asked[2].image.image_ref = IMAGE_ID
    assert list(status.mounts) == asked


@pytest.mark.parametrize(
    "mount",
    [
        pb.Mount(container_path="relative", host_path="/tmp"),
        pb.Mount(container_path="/a", host_path="relative"),
        pb.Mount(container_path="/a"),
        pb.Mount(container_path="/a", host_path="/tmp", recursive_read_only=True),
        pb.Mount(
            container_path="/a",
            host_path="/tmp",
            readonly=True,
            recursive_read_only=True,
            propagation=pb.PROPAGATION_HOST_TO_CONTAINER,
        ),
        pb.Mount(container_path="/a", image=pb.ImageSpec(image="base")),
        pb.Mount(container_path="/a", readonly=True, image=pb.ImageSpec(image="base"), image_sub_path="../x"),
        pb.Mount(container_path="/a", readonly=True, image=pb.ImageSpec(image="base"), host_path="/tmp"),
    ],
)
def test_a_mount_that_cannot_be_is_refused(cri: Cri, pod: str, mount: pb.Mount) -> None:
    with refused(INVALID):
        cri.create(pod, mounts=[mount])


def test_what_is_not_advertised_is_unimplemented(cri: Cri, pod: str) -> None:
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        cri.create(pod, mounts=[pb.Mount(container_path="/a", host_path="/tmp", mount_options=["noexec"])])
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        cri.create(pod, CDI_devices=[pb.CDIDevice(name="vendor.com/gpu=0")])


def test_limits_are_told_and_changed(cri: Cri, pod: str) -> None:
    limits = pb.LinuxContainerResources(
        cpu_period=100000, cpu_quota=20000, cpu_shares=512, memory_limit_in_bytes=64 << 20, oom_score_adj=5
    )
    container = cri.started(pod)
    update = pb.UpdateContainerResourcesRequest(container_id=container, linux=limits, annotations={"new": "1"})
    cri.runtime.UpdateContainerResources(update)
    status = cri.status(container)
    limits.memory_swap_limit_in_bytes = 64 << 20
    assert status.resources.linux == limits and dict(status.annotations) == {"new": "1"}


def test_a_log_is_reopened_only_while_the_container_runs(cri: Cri, pod: str, house: House) -> None:
    created = cri.create(pod)
    with refused(grpc.StatusCode.FAILED_PRECONDITION):
        cri.runtime.ReopenContainerLog(pb.ReopenContainerLogRequest(container_id=created))
    cri.start(created)
    cri.runtime.ReopenContainerLog(pb.ReopenContainerLogRequest(container_id=created))
    assert ("reopen_log", pod, created) in house.kernel.calls
