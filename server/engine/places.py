"""Where what belongs to containers and pods lies: on the disk, and below each cgroup hierarchy's root."""

from __future__ import annotations

from pathlib import Path

from moorage.server.engine.containers import Containers
from moorage.server.engine.pods import Pods
from moorage.server.model import PodRecord


class Places:
    """Answers by ID; what is not known (any more) is taken for a container of its own."""

    def __init__(self, root: Path, instance: str, containers: Containers, pods: Pods) -> None:
        self._containers_root, self._pods_root = root / "containers", root / "podfiles"
        for directory in (self._containers_root, self._pods_root):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._instance = instance
        self._containers = containers
        self._pods = pods

    def directory(self, container_id: str) -> Path:
        """Where a container's logs and files lie."""
        return self._containers_root / container_id

    def directories(self) -> set[str]:
        """IDs of containers that have a directory."""
        return {path.name for path in self._containers_root.iterdir()}

    def pod_directory(self, pod_id: str) -> Path:
        """Where the files lie that the containers of a pod share."""
        return self._pods_root / pod_id

    def pod_directories(self) -> set[str]:
        """IDs of pods that have a directory."""
        return {path.name for path in self._pods_root.iterdir()}

    def log_path(self, container_id: str) -> Path:
        """A container's log in CRI's format."""
        container = self._containers.find(container_id)
        if container is not None and container.config.log.path:
            return Path(container.config.log.path)
        return self.directory(container_id) / "output.log"

    def cgroup_path(self, container_id: str) -> str:
        """A container's cgroup."""
        container = self._containers.find(container_id)
        pod = self._pods.find(container.pod_id) if container is not None and container.pod_id else None
        return f"{self.pod_cgroup_path(pod)}/{container_id}" if pod else f"/{self._instance}/{container_id}"

    def pod_cgroup_path(self, pod: PodRecord) -> str:
        """The cgroup that those of a pod's containers are in."""
        parent = pod.config.cgroup_parent.strip("/") or self._instance
        return f"/{parent}/{pod.id}"
