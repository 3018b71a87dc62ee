"""What `crictl inspect`, `inspectp`, `inspecti` and `info` show beyond the statuses, as users of containerd know it. See docs/crictl.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Box, Cri, Pod

pytestmark = pytest.mark.kernel


def of_container(box: Box) -> dict[str, Any]:
    request = api.ContainerStatusRequest(container_id=box.id, verbose=True)
    found: dict[str, Any] = json.loads(box.cri.runtime.ContainerStatus(request).info["info"])
    return found


def of_pod(pod: Pod) -> dict[str, Any]:
    request = api.PodSandboxStatusRequest(pod_sandbox_id=pod.id, verbose=True)
    found: dict[str, Any] = json.loads(pod.cri.runtime.PodSandboxStatus(request).info["info"])
    return found


def namespaces(info: dict[str, Any]) -> dict[str, str]:
    return {space["type"]: space.get("path", "") for space in info["runtimeSpec"]["linux"]["namespaces"]}


def same_namespace(path: str, pid: int, kind: str) -> bool:
    return Path(path).readlink() == Path(f"/proc/{pid}/ns/{kind}").readlink()


def test_a_container_is_told_as_it_was_asked_for(cri: Cri, tmp_path: Path) -> None:
    box = cri.pod().run(
        "sh",
        "-c",
        "sleep 1000",
        name="told",
        args=["x"],
        envs=[api.KeyValue(key="A", value=b"B=C")],
        mounts=[api.Mount(container_path="/there", host_path=str(tmp_path), readonly=True)],
        labels={"a": "b"},
        annotations={"c": "d"},
        working_dir="/tmp",
        linux={
            "resources": api.LinuxContainerResources(cpu_shares=512, memory_limit_in_bytes=64 << 20),
            "run_as_user": api.Int64Value(value=1000),
            "run_as_group": api.Int64Value(value=2000),
            "capabilities": api.Capability(add_capabilities=["NET_ADMIN"]),
            "namespace_options": api.NamespaceOption(pid=api.CONTAINER),
        },
    )
    config = of_container(box)["config"]
    assert config == {
        "metadata": {"name": "told"},
        "image": {"image": cri.image},
        "command": ["sh", "-c", "sleep 1000"],
        "args": ["x"],
        "working_dir": "/tmp",
        "envs": [{"key": "A", "value": "B=C"}],
        "mounts": [{"container_path": "/there", "host_path": str(tmp_path), "readonly": True}],
        "labels": {"a": "b"},
        "annotations": {"c": "d"},
        "log_path": "told.log",
        "linux": {
            "resources": {"cpu_shares": 512, "memory_limit_in_bytes": 64 << 20},
            "security_context": {
                "capabilities": {"add_capabilities": ["NET_ADMIN"]},
                "namespace_options": {"pid": api.CONTAINER},
                "run_as_user": {"value": 1000},
                "run_as_group": {"value": 2000},
            },
        },
    }


def test_a_containers_runtime_spec_says_what_it_runs_in(cri: Cri) -> None:
    pod = cri.pod()
    box = pod.run("sleep", "1000", linux={"run_as_username": "nobody"})
    info = of_container(box)
    assert (info["sandboxID"], info["removing"], info["privileged"]) == (pod.id, False, False)
    spec = info["runtimeSpec"]
    assert spec["process"]["args"] == ["sleep", "1000"] and spec["process"]["user"]["uid"] == 65534
    assert any(mount["destination"] == "/etc/hosts" for mount in spec["mounts"])
    assert spec["linux"]["cgroupsPath"].endswith(f"/{pod.id}/{box.id}")
    found = namespaces(info)
    for kind, name in (("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")):
        assert same_namespace(found[kind], info["pid"], name)
    assert found["mount"] == ""
    box.stop()
    assert of_container(box)["pid"] == 0 and of_container(box)["runtimeSpec"]["process"] == spec["process"]


def test_an_ended_container_is_told_also_without_what_it_was_made_of(cri: Cri, tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.symlink_to("/dev/null")
    box = cri.pod().run("true", devices=[api.Device(host_path=str(device), container_path="/dev/mine")])
    box.ended()
    device.unlink()
    info = of_container(box)
    assert str(device) in info["runtimeSpec"]["error"] and info["config"]["metadata"]


def test_the_network_namespace_of_a_pod_is_found_by_its_runtime_spec(cri: Cri) -> None:
    """`crictl inspectp ID | jq '.info.runtimeSpec.linux.namespaces[] | select(.type=="network").path'` is what everybody does."""
    pod = cri.pod(
        hostname="told",
        labels={"a": "b"},
        dns_config=api.DNSConfig(servers=["192.0.2.1"]),
        linux=api.LinuxPodSandboxConfig(sysctls={"kernel.shm_rmid_forced": "1"}),
    )
    box = pod.run("sleep", "1000")
    info = of_pod(pod)
    assert same_namespace(namespaces(info)["network"], of_container(box)["pid"], "net")
    assert info["runtimeSpec"]["linux"]["sysctl"]["kernel.shm_rmid_forced"] == "1"
    assert info["runtimeSpec"]["linux"]["cgroupsPath"].endswith(f"/{pod.id}")
    assert (info["processStatus"], info["netNamespaceClosed"]) == ("running", False)
    assert info["config"]["metadata"] == {
        "name": pod.config.metadata.name,
        "namespace": "tests",
        "uid": pod.config.metadata.uid,
    }
    assert set(info["config"]["linux"]) == {"security_context", "sysctls"}
    assert info["config"]["dns_config"] == {"servers": ["192.0.2.1"]} and info["config"]["hostname"] == "told"
    [address] = info["cniResult"]["Interfaces"]["eth0"]["IPConfigs"]
    assert address["IP"] == pod.ip
    pod.stop()
    info = of_pod(pod)
    assert (info["pid"], info["processStatus"], info["netNamespaceClosed"]) == (0, "deleted", True)
    assert namespaces(info)["network"] == ""


def test_a_pod_of_the_host_has_no_network_of_its_own(cri: Cri) -> None:
    pod = cri.namespaces_pod(network=api.NODE)
    info = of_pod(pod)
    assert "network" not in namespaces(info) and not info["netNamespaceClosed"]


def test_an_images_config_is_told_without_what_is_empty(cri: Cri) -> None:
    request = api.ImageStatusRequest(image=api.ImageSpec(image=cri.image), verbose=True)
    info = json.loads(cri.images.ImageStatus(request).info["info"])
    assert info["chainID"].startswith("sha256:") and info["imageSpec"]["os"] == "linux"
    assert all(info["imageSpec"]["config"].values())
    assert len(info["imageSpec"]["rootfs"]["diff_ids"]) >= 1


def test_the_runtime_tells_its_configuration(cri: Cri) -> None:
    info = cri.runtime.Status(api.StatusRequest(verbose=True)).info
    assert json.loads(info["config"])["cgroupDriver"] == "cgroupfs"
    assert "lastCNILoadStatus" not in info
