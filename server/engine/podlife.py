"""The life of a pod, one handler a verb: run, stop, remove, and what can be asked of it between.

`starting` and `removing` are written before the side effects, and `held` until nothing is left on the host: a start-up after a crash
knows by them what was half done (`recovery.py`). `release` undoes all there is, however little that may be.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from moorage.server.engine import inpod
from moorage.server.engine import podcommands as commands
from moorage.server.engine.adjust import set_limits
from moorage.server.engine.containers import Containers
from moorage.server.engine.engine import Lane
from moorage.server.engine.job import Job
from moorage.server.engine.lifecycle import Blocking, Lifecycle
from moorage.server.engine.networks import Networks
from moorage.server.engine.places import Places
from moorage.server.engine.pods import Pods
from moorage.server.errors import InvalidArgument, MoorageError, NotFound
from moorage.server.execdriver import spec as oci
from moorage.server.execdriver.base import ExecDriver, PodSpec
from moorage.server.execdriver.check import check_pod
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.model import PodRecord, Resources
from moorage.server.networkdriver import names as files

SHM_SIZE = 64 << 20


class PodLife:
    """Handlers for pods."""

    def __init__(
        self,
        *,
        engine: Blocking,
        places: Places,
        pods: Pods,
        containers: Containers,
        lifecycle: Lifecycle,
        networks: Networks,
        exec_driver: ExecDriver,
        cgroups: CgroupManager,
    ) -> None:
        self._began_ns = time.time_ns()
        self._engine = engine
        self._places = places
        self._pods = pods
        self._containers = containers
        self._lifecycle = lifecycle
        self._networks = networks
        self._exec = exec_driver
        self._cgroups = cgroups

    # --- run ----------------------------------------------------------------------------------------------------------

    def run(self, job: Job, command: commands.RunPod) -> str:
        """Namespaces, network, files; on any failure all of it goes again."""
        config = command.config
        check_pod(config)
        self._networks.of_pod(config)
        there = self._pods.named(config)
        if there is not None and self._owed(there) and there.config == config:
            return there.id
        pod = PodRecord(secrets.token_hex(32), config, "starting", time.time_ns())
        self._pods.add(pod)
        try:
            ready = self._set_up(job, pod)
            job.stage("commit")
            self._pods.save(ready, "create", "start")
        except BaseException:
            self._give_up(pod)
            raise
        return pod.id

    def _owed(self, pod: PodRecord) -> bool:
        """Whether a daemon that has ended may have made it and not said so."""
        return pod.state == "ready" and pod.created_ns < self._began_ns and not self._containers.of_pod(pod.id)

    def _give_up(self, pod: PodRecord) -> None:
        """Undo what was made. If that fails the pod stays, not ready, so that it can be removed."""
        try:
            self.release(lambda _: None, pod)
            shutil.rmtree(self._places.pod_directory(pod.id), ignore_errors=True)
        except (MoorageError, OSError):
            self._pods.save(replace(pod, state="notready"))
        else:
            self._pods.delete(pod)

    def _set_up(self, job: Job, pod: PodRecord) -> PodRecord:
        config = pod.config
        job.stage("pod")
        order = self._exec.order_pod(pod_spec(pod))
        job.stage("cgroup")
        self._places.pod_directory(pod.id).mkdir(mode=0o700)
        self._cgroups.cgroup(self._places.pod_cgroup_path(pod)).create(
            oci.limits(_total(config.resources, config.overhead))
        )
        network = self._networks.of_pod(config)
        ports = tuple(port for port in config.attachment.ports if port.host_port)
        driver = self._networks.driver(network)
        attached = driver.attach(network, pod.id, lambda: order.wait().pid, ports, job.stage)
        running = order.wait()
        job.stage("network")
        if config.network == "pod":
            # Also without an interface that is left to do: there is the loopback.
            self._exec.configure_network(running, attached.interfaces)
        files.write_pod_files(
            self._places.pod_directory(pod.id),
            hostname=inpod.hostname(config),
            address=attached.endpoint.address,
            attachment=config.attachment,
            host_network=config.network == "host",
            given=config.dns,
        )
        return replace(pod, state="ready", pid=running.pid, endpoint=attached.endpoint)

    # --- the end ------------------------------------------------------------------------------------------------------

    async def stop(self, job: Job, command: commands.StopPod) -> None:
        """No container can be started from the first moment on; those that run are killed and their ends recorded."""
        pod_id = self._known(command.id)
        if pod_id:
            async with self._engine.locked(pod_id):
                await self._stop(job, pod_id)

    async def remove(self, job: Job, command: commands.RemovePod) -> None:
        """Stop it, and delete it with all that it had."""
        pod_id = self._known(command.id)
        if not pod_id:
            return
        async with self._engine.locked(pod_id):
            pod = await self._stop(job, pod_id)
            if pod is None:
                return
            pod = self._pods.save(replace(pod, state="removing"))
            job.stage("delete")
            for container in self._containers.of_pod(pod_id):
                await self._lifecycle.discard(container.id)
            await self._engine.blocking(Lane.DISK, self.delete, pod)

    async def _stop(self, job: Job, pod_id: str) -> PodRecord | None:
        """The pod, stopped; None when it is gone."""
        pod = self._pods.find(pod_id)
        if pod is None or (pod.state != "ready" and not pod.held):
            return pod
        if pod.state == "ready":
            pod = self._pods.save(replace(pod, state="notready"))
        job.stage("containers")
        running = await self._lifecycle.running(each.id for each in self._containers.of_pod(pod_id))
        if running:
            await self._engine.blocking(Lane.KERNEL, self._exec.stop_pod, pod_id)
            await asyncio.gather(*(self._lifecycle.see_end(container) for container in running))
        await self._engine.blocking(Lane.KERNEL, self.release, job.stage, pod)
        return self._pods.save(replace(pod, held=False, pid=0, endpoint=None), "stop")

    def release(self, stage: Callable[[str], None], pod: PodRecord) -> None:
        """Take a pod out of its network, end its supervisor with all that runs there, remove its cgroup. What is missing is fine."""
        stage("network")
        try:
            network = self._networks.get(pod.endpoint.network_id) if pod.endpoint else self._networks.of_pod(pod.config)
        except NotFound:
            # A network can go only when nothing of it is leased any more.
            network = None
        if network is not None:
            self._networks.driver(network).detach(network, pod.id, pod.endpoint)
        stage("pod")
        self._exec.remove_pod(pod.id)
        self._cgroups.cgroup(self._places.pod_cgroup_path(pod)).remove()

    def delete(self, pod: PodRecord) -> None:
        """Delete a stopped pod that no container is left of."""
        shutil.rmtree(self._places.pod_directory(pod.id), ignore_errors=True)
        self._pods.delete(pod, "remove")

    def _known(self, text: str) -> str:
        """The ID of a pod, empty when there is none: whoever wants it gone has what he wants. Raises InvalidArgument (ambiguous)."""
        try:
            return self._pods.resolve(text)
        except NotFound:
            return ""

    # --- between ------------------------------------------------------------------------------------------------------

    def list(self, job: Job, command: commands.ListPods) -> list[PodRecord]:
        """Every pod, newest first."""
        return self._pods.all()

    def inspect(self, job: Job, command: commands.InspectPod) -> PodRecord:
        """One pod."""
        return self._pods.get(command.id)

    def update(self, job: Job, command: commands.UpdatePod) -> None:
        """Set the limits on the pod's cgroup, and keep them."""
        pod = self._pods.ready(command.id)
        set_limits(self._cgroups, self._places.pod_cgroup_path(pod), _total(command.resources, command.overhead))
        config = replace(pod.config, resources=command.resources, overhead=command.overhead)
        self._pods.save(replace(pod, config=config), "update")

    def dial(self, job: Job, command: commands.DialPod) -> socket.socket:
        """Connect to a port inside the pod."""
        if not 0 < command.port < 1 << 16:
            raise InvalidArgument(f"{command.port} is not a port", field="port")
        return self._exec.dial(self._pods.ready(command.id).id, command.port)


def pod_spec(pod: PodRecord) -> PodSpec:
    """What an exec driver is to run."""
    config = pod.config
    own = {"net", "uts"} if config.network == "pod" else set()
    own |= {"ipc"} if config.ipc == "pod" else set()
    return PodSpec(
        id=pod.id,
        hostname=config.hostname,
        namespaces=frozenset(own),
        sysctls={**oci.pod_sysctls(config.network == "host"), **config.sysctls},
        users=config.users,
        groups=config.groups_map or config.users,
        shm_size=SHM_SIZE if config.ipc == "pod" else 0,
    )


def _total(resources: Resources, overhead: Resources) -> Resources:
    """The limits of a pod: what its containers may use, and what it takes to have them. A limit on one of both only is none."""
    return Resources(
        memory=resources.memory and resources.memory + overhead.memory,
        cpu_period=resources.cpu_period,
        cpu_quota=resources.cpu_quota if resources.cpu_quota <= 0 else resources.cpu_quota + max(overhead.cpu_quota, 0),
        cpu_shares=resources.cpu_shares and resources.cpu_shares + overhead.cpu_shares,
        unified=resources.unified,
    )
