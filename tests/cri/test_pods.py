"""Pods: names, IDs, filters, states, and calls that come twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from moorage.server.libcontainer import cgroups
from tests.criclient import Cri, refused

pytestmark = pytest.mark.kernel


def test_version_and_status_answer_the_probes(cri: Cri) -> None:
    version = cri.runtime.Version(api.VersionRequest())
    assert (version.version, version.runtime_name, version.runtime_api_version) == ("0.1.0", "moorage", "v1")
    assert version.runtime_version
    status = cri.runtime.Status(api.StatusRequest())
    assert {condition.type: condition.status for condition in status.status.conditions} == {
        "RuntimeReady": True,
        "NetworkReady": True,
    }
    assert {"", "moorage"} <= {handler.name for handler in status.runtime_handlers}


def test_a_pod_goes_from_ready_to_notready_to_gone(cri: Cri) -> None:
    pod = cri.pod(labels={"app": "a"}, annotations={"note": "b\nc"})
    status = pod.status()
    assert (status.state, status.metadata) == (api.SANDBOX_READY, pod.config.metadata)
    assert (dict(status.labels), dict(status.annotations)) == ({"app": "a"}, {"note": "b\nc"})
    assert status.created_at > 0
    assert status.network.ip
    pod.stop()
    assert pod.status().state == api.SANDBOX_NOTREADY
    pod.remove()
    with refused(StatusCode.NOT_FOUND, pod.id):
        pod.status()
    assert cri.pods() == []


def test_stopping_a_pod_ends_its_containers_and_frees_its_address(cri: Cri) -> None:
    pod = cri.pod()
    box = pod.run("sleep", "1000")
    pod.stop()
    assert box.status().state == api.CONTAINER_EXITED
    with refused(StatusCode.FAILED_PRECONDITION):
        pod.create("true")


def test_a_second_pod_of_the_same_name_is_refused_until_the_first_is_removed(cri: Cri) -> None:
    pod = cri.pod("twin")
    with refused(StatusCode.ALREADY_EXISTS, pod.id):
        cri.pod("twin")
    pod.stop()
    pod.remove()
    assert cri.pod("twin").id != pod.id


def test_another_attempt_is_another_pod(cri: Cri) -> None:
    first = cri.pod("again")
    second = cri.pod_config("again")
    second.metadata.attempt = 1
    assert cri.run(second) != first.id


def test_an_unknown_runtime_handler_is_refused(cri: Cri) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "no-such-handler"):
        cri.pod(handler="no-such-handler")
    assert cri.pods() == []


def test_a_named_handler_is_reported(cri: Cri) -> None:
    assert cri.pod(handler="moorage").status().runtime_handler == "moorage"
    assert cri.pod(handler="").status().runtime_handler == ""


def test_stop_and_remove_of_what_is_unknown_are_fine(cri: Cri) -> None:
    cri.stop_pod("nothing")
    cri.remove_pod("nothing")
    cri.runtime.StopContainer(api.StopContainerRequest(container_id="nothing"))
    cri.runtime.RemoveContainer(api.RemoveContainerRequest(container_id="nothing"))
    cri.remove_image("registry.example/test/nothing:1")
    assert not cri.image_status("registry.example/test/nothing:1").HasField("image")


def test_stop_and_remove_twice_are_fine(cri: Cri) -> None:
    pod = cri.pod()
    box = pod.run("sleep", "1000")
    for _ in range(2):
        box.stop()
    for _ in range(2):
        box.remove()
    for _ in range(2):
        pod.stop()
    for _ in range(2):
        pod.remove()


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("PodSandboxStatus", api.PodSandboxStatusRequest(pod_sandbox_id="nothing")),
        ("PodSandboxStats", api.PodSandboxStatsRequest(pod_sandbox_id="nothing")),
        ("PortForward", api.PortForwardRequest(pod_sandbox_id="nothing", port=[80])),
        ("ContainerStatus", api.ContainerStatusRequest(container_id="nothing")),
        ("ContainerStats", api.ContainerStatsRequest(container_id="nothing")),
        ("StartContainer", api.StartContainerRequest(container_id="nothing")),
        ("ExecSync", api.ExecSyncRequest(container_id="nothing", cmd=["true"])),
        ("Exec", api.ExecRequest(container_id="nothing", cmd=["true"], stdout=True)),
        ("Attach", api.AttachRequest(container_id="nothing", stdout=True)),
        ("UpdateContainerResources", api.UpdateContainerResourcesRequest(container_id="nothing")),
        ("ReopenContainerLog", api.ReopenContainerLogRequest(container_id="nothing")),
    ],
)
def test_what_is_unknown_is_not_found(cri: Cri, method: str, request_: Any) -> None:
    with refused(StatusCode.NOT_FOUND):
        getattr(cri.runtime, method)(request_)


def test_a_unique_prefix_of_an_id_will_do(cri: Cri) -> None:
    pod = cri.pod()
    box = pod.create("true")
    short = cri.runtime.PodSandboxStatus(api.PodSandboxStatusRequest(pod_sandbox_id=pod.id[:12])).status
    assert short.id == pod.id
    status = cri.runtime.ContainerStatus(api.ContainerStatusRequest(container_id=box.id[:12])).status
    assert status.id == box.id
    assert [found.id for found in cri.containers(id=box.id[:12])] == [box.id]


def test_an_ambiguous_prefix_is_an_error_but_not_not_found(cri: Cri) -> None:
    ids = [cri.pod().id for _ in range(17)]  # more than there are hexadecimal digits
    first = next(digit for digit in "0123456789abcdef" if sum(one[0] == digit for one in ids) > 1)
    with refused(StatusCode.INVALID_ARGUMENT, first):
        cri.runtime.PodSandboxStatus(api.PodSandboxStatusRequest(pod_sandbox_id=first))


def test_filters_are_all_to_be_met(cri: Cri) -> None:
    one, two = cri.pod(labels={"app": "a", "tier": "x"}), cri.pod(labels={"app": "a", "tier": "y"})
    two.stop()
    stopped = api.PodSandboxStateValue(state=api.SANDBOX_NOTREADY)
    ready = api.PodSandboxStateValue(state=api.SANDBOX_READY)
    assert {pod.id for pod in cri.pods(label_selector={"app": "a"})} == {one.id, two.id}
    assert [pod.id for pod in cri.pods(label_selector={"app": "a", "tier": "y"})] == [two.id]
    assert [pod.id for pod in cri.pods(state=ready)] == [one.id]
    assert cri.pods(id=one.id, state=stopped) == []
    assert cri.pods(id="nothing") == []


def test_containers_are_found_by_pod_state_and_label(cri: Cri) -> None:
    pod, other = cri.pod(), cri.pod()
    runs = pod.run("sleep", "1000", labels={"kind": "main"})
    waits = pod.create("true", labels={"kind": "main"})
    other.create("true")
    created = api.ContainerStateValue(state=api.CONTAINER_CREATED)
    assert {box.id for box in cri.containers(pod_sandbox_id=pod.id)} == {runs.id, waits.id}
    assert [box.id for box in cri.containers(pod_sandbox_id=pod.id, state=created)] == [waits.id]
    assert cri.containers(pod_sandbox_id=other.id, label_selector={"kind": "main"}) == []
    assert cri.containers(id="nothing") == []


def test_streamed_lists_tell_what_the_lists_tell(cri: Cri) -> None:
    pods = [cri.pod() for _ in range(3)]
    boxes = [pod.run("sleep", "1000") for pod in pods]
    listed = [
        item.id
        for batch in cri.runtime.StreamPodSandboxes(api.StreamPodSandboxesRequest())
        for item in batch.pod_sandboxes
    ]
    assert sorted(listed) == sorted(pod.id for pod in pods)
    listed = [
        item.id for batch in cri.runtime.StreamContainers(api.StreamContainersRequest()) for item in batch.containers
    ]
    assert sorted(listed) == sorted(box.id for box in boxes)
    stats = [
        item.attributes.id
        for batch in cri.runtime.StreamContainerStats(api.StreamContainerStatsRequest())
        for item in batch.container_stats
    ]
    assert sorted(stats) == sorted(box.id for box in boxes)
    stats = [
        item.attributes.id
        for batch in cri.runtime.StreamPodSandboxStats(api.StreamPodSandboxStatsRequest())
        for item in batch.pod_sandbox_stats
    ]
    assert sorted(stats) == sorted(pod.id for pod in pods)
    images = [item.id for batch in cri.images.StreamImages(api.StreamImagesRequest()) for item in batch.images]
    assert images == [image.id for image in cri.images.ListImages(api.ListImagesRequest()).images]


def test_a_failed_pod_is_not_left_behind(cri: Cri) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "kernel.shm_rmid_forced"):
        cri.pod(linux=api.LinuxPodSandboxConfig(sysctls={"kernel.shm_rmid_forced": "1+kernel.core_pattern=/x"}))
    with refused(StatusCode.INVALID_ARGUMENT, "kernel.core_pattern"):
        cri.pod(linux=api.LinuxPodSandboxConfig(sysctls={"kernel.core_pattern": "/x"}))
    assert cri.pods() == []
    assert Path("/proc/sys/kernel/core_pattern").read_text() != "/x\n"


def test_sysctls_are_the_pods_own(cri: Cri) -> None:
    sysctls = {"kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "100", "net.ipv4.ip_unprivileged_port_start": "81"}
    pod = cri.pod(linux=api.LinuxPodSandboxConfig(sysctls=sysctls))
    paths = " ".join("/proc/sys/" + name.replace(".", "/") for name in sysctls)
    assert pod.sh(f"cat {paths}").split() == list(sysctls.values())
    assert Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() != "81\n"


@pytest.fixture
def cgroup_parent() -> Iterator[str]:
    """Who names one, as a kubelet does, has it to delete, when the pods are gone."""
    parent = "/moorage-parent/pod1"
    yield parent
    cgroups.detect().prune(parent)


def test_the_cgroup_parent_holds_the_pod_and_goes_on_without_it(cgroup_parent: str, cri: Cri) -> None:
    pod = cri.pod(linux=api.LinuxPodSandboxConfig(cgroup_parent=cgroup_parent))
    box = pod.run("sleep", "1000")
    processes = Path(cgroup_root(), cgroup_parent[1:]).rglob("cgroup.procs")
    assert len([pid for path in processes for pid in path.read_text().split()]) > 0
    assert box.sh("echo inside") == "inside\n"


def cgroup_root() -> str:
    """The hierarchy that has the controller of memory."""
    return "/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup"


def test_the_pods_hostname_is_its_containers(cri: Cri) -> None:
    assert cri.pod(hostname="harbour").sh("hostname") == "harbour\n"


def test_runtime_config_tells_the_cgroup_driver(cri: Cri) -> None:
    assert cri.runtime.RuntimeConfig(api.RuntimeConfigRequest()).linux.cgroup_driver == api.CGROUPFS


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("CheckpointContainer", api.CheckpointContainerRequest(container_id="x")),
        ("CheckpointPod", api.CheckpointPodRequest(pod_sandbox_id="x")),
        ("RestorePod", api.RestorePodRequest(checkpoint_path="/x")),
    ],
)
def test_checkpoints_are_not_offered(cri: Cri, method: str, request_: Any) -> None:
    with refused(StatusCode.UNIMPLEMENTED):
        getattr(cri.runtime, method)(request_)
