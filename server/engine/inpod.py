"""What is special about a container that shares a pod with others: its name, and what the pod must allow it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

from moorage.server.engine.containers import Containers
from moorage.server.errors import FailedPrecondition, InvalidArgument
from moorage.server.model import Container, ContainerConfig, Image, PodConfig, PodRecord


def name(config: ContainerConfig, pod: PodRecord) -> str:
    """The name of a container that was given none but what its orchestrator calls it."""
    of = pod.config
    return f"k8s_{config.metadata_name}_{of.name}_{of.namespace}_{of.uid}_{config.metadata_attempt}"


def hostname(pod: PodConfig) -> str:
    """What a pod calls itself: the host's name with the host's network, or when it is given none."""
    return socket.gethostname() if pod.network == "host" or not pod.hostname else pod.hostname


def join(container: Container, pod: PodRecord, containers: Containers, images: Callable[[str], Image]) -> Container:
    """The container as one of the pod. Raises InvalidArgument, FailedPrecondition, NotFound (image, target of its PID mode)."""
    config = container.config
    if config.security.privileged and not pod.config.security.privileged:
        raise InvalidArgument(
            "a privileged container needs a privileged pod", hint="make the pod privileged too", field="privileged"
        )
    if pod.config.users and (config.pid == "host" or config.security.privileged):
        raise InvalidArgument("a pod with a user namespace has no host PID namespace and no privileged containers")
    check_target(replace(container, pod_id=pod.id), containers)
    env = container.env
    if not any(entry.startswith("HOSTNAME=") for entry in env):
        env = (*env, f"HOSTNAME={hostname(pod.config)}")
    mounted = tuple(images(mount.source).id for mount in config.mounts if mount.kind == "image")
    return replace(container, pod_id=pod.id, env=env, mounted_images=mounted)


def check_target(container: Container, containers: Containers) -> None:
    """Refuse to share the PID namespace of a container that is not a running one of the same pod."""
    wanted = container.config.pid
    if wanted in ("", "pod", "host"):
        return
    target = containers.get(wanted)
    if target.pod_id != container.pod_id:
        raise InvalidArgument(f"container {target.id}, whose PID namespace is wanted, is not of the same pod")
    if target.state != "running":
        raise FailedPrecondition(
            f"container {target.id}, whose PID namespace is wanted, is not running", state=target.state
        )
