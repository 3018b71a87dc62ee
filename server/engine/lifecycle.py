"""The life of a container, one handler a verb: create, start, stop, kill, remove, and reap, which every end goes through.

A container is a pod of its own with the same ID, or one of several in a pod that was made before and stays after it (`podlife.py`).
`starting` and `removing` are written before the side effects, so that a start-up after a crash knows what was half done (`recovery.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from moorage.server.engine import commands, inpod, names
from moorage.server.engine.containers import Containers
from moorage.server.engine.engine import Lane
from moorage.server.engine.job import Job
from moorage.server.engine.networks import Networks
from moorage.server.engine.places import Places
from moorage.server.engine.pods import Pods
from moorage.server.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MoorageError,
    NotFound,
)
from moorage.server.execdriver import spec as oci
from moorage.server.execdriver.base import NATIVE_RUNTIME, ContainerSpec, ExecDriver, PodSpec, Started
from moorage.server.execdriver.check import check_process
from moorage.server.execdriver.mounts import mount_tables
from moorage.server.graph.drivers.base import WritableLayer
from moorage.server.graph.graph import Graph
from moorage.server.model import Container, ContainerConfig, ExitStatus, Image, ImageConfig, PodConfig, PodRecord
from moorage.server.networkdriver import names as files

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KILL_SECONDS = 30


class Blocking(Protocol):
    """The part of the engine that `async` handlers use."""

    def blocking(self, lane: Lane, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Run a blocking function on a lane's threads."""
        ...

    def locked(self, key: str) -> AbstractAsyncContextManager[None]:
        """Have an object for oneself."""
        ...


