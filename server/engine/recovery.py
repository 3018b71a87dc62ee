"""Start-up: make the database, the kernel and the disk agree again, after whatever ended the last daemon.

There is no journal to replay: a state that is written before its side effects (`starting`, `removing`) is the intent, the supervisors that
outlived the daemon are the truth about processes, and what nothing in the database reaches is garbage.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace

from moorage.server.engine.containers import Containers
from moorage.server.engine.lifecycle import Lifecycle
from moorage.server.engine.networks import Networks
from moorage.server.engine.places import Places
from moorage.server.engine.podlife import PodLife
from moorage.server.engine.pods import Pods
from moorage.server.execdriver.base import ContainerStatus, ExecDriver, Pod, PodStatus
from moorage.server.graph.graph import Graph
from moorage.server.libcontainer.cgroups import CgroupError, CgroupManager
from moorage.server.model import Container, ExitStatus, PodRecord, PodState

log = logging.getLogger("moorage.recovery")


class Recovery:
    """One pass over everything; runs before the API is served, so nothing else changes meanwhile."""

    def __init__(
        self,
        *,
        instance: str,
        places: Places,
        containers: Containers,
        pods: Pods,
        lifecycle: Lifecycle,
        podlife: PodLife,
        networks: Networks,
        graph: Graph,
        exec_driver: ExecDriver,
        cgroups: CgroupManager,
    ) -> None:
        self._instance = instance
        self._places = places
        self._containers = containers
        self._pods = pods
        self._lifecycle = lifecycle
        self._podlife = podlife
        self._networks = networks
        self._graph = graph
        self._exec = exec_driver
        self._cgroups = cgroups

    def run(self, pods: list[PodStatus]) -> None:
        """Bring every pod and container to a state that is true, then collect what belongs to none."""
        self._networks.ensure_defaults()
        found = {pod.pod.id: pod for pod in pods}
        for pod in self._pods.all():
            found[pod.id] = self._settle_pod(pod, found.get(pod.id))
        for container in self._containers.all():
            settle = self._settle_inside if container.pod_id else self._settle
            settle(container, found.get(container.pod))
        for pod in self._pods.all():
            if pod.state in ("starting", "removing"):
                log.info("removed", extra={"pod": pod.id, "state": pod.state})
                self._podlife.delete(pod)
        self._thaw()
        self._collect(found)

    def _thaw(self) -> None:
        """A daemon that was killed while it took the changes of a container has left it frozen."""
        for container in self._containers.all():
            if container.state == "running":
                with contextlib.suppress(CgroupError):
                    self._cgroups.cgroup(self._places.cgroup_path(container.id)).thaw()

    def _settle_pod(self, pod: PodRecord, status: PodStatus | None) -> PodStatus:
        """Keep a pod that is whole, end any other; answer it with what is true of its containers from then on."""
        if status is None:
            status = PodStatus(Pod(pod.id, 0), ())
        if pod.state == "ready" and status.pod.pid:
            log.info("adopted", extra={"pod": pod.id, "pid": status.pod.pid})
            return status
        if pod.held:
            log.info("ended", extra={"pod": pod.id, "state": pod.state})
            self._podlife.release(lambda _: None, pod)
            ended = pod.state in ("ready", "notready")
            state: PodState = "notready" if ended else pod.state
            self._pods.save(replace(pod, state=state, held=False, pid=0, endpoint=None), *(["stop"] if ended else []))
        killed = ExitStatus(137, time.time_ns(), reason="Error")
        return PodStatus(status.pod, tuple(replace(each, exit=each.exit or killed) for each in status.containers))

    def _settle_inside(self, container: Container, pod: PodStatus | None) -> None:
        """The same as `_settle` for one of several in a pod, which may have been removed in part."""
        inside = _status(container, pod)
        record = self._pods.find(container.pod_id)
        if container.state == "removing" or record is None or record.state in ("starting", "removing"):
            self._lifecycle.delete(replace(container, state="removing"))
        elif container.state == "starting":
            # Its caller has not heard of it, and starts it again.
            log.info("undone start", extra={"container": container.id})
            self._exec.remove_container(container.pod_id, container.id)
            self._containers.save(replace(container, state="created", pid=0))
        elif container.state == "running" and (inside is None or inside.exit is not None):
            self._containers.ended(container, _how(container, inside))
        elif container.state == "running" and inside is not None and inside.pid != container.pid:
            self._containers.save(replace(container, pid=inside.pid))

    def _settle(self, container: Container, pod: PodStatus | None) -> None:
        inside = _status(container, pod)
        match container.state:
            case _ if container.transient:
                log.info("ended step of a build", extra={"container": container.id})
                self._release(container)
                self._lifecycle.delete(replace(container, state="removing"))
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
        self._release(container)
        ended = self._containers.ended(container, _how(container, inside))
        if ended.state == "removing":
            self._lifecycle.delete(ended)

    def _release(self, container: Container) -> None:
        self._lifecycle.release(lambda _: None, container)

    def _collect(self, pods: Mapping[str, PodStatus]) -> None:
        containers = {container.id: container for container in self._containers.all()}
        records = {pod.id: pod for pod in self._pods.all()}
        for stray in pods.keys() - containers.keys() - records.keys():
            self._exec.remove_pod(stray)
        live = {c.id: c.endpoint for c in containers.values() if c.state == "running" and c.endpoint is not None}
        live |= {pod.id: pod.endpoint for pod in records.values() if pod.endpoint is not None}
        for driver in self._networks.drivers().values():
            driver.reconcile([n for n in self._networks.all() if n.driver == driver.name], live)
        for stray in self._cgroups.children(f"/{self._instance}") - containers.keys() - records.keys():
            cgroup = self._cgroups.cgroup(f"/{self._instance}/{stray}")
            cgroup.kill()
            cgroup.remove()
        for stray in self._places.directories() - containers.keys():
            shutil.rmtree(self._places.directory(stray), ignore_errors=True)
        for stray in self._places.pod_directories() - records.keys():
            shutil.rmtree(self._places.pod_directory(stray), ignore_errors=True)
        collected = self._graph.collect(set(containers))
        for image in self._graph.list():
            self._graph.drop_nameless(image.id, self._containers.using)
        log.info("collected", extra=asdict(collected))


def _status(container: Container, pod: PodStatus | None) -> ContainerStatus | None:
    if pod is None:
        return None
    return next((status for status in pod.containers if status.id == container.id), None)


def _how(container: Container, inside: ContainerStatus | None) -> ExitStatus:
    """How a container ended that nobody looked at."""
    lost = ExitStatus(255, time.time_ns(), reason="Unknown", error="its supervisor was gone when the daemon started")
    status = inside.exit if inside is not None and inside.exit is not None else lost
    log.info("ended meanwhile", extra={"container": container.id, "exit_code": status.exit_code})
    return status
