"""Start-up: make the database, the kernel and the disk agree again, after whatever ended the last daemon.

There is no journal to replay: a state that is written before its side effects (`starting`, `removing`) is the intent, the supervisors that
outlived the daemon are the truth about processes, and what nothing in the database reaches is garbage.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace

from moorage.server.engine.containers import Containers
from moorage.server.engine.lifecycle import Lifecycle
from moorage.server.engine.networks import Networks
from moorage.server.execdriver.base import ContainerStatus, ExecDriver, PodStatus
from moorage.server.graph.graph import Graph
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.model import Container, ExitStatus

log = logging.getLogger("moorage.recovery")


class Recovery:
    """One pass over everything; runs before the API is served, so nothing else changes meanwhile."""

    def __init__(
        self,
        *,
        instance: str,
        containers: Containers,
        lifecycle: Lifecycle,
        networks: Networks,
        graph: Graph,
        exec_driver: ExecDriver,
        cgroups: CgroupManager,
    ) -> None:
        self._instance = instance
        self._containers = containers
        self._lifecycle = lifecycle
        self._networks = networks
        self._graph = graph
        self._exec = exec_driver
        self._cgroups = cgroups

    def run(self, pods: list[PodStatus]) -> None:
        """Bring every container to a state that is true, then collect what belongs to none."""
        self._networks.ensure_defaults()
        found = {pod.pod.id: pod for pod in pods}
        for container in self._containers.all():
            self._settle(container, found.get(container.id))
        self._collect(found)

    def _settle(self, container: Container, pod: PodStatus | None) -> None:
        inside = _status(container, pod)
        match container.state:
            case "running" if inside is not None and inside.exit is None:
                log.info("adopted", extra={"container": container.id, "pid": inside.pid})
                if inside.pid != container.pid:
                    self._containers.save(replace(container, pid=inside.pid))
            case "running":
                self._end(container, inside)
            case "starting":
                log.info("undone start", extra={"container": container.id})
                self._release(container)
                self._containers.save(
                    replace(container, state="exited" if container.started_ns else "created", pid=0, endpoint=None)
                )
            case "removing":
                self._release(container)
                self._lifecycle.delete(container)
            case _ if pod is not None:
                self._release(container)

    def _end(self, container: Container, inside: ContainerStatus | None) -> None:
        """It ended while no daemon looked."""
        lost = ExitStatus(
            255, time.time_ns(), reason="Unknown", error="its supervisor was gone when the daemon started"
        )
        status = inside.exit if inside is not None and inside.exit is not None else lost
        log.info("ended meanwhile", extra={"container": container.id, "exit_code": status.exit_code})
        self._release(container)
        ended = self._containers.ended(container, status)
        if ended.state == "removing":
            self._lifecycle.delete(ended)

    def _release(self, container: Container) -> None:
        self._lifecycle.release(lambda _: None, container)

    def _collect(self, pods: Mapping[str, PodStatus]) -> None:
        containers = {container.id: container for container in self._containers.all()}
        for stray in pods.keys() - containers.keys():
            self._exec.remove_pod(stray)
        live = {c.id: c.endpoint for c in containers.values() if c.state == "running" and c.endpoint is not None}
        for driver in self._networks.drivers().values():
            driver.reconcile([n for n in self._networks.all() if n.driver == driver.name], live)
        for stray in self._cgroups.children(f"/{self._instance}") - containers.keys():
            cgroup = self._cgroups.cgroup(f"/{self._instance}/{stray}")
            cgroup.kill()
            cgroup.remove()
        for stray in self._lifecycle.directories() - containers.keys():
            shutil.rmtree(self._lifecycle.directory(stray), ignore_errors=True)
        collected = self._graph.collect(set(containers))
        log.info("collected", extra={"what": str(collected)})


def _status(container: Container, pod: PodStatus | None) -> ContainerStatus | None:
    if pod is None:
        return None
    return next((status for status in pod.containers if status.id == container.id), None)