class Lifecycle:
    """Handlers that change containers."""

    def __init__(
        self,
        *,
        engine: Blocking,
        places: Places,
        containers: Containers,
        pods: Pods,
        graph: Graph,
        images: Callable[[str], Image],
        networks: Networks,
        exec_driver: ExecDriver,
    ) -> None:
        self._began_ns = time.time_ns()
        self._engine = engine
        self._places = places
        self._containers = containers
        self._pods = pods
        self._graph = graph
        self._images = images
        self._networks = networks
        self._exec = exec_driver
        self.private_env: dict[str, tuple[str, ...]] = {}
        """Environment, by container, that its first process gets and that is written nowhere."""

    # --- create -------------------------------------------------------------------------------------------------------

    def create(self, job: Job, command: commands.Create) -> commands.Created:
        """Check everything that can be checked, make the writable layer, then the node."""
        config = command.config
        oci.check(config, shared=bool(command.pod_id))
        self._check_runtime(config)
        pod = self._pods.ready(command.pod_id) if command.pod_id else None
        name, made = self._name(command, pod)
        if made is not None:
            return commands.Created(made.id, name)
        image = self._images(config.image)
        container = _merged(secrets.token_hex(32), name, config, image)
        if pod is None:
            self._networks.check(config.network)
        else:
            container = inpod.join(container, pod, self._containers, self._images)
            self._check_volumes(container)
        check_process(container.command, container.env, container.cwd, container.user)
        oci.parse_signal(container.stop_signal)
        files.check(config.hostname, config.network)
        directory = self._places.directory(container.id)
        with ExitStack() as undo:
            job.stage("rootfs")
            undo.callback(self._graph.remove_rootfs, container.id)
            # Neither a container of a pod nor one that goes at its end is ever started again.
            layer = WritableLayer(config.rootfs_size, disposable=config.auto_remove or pod is not None)
            self._graph.create_rootfs(container.id, image.id, layer)
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
            job.stage("commit")
            self._containers.add(container)
            undo.pop_all()
        return commands.Created(container.id, name)

    def _check_runtime(self, config: ContainerConfig) -> None:
        """Refuse a runtime that there is not, and what no OCI runtime does. Raises InvalidArgument."""
        if config.runtime and config.runtime not in self._exec.runtimes:
            known = ", ".join((NATIVE_RUNTIME, *sorted(self._exec.runtimes)))
            hint = f"known are {known}; an OCI runtime is made known in [runtimes] of the daemon's configuration"
            raise InvalidArgument(f"unknown runtime {config.runtime!r}", hint=hint, field="runtime")
        if config.runtime and config.init:
            raise InvalidArgument(
                f"init: runtime {config.runtime!r} has none of its own",
                hint=f"use one that the image has, or runtime {NATIVE_RUNTIME}",
                field="init",
            )

    def _check_volumes(self, container: Container) -> None:
        """Refuse directories of images that are not there. Raises FailedPrecondition."""
        volumes = (mount for mount in container.config.mounts if mount.kind == "image")
        for mount, image_id in zip(volumes, container.mounted_images, strict=True):
            if mount.sub_path:
                self._exec.check_directory(mount_tables(self._graph.view(image_id)), mount.sub_path)

    def _name(self, command: commands.Create, pod: PodRecord | None) -> tuple[str, Container | None]:
        """The container's name, and the container if an earlier call, whose caller has not heard, made it. Raises AlreadyExists."""
        if pod is None and not command.name:
            return names.made_up(lambda made: self._containers.named(made) is not None), None
        name = (
            names.check(command.name, "container") if pod is None else command.name or inpod.name(command.config, pod)
        )
        holder = self._containers.find(self._containers.named(name) or "")
        # A daemon that has ended may have owed the answer.
        owed = holder is not None and holder.state == "created" and holder.created_ns < self._began_ns
        if holder is not None and owed and (holder.config, holder.pod_id) == (command.config, pod.id if pod else ""):
            return name, holder
        self._refuse_taken(name)
        return name, None

    def _refuse_taken(self, name: str) -> None:
        holder = self._containers.named(name)
        if holder is not None:
            raise AlreadyExists(
                f"container name {name!r} is in use by {holder}",
                hint="remove that container or choose another name",
                name=name,
                holder=holder,
            )

    # --- start --------------------------------------------------------------------------------------------------------

    def start(self, job: Job, command: commands.Start) -> int:
        """Pod, network, process; on any failure all of it goes again."""
        before = self._containers.get(command.id)
        if before.state == "running":
            return before.pid
        if before.state == "removing":
            raise FailedPrecondition(f"container {before.name} is being removed", hint="remove it again to finish that")
        if before.pod_id and before.state == "exited":
            raise FailedPrecondition(f"container {before.name} has ended: it runs once", state=before.state)
        starting = self._containers.save(replace(before, state="starting", exit=None, pid=0))
        try:
            with ExitStack() as undo:
                undo.callback(self._containers.save, before)
                running = self._run(job, starting, command.connect, undo)
                undo.pop_all()
                return running.pid
        except MoorageError as error:
            self._start_failed(before, error)
            raise

    def _start_failed(self, before: Container, error: MoorageError) -> None:
        """A command that cannot be executed is an end of its own; any other failure leaves the container as it was."""
        status = before.exit or ExitStatus(0, 0)
        if "exit_code" in error.metadata:
            status = ExitStatus(
                int(error.metadata["exit_code"]), time.time_ns(), reason="StartError", error=error.message
            )
            ended = self._containers.ended(before, status)
            if ended.state == "removing":
                self.delete(ended)
        self._containers.settle(before.id, status)

    def _run(self, job: Job, container: Container, connect: Callable[[str], None] | None, undo: ExitStack) -> Container:
        if container.pod_id:
            return self._run_in_pod(job, container, connect, undo)
        attachment = container.config.network
        network = self._networks.get(attachment.network)
        hostname = _hostname(container, network.driver)
        job.stage("pod")
        host_network = network.driver == "host"
        namespaces = frozenset({"ipc", "uts"} if host_network else {"net", "ipc", "uts"})
        undo.callback(self._exec.remove_pod, container.id)
        order = self._exec.order_pod(PodSpec(container.id, hostname, namespaces, oci.pod_sysctls(host_network)))
        directory = self._places.directory(container.id)
        files.make_files(directory)
        spec = self._spec(container, directory, hostname)
        pod = order.wait()
        driver = self._networks.driver(network)
        undo.callback(driver.detach, network, container.id, None)
        joined = container

        def join() -> None:
            nonlocal joined
            attached = driver.attach(network, container.id, lambda: pod.pid, attachment.ports, job.stage)
            joined = replace(container, endpoint=attached.endpoint)
            job.stage("network")
            if not host_network:
                self._exec.configure_network(pod, attached.interfaces)
            files.write_files(
                directory,
                hostname=hostname,
                address=attached.endpoint.address,
                attachment=attachment,
                host_network=host_network,
            )
            job.stage("container")

        # The container is made, and joins its network, at the same time.
        started = self._start_process(job, container, connect, spec, join)
        return self._running(job, joined, started)

    def _run_in_pod(
        self, job: Job, container: Container, connect: Callable[[str], None] | None, undo: ExitStack
    ) -> Container:
        pod = self._pods.ready(container.pod_id)
        inpod.check_target(container, self._containers)
        undo.callback(self._exec.remove_container, pod.id, container.id)
        started = self._start_process(job, container, connect, self.spec_in_pod(container, pod))
        return self._running(job, container, started)

    def spec_in_pod(self, container: Container, pod: PodRecord) -> ContainerSpec:
        """What to start for a container of a pod."""
        return self._spec(container, self._places.pod_directory(pod.id), "", pod.config)

    def _start_process(
        self,
        job: Job,
        container: Container,
        connect: Callable[[str], None] | None,
        spec: ContainerSpec,
        meanwhile: Callable[[], None] | None = None,
    ) -> Started:
        if connect is not None:
            connect(container.id)
        job.stage("process")
        return self._exec.start(container.pod, spec, job.stage, meanwhile)

    def _running(self, job: Job, container: Container, started: Started) -> Container:
        job.stage("commit")
        running = replace(
            container, state="running", pid=started.pid, started_ns=started.started_ns, identity=started.identity
        )
        return self._containers.save(running, "start", pid=started.pid)

    def _spec(
        self, container: Container, directory: Path, hostname: str, pod: PodConfig | None = None
    ) -> ContainerSpec:
        """What to start; `directory` has the files that tell names."""
        config = oci.build(
            replace(container, env=container.env + self.private_env.get(container.id, ())),
            cgroup_path=self._places.cgroup_path(container.id),
            hosts_path=str(directory / "hosts"),
            resolv_conf_path=str(directory / "resolv.conf"),
            hostname_path=str(directory / "hostname"),
            hostname=hostname,
            pod=pod,
            images=[self._graph.view(image_id) for image_id in container.mounted_images],
        )
        return ContainerSpec(
            id=container.id,
            config=config,
            rootfs=mount_tables(self._graph.rootfs(container.id)),
            log_path=str(self._places.log_path(container.id)),
            log=container.config.log,
            stdin_open=container.config.stdin_open,
            stdin_once=container.config.stdin_once,
            init=container.config.init,
            pid=container.config.pid,
            runtime=pod.runtime if pod else container.config.runtime,
        )

    # --- the end ------------------------------------------------------------------------------------------------------

    async def stop(self, job: Job, command: commands.Stop) -> None:
        """Ask, wait, kill. The container's lock is held only to see what state it is in."""
        container = await self._settled(command.id)
        if container.state != "running":
            return
        timeout = command.timeout if command.timeout is not None else container.config.stop_timeout
        timeout = 10 if timeout is None else timeout
        if timeout > 0:
            job.stage("signal")
            number = oci.parse_signal(container.stop_signal or "SIGTERM")
            await self._engine.blocking(Lane.KERNEL, self._exec.signal, container.pod, container.id, number)
            job.stage("wait")
        if timeout <= 0 or not await self._within(container.id, timeout):
            job.stage("kill")
            await self._kill_and_wait(container)
        self._containers.tell(container, "stop")

    def kill(self, job: Job, command: commands.Kill) -> None:
        """Signal the first process."""
        number = oci.parse_signal(command.signal or "SIGKILL")
        container = self._containers.get(command.id)
        if container.state != "running":
            raise FailedPrecondition(
                f"container {container.name} is not running", hint=f"it is {container.state}", state=container.state
            )
        self._exec.signal(container.pod, container.id, number)
        self._containers.tell(container, "kill", signal=number)

    async def remove(self, job: Job, command: commands.Remove) -> None:
        """Kill it if asked to, then delete it."""
        container = await self._settled(command.id)
        if container.state == "running":
            if not command.force:
                raise FailedPrecondition(
                    f"container {container.name} is running", hint="stop it first, or remove it with force"
                )
            job.stage("kill")
            await self._kill_and_wait(container)
            if container.config.auto_remove:
                return
        async with self._engine.locked(container.id):
            job.stage("delete")
            await self._engine.blocking(Lane.DISK, self.delete, self._containers.get(container.id))

    def delete(self, container: Container) -> None:
        """Delete a container that does not run; what an earlier try left is deleted too."""
        if container.state == "running":
            raise FailedPrecondition(
                f"container {container.name} is running", hint="stop it first, or remove it with force"
            )
        if container.state != "removing":
            self._containers.save(replace(container, state="removing"))
        if container.pod_id:
            # Until now the supervisor has kept how it ended.
            self._exec.remove_container(container.pod_id, container.id)
        if not container.transient:
            self._graph.remove_rootfs(container.id)
        shutil.rmtree(self._places.directory(container.id), ignore_errors=True)
        self._containers.delete(container)
        for image_id in {container.image_id, *container.mounted_images}:
            self._graph.drop_nameless(image_id, self._containers.using)
        self._containers.settle(container.id, container.exit or ExitStatus(0, 0))

    def reap(self, job: Job, command: commands.Reap) -> None:
        """A container's first process has ended: release all it held, record the end, wake who waits."""
        container = self._containers.get(command.id)
        if container.state == "running":
            if not container.pod_id:
                self.release(job.stage, container)
            elif command.status.reason == "Unknown":
                self._pods.lost(container.pod_id)
            job.stage("commit")
            container = self._containers.ended(container, command.status)
            if container.state == "removing":
                job.stage("delete")
                self.delete(container)
        self._containers.settle(container.id, command.status)

    def release(self, stage: Callable[[str], None], container: Container) -> None:
        """End a container's own pod and take it out of its network."""
        network = self._networks.get(container.config.network.network)
        stage("network")
        self._networks.driver(network).detach(network, container.id, container.endpoint)
        stage("pod")
        self._exec.remove_pod(container.id)

    async def running(self, ids: Iterable[str]) -> list[Container]:
        """Those of them that run, when no start of any is under way."""
        found = []
        for container_id in ids:
            with contextlib.suppress(NotFound):
                container = await self._settled(container_id)
                if container.state == "running":
                    found.append(container)
        return found

    async def end(self, container_id: str) -> None:
        """Kill a container if it runs, and see its end recorded; one that is gone is fine."""
        with contextlib.suppress(NotFound):
            for container in await self.running((container_id,)):
                await self._kill_and_wait(container)

    async def discard(self, container_id: str) -> None:
        """Delete a container that does not run; one that is gone is fine."""
        with contextlib.suppress(NotFound):
            async with self._engine.locked(container_id):
                await self._engine.blocking(Lane.DISK, self.delete, self._containers.get(container_id))

    async def _settled(self, text: str) -> Container:
        """The container when no start or removal of it is under way."""
        container_id = self._containers.resolve(text)
        async with self._engine.locked(container_id):
            return self._containers.get(container_id)

    async def _kill_and_wait(self, container: Container) -> None:
        if container.pod_id:
            await self._engine.blocking(Lane.KERNEL, self._exec.kill, container.pod, container.id)
        else:
            await self._engine.blocking(Lane.KERNEL, self._exec.stop_pod, container.id)
        await self.see_end(container)

    async def see_end(self, container: Container) -> None:
        """Wait for the end of a container that has been killed, until all that follows from it is done."""
        ended = True
        with contextlib.suppress(NotFound):
            ended = await self._within(container.id, KILL_SECONDS)
        if not ended:
            raise Internal(
                f"container {container.name} has not ended {KILL_SECONDS} seconds after SIGKILL",
                hint="a process of it may be stuck in the kernel: see its state with `moorage top`",
            )

    async def _within(self, container_id: str, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._containers.gone(container_id), seconds)
        except TimeoutError:
            return False
        return True


