"""CRI's pods over a real gRPC server and a fake kernel: identity, filters, what is refused, and the wire."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from moorage.cri.v1 import api_pb2 as pb
from moorage.server.model import IdMap, PortMapping
from moorage.server.networkdriver.passive import PassiveDriver
from tests.api.conftest import House
from tests.api.crihouse import Cri, refused

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
ONE_MAP = pb.IDMapping(container_id=0, host_id=100000, length=65536)


@pytest.fixture
def cri(grpc_channel: Any) -> Cri:
    return Cri(grpc_channel)


def test_the_services_are_listed_and_healthy(grpc_channel: Any) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(grpc_channel)
    asked: Any = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(stub.ServerReflectionInfo(iter([asked])))
    listed = {service.name for service in answer.list_services_response.service}
    health: Any = health_pb2_grpc.HealthStub(grpc_channel)
    for name in ("runtime.v1.RuntimeService", "runtime.v1.ImageService"):
        assert name in listed
        check = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert check.status == health_pb2.HealthCheckResponse.SERVING


def test_version_has_all_four_fields(cri: Cri) -> None:
    version = cri.runtime.Version(pb.VersionRequest(version="v1"))
    assert (version.version, version.runtime_name, version.runtime_api_version) == ("0.1.0", "moorage", "v1")
    assert version.runtime_version


def test_status_tells_conditions_handlers_and_features(cri: Cri) -> None:
    status = cri.runtime.Status(pb.StatusRequest(verbose=True))
    assert {each.type: each.status for each in status.status.conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert [handler.name for handler in status.runtime_handlers] == ["", "moorage"]
    assert status.features.supplemental_groups_policy and not status.features.mount_options
    assert "cgroupfs" in status.info["config"]
    assert not cri.runtime.Status(pb.StatusRequest()).info
    config = cri.runtime.RuntimeConfig(pb.RuntimeConfigRequest())
    assert config.linux.cgroup_driver == pb.CGROUPFS
    cri.runtime.UpdateRuntimeConfig(pb.UpdateRuntimeConfigRequest())


def test_the_network_is_not_ready_when_its_driver_says_why(
    cri: Cri, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def condition() -> pb.RuntimeCondition:
        conditions = cri.runtime.Status(pb.StatusRequest()).status.conditions
        return next(each for each in conditions if each.type == "NetworkReady")

    with monkeypatch.context() as patch:
        patch.setattr(PassiveDriver, "obstacle", lambda self: "there is no CNI network")
        found = condition()
        assert (found.status, found.reason, found.message) == (
            False,
            "NetworkPluginNotReady",
            "there is no CNI network",
        )
    assert condition() == pb.RuntimeCondition(type="NetworkReady", status=True)


def test_a_pod_comes_back_as_it_was_asked_for(cri: Cri) -> None:
    labels, annotations = {"a": "b", "k8s.io/x": ""}, {"note": "unaltered\n\N{SNOWMAN}"}
    options = pb.NamespaceOption(pid=pb.CONTAINER, ipc=pb.NODE)
    pod = cri.run(
        handler="moorage",
        labels=labels,
        annotations=annotations,
        security={"namespace_options": options},
        hostname="box",
    )
    status = cri.pod_status(pod[:16])
    assert status.id == pod and status.state == pb.SANDBOX_READY and status.created_at > 0
    assert (status.metadata.namespace, status.metadata.attempt) == ("ns", 0)
    assert dict(status.labels) == labels and dict(status.annotations) == annotations
    assert status.linux.namespaces.options == options and status.runtime_handler == "moorage"
    (listed,) = cri.runtime.ListPodSandbox(pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(id=pod))).items
    assert (listed.metadata, dict(listed.annotations)) == (status.metadata, annotations)


def test_pods_are_stopped_and_removed_once_and_again(cri: Cri) -> None:
    pod = cri.run()
    container = cri.started(pod)
    for _ in range(2):
        cri.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod))
        assert cri.pod_status(pod).state == pb.SANDBOX_NOTREADY
    assert cri.status(container).state == pb.CONTAINER_EXITED
    for _ in range(2):
        cri.runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod))
    with refused(NOT_FOUND, pod):
        cri.pod_status(pod)
    assert cri.pods(id=pod) == [] and cri.containers(pod_sandbox_id=pod) == []


def test_the_same_names_are_reserved(cri: Cri) -> None:
    metadata = pb.PodSandboxMetadata(name="twin", namespace="ns", uid="u")
    pod = cri.run(metadata=metadata)
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        cri.run(metadata=metadata, hostname="other")
    again = pb.PodSandboxMetadata(name="twin", namespace="ns", uid="u", attempt=1)
    assert cri.run(metadata=again) != pod


def test_filters_are_anded_and_unknown_ids_match_nothing(cri: Cri) -> None:
    one, two = cri.run(labels={"app": "x", "n": "1"}), cri.run(labels={"app": "x", "n": "2"})
    cri.runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=two))
    assert cri.pods(label_selector={"app": "x"}) == [two, one]
    assert cri.pods(label_selector={"app": "x", "n": "1"}) == [one]
    ready = pb.PodSandboxStateValue(state=pb.SANDBOX_READY)
    assert cri.pods(label_selector={"app": "x"}, state=ready) == [one]
    assert cri.pods(id=two[:20], state=ready) == []
    assert cri.pods(id="no-such-pod") == []
    streamed = cri.runtime.StreamPodSandboxes(
        pb.StreamPodSandboxesRequest(filter=pb.PodSandboxFilter(label_selector={"app": "x"}))
    )
    assert [pod.id for batch in streamed for pod in batch.pod_sandboxes] == [two, one]


def test_an_ambiguous_prefix_is_not_not_found(cri: Cri) -> None:
    pods = [cri.run() for _ in range(17)]
    shared = next(pod[:1] for pod in pods if sum(other[0] == pod[0] for other in pods) > 1)
    with refused(INVALID, "ambiguous"):
        cri.pod_status(shared)
    with refused(INVALID, "ambiguous"):
        cri.pods(id=shared)


def test_what_a_pod_is_made_of_reaches_the_engine(cri: Cri, house: House) -> None:
    ports = [
        pb.PortMapping(container_port=80, host_port=12000),
        pb.PortMapping(container_port=81),
        pb.PortMapping(protocol=pb.UDP, container_port=53, host_port=53, host_ip="127.0.0.1"),
    ]
    context = pb.LinuxSandboxSecurityContext(privileged=True, supplemental_groups=[7])
    pod = cri.run(
        port_mappings=ports,
        dns_config=pb.DNSConfig(servers=["10.0.0.10"], searches=["a.b"], options=["ndots:5"]),
        log_directory="/var/log/pods/x/",
    )
    record = next(each for each in house.daemon.pods.all() if each.id == pod)
    assert record.config.attachment.ports == (PortMapping(80, 12000), PortMapping(53, 53, "127.0.0.1", "udp"))
    assert record.config.dns and record.config.attachment.dns_servers == ("10.0.0.10",)
    assert record.config.log_directory == "/var/log/pods/x"
    assert (record.config.pid, record.config.ipc, record.config.network) == ("pod", "pod", "pod")
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name="parent"),
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent="test.slice", security_context=context, sysctls={"net.core.somaxconn": "9"}
        ),
    )
    other = cri.runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config)).pod_sandbox_id
    record = next(each for each in house.daemon.pods.all() if each.id == other)
    assert (record.config.cgroup_parent, record.config.dns) == ("/test.slice", False)
    assert record.config.security.privileged and record.config.security.groups == (7,)
    assert record.config.sysctls == {"net.core.somaxconn": "9"}


def test_the_hosts_network_takes_no_mappings(cri: Cri, house: House) -> None:
    options = pb.NamespaceOption(network=pb.NODE)
    pod = cri.run(
        port_mappings=[pb.PortMapping(container_port=80, host_port=80)], security={"namespace_options": options}
    )
    record = next(each for each in house.daemon.pods.all() if each.id == pod)
    assert record.config.attachment.ports == () and record.config.network == "host"
    assert cri.pod_status(pod).network.ip == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": pb.PodSandboxMetadata(namespace="ns")},
        {"log_directory": "relative"},
        {"log_directory": "/var/../etc"},
        {"port_mappings": [pb.PortMapping(container_port=70000, host_port=1)]},
        {"linux": pb.LinuxPodSandboxConfig(cgroup_parent="/../x")},
        {"linux": pb.LinuxPodSandboxConfig(sysctls={"../../etc/passwd": "1"})},
        {"linux": pb.LinuxPodSandboxConfig(resources=pb.LinuxContainerResources(memory_limit_in_bytes=-1))},
    ],
)
def test_a_pod_that_cannot_be_is_refused(cri: Cri, fields: dict[str, Any]) -> None:
    config = pb.PodSandboxConfig(**{"metadata": pb.PodSandboxMetadata(name="bad"), **fields})
    with refused(INVALID):
        cri.runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=config))


@pytest.mark.parametrize(
    "security",
    [
        {"namespace_options": pb.NamespaceOption(network=pb.CONTAINER)},
        {"namespace_options": pb.NamespaceOption(pid=pb.TARGET, target_id="x")},
        {"run_as_group": pb.Int64Value(value=5)},
        {"run_as_user": pb.Int64Value(value=-1)},
        {"seccomp": pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="relative.json")},
    ],
)
def test_a_security_context_that_cannot_be_is_refused(cri: Cri, security: dict[str, Any]) -> None:
    with refused(INVALID):
        cri.run(security=security)


def test_an_unknown_runtime_handler_is_refused(cri: Cri) -> None:
    with refused(INVALID, "no-such"):
        cri.run(handler="no-such")


def test_what_to_do_stands_in_the_text_of_a_failure(cri: Cri) -> None:
    """A pod's events show the text alone."""
    with pytest.raises(grpc.RpcError) as caught:
        cri.run(handler="no-such")
    status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status.message == "unknown runtime handler 'no-such'; known are '', 'moorage'"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info) and info.metadata["hint"] == "known are '', 'moorage'"


