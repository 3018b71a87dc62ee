"""Handlers that tell what runs in the words of the OCI runtime specification. For those who look: nothing is made of it."""

from __future__ import annotations

from typing import Any

from moorage.server.engine import podcommands as commands
from moorage.server.engine.containers import Containers
from moorage.server.engine.engine import Lane, Verb
from moorage.server.engine.job import Job
from moorage.server.engine.lifecycle import Lifecycle
from moorage.server.engine.places import Places
from moorage.server.engine.podlife import pod_spec
from moorage.server.engine.pods import Pods
from moorage.server.errors import NotFound
from moorage.server.execdriver import spec as oci
from moorage.server.execdriver.mounts import id_mappings
from moorage.server.model import Container, PodRecord

NAMES = {"net": "network", "ipc": "ipc", "uts": "uts"}
"""Namespaces that a pod's containers share, as the kernel calls them and as the specification does."""


class Described:
    """Descriptions of pods, and of the containers in them."""

    def __init__(self, containers: Containers, pods: Pods, places: Places, lifecycle: Lifecycle) -> None:
        self._containers = containers
        self._pods = pods
        self._places = places
        self._lifecycle = lifecycle

    def verbs(self) -> list[Verb]:
        """Rows for the engine's table."""
        return [
            Verb("container_describe", commands.DescribeContainer, self.container, Lane.KERNEL, lambda x: x.id),
            Verb("pod_describe", commands.DescribePod, self.pod, Lane.KERNEL, lambda x: x.id),
        ]

    def container(self, job: Job, command: commands.DescribeContainer) -> dict[str, Any]:
        """The config that it was started with, or would be, and whom it began as."""
        container = self._containers.get(command.id)
        pod = self._pods.find(container.pod_id)
        if pod is None:
            raise NotFound(f"container {container.name} is in no pod", container=container.id)
        config = self._lifecycle.spec_in_pod(container, pod).config
        shared = [space for space in config["linux"]["namespaces"] if space["type"] != "pid"] + _namespaces(pod)
        linux = {**config["linux"], "namespaces": [*shared, *_pid_namespace(container)]}
        return {**config, "process": {**config["process"], **_user(container)}, "linux": linux}

    def pod(self, job: Job, command: commands.DescribePod) -> dict[str, Any]:
        """What its containers share. It has no process of its own."""
        pod = self._pods.get(command.id)
        spec = pod_spec(pod)
        linux: dict[str, Any] = {
            "cgroupsPath": self._places.pod_cgroup_path(pod),
            "resources": oci.limits(pod.config.resources),
            "namespaces": _namespaces(pod),
            "sysctl": spec.sysctls,
        }
        if spec.users:
            linux |= {"uidMappings": id_mappings(spec.users), "gidMappings": id_mappings(spec.groups)}
        return {
            "ociVersion": oci.VERSION,
            "hostname": spec.hostname,
            "annotations": dict(pod.config.annotations),
            "linux": linux,
        }


def _namespaces(pod: PodRecord) -> list[dict[str, str]]:
    """Those of the pod's own; without paths when it has been stopped."""
    spec = pod_spec(pod)
    found = [
        {"type": NAMES[kind], **({"path": f"/proc/{pod.pid}/ns/{kind}"} if pod.pid else {})}
        for kind in sorted(spec.namespaces)
    ]
    return [*found, {"type": "user"}] if spec.users else found


def _pid_namespace(container: Container) -> list[dict[str, str]]:
    """None where it is the host's, with a path where it is shared and the container runs."""
    if container.config.pid == "host":
        return []
    shared = container.config.pid and container.pid
    return [{"type": "pid", **({"path": f"/proc/{container.pid}/ns/pid"} if shared else {})}]


def _user(container: Container) -> dict[str, Any]:
    identity = container.identity
    if identity is None:
        return {}
    return {"user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": list(identity.groups)}}