def _merged(container_id: str, name: str, config: ContainerConfig, image: Image) -> Container:
    """The container that a config and an image make (Docker's rules: an entrypoint of one's own drops the image's command)."""
    base = image.config
    argv = (
        config.entrypoint + config.command if config.entrypoint else base.entrypoint + (config.command or base.command)
    )
    if not argv or not argv[0]:
        raise InvalidArgument(f"no command: image {config.image} names none and none was given", field="config.command")
    return Container(
        id=container_id,
        name=name,
        image_id=image.id,
        image_ref=image.digests[0] if image.digests else image.id,
        config=config,
        command=argv,
        env=merged_env(base, config.env),
        user=config.user or base.user,
        cwd=config.working_dir or base.working_dir or "/",
        stop_signal=config.stop_signal or base.stop_signal or "SIGTERM",
        state="created",
        created_ns=time.time_ns(),
    )


def merged_env(base: ImageConfig, own: tuple[str, ...]) -> tuple[str, ...]:
    """The image's environment with one's own on top, and a PATH."""
    merged: dict[str, str] = {}
    for entry in (DEFAULT_PATH, *base.env, *own):
        merged[entry.partition("=")[0]] = entry
    return tuple(merged.values())


def _hostname(container: Container, driver: str) -> str:
    return container.config.hostname or (socket.gethostname() if driver == "host" else container.id[:12])