@pytest.mark.parametrize("letter", ["a", "é", "%", "\n", "💥"])
def test_what_repeats_a_long_input_is_cut_to_what_a_client_takes(cri: Cri, letter: str) -> None:
    """A client takes 8 KiB of metadata at most, and would see another status instead of the refusal."""
    directory = f"first {letter * 40_000} last"
    with pytest.raises(grpc.RpcError) as caught:
        cri.run(log_directory=directory)
    status: Any = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status.code == INVALID.value[0]
    assert status.message.startswith("log_directory 'first ") and status.message.endswith("is not an absolute path")
    assert " … " in status.message
    with refused(INVALID, "unknown runtime handler", "known are"):
        cri.run(handler=letter * 40_000)


def user_namespace(**fields: Any) -> dict[str, Any]:
    return {"namespace_options": pb.NamespaceOption(userns_options=pb.UserNamespace(**fields))}


def test_a_user_namespace_is_one_mapping_from_0(cri: Cri, house: House) -> None:
    pod = cri.run(security=user_namespace(mode=pb.POD, uids=[ONE_MAP], gids=[ONE_MAP]))
    record = next(each for each in house.daemon.pods.all() if each.id == pod)
    assert record.config.users == record.config.groups_map == (IdMap(0, 100000, 65536),)
    assert list(cri.pod_status(pod).linux.namespaces.options.userns_options.uids) == [ONE_MAP]
    assert not cri.pod_status(cri.run(security=user_namespace(mode=pb.NODE))).linux.namespaces.options.HasField(
        "userns_options"
    )
    two, off = [ONE_MAP, ONE_MAP], [pb.IDMapping(container_id=1, host_id=1, length=1)]
    wrong: list[dict[str, Any]] = [
        {"mode": pb.CONTAINER},
        {"mode": pb.TARGET},
        {"mode": pb.POD},
        {"mode": pb.POD, "uids": two, "gids": two},
        {"mode": pb.POD, "uids": off, "gids": off},
        {"mode": pb.NODE, "uids": [ONE_MAP], "gids": [ONE_MAP]},
    ]
    for fields in wrong:
        with refused(INVALID):
            cri.run(security=user_namespace(**fields))
    bound = pb.NamespaceOption(network=pb.NODE)
    bound.userns_options.CopyFrom(pb.UserNamespace(mode=pb.POD, uids=[ONE_MAP], gids=[ONE_MAP]))
    with refused(INVALID):
        cri.run(security={"namespace_options": bound})


def test_a_pods_limits_are_changed(cri: Cri, house: House) -> None:
    pod = cri.run()
    request = pb.UpdatePodSandboxResourcesRequest(
        pod_sandbox_id=pod, resources=pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
    )
    cri.runtime.UpdatePodSandboxResources(request)
    record = next(each for each in house.daemon.pods.all() if each.id == pod)
    assert record.config.resources.memory == 64 << 20
    with refused(NOT_FOUND):
        cri.runtime.UpdatePodSandboxResources(pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id="f" * 64))


def test_checkpoints_are_not_offered(cri: Cri) -> None:
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        cri.runtime.CheckpointContainer(pb.CheckpointContainerRequest())
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        cri.runtime.CheckpointPod(pb.CheckpointPodRequest())
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        cri.runtime.RestorePod(pb.RestorePodRequest())
