"""The exec driver `native`: our own supervisors and libcontainer.

    <state>/pods/<pod id>/     0700; supervisor.sock, and what supervisor.py says of the other files
    <state>/pods/.<pod id>-…/  a removed one, which is being deleted

A pod lives as long as its directory. What a call asks of a supervisor goes over a connection of its own; one more a pod, the watch, stays
open and brings the ends of its containers. When that breaks the supervisor has died: its containers are killed then, and reported.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moorage.server.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MoorageError,
    NotFound,
    Unavailable,
)
from moorage.server.execdriver import native_channel, native_exec, native_stream
from moorage.server.execdriver.base import (
    AttachSpec,
    ContainerSpec,
    ContainerStatus,
    ExecSpec,
    ExitCallback,
    Pod,
    PodOrder,
    PodSpec,
    PodStatus,
    ProcessStream,
    Started,
)
from moorage.server.execdriver.native_exec import Entries, Entry
from moorage.server.execdriver.native_remains import clean_up, container_status, unknown_exit
from moorage.server.execdriver.native_watch import Watch
from moorage.server.execdriver.runtimeoptions import OciRuntime
from moorage.server.execdriver.spawner_client import SpawnerClient
from moorage.server.libcontainer import cgroups
from moorage.server.libcontainer import interfaces as inside
from moorage.server.libcontainer.channel import StageListener
from moorage.server.model import Identity
from moorage.server.networkdriver.base import InterfaceConfig
from moorage.server.supervisor.protocol import Channel, Frame

ANSWER_SECONDS = 10.0
"""How long a supervisor may take over what is quick, before it counts as dead."""
END_SECONDS = 30.0
"""How long it may take to end its containers."""
REPLACE_SECONDS = 0.01
"""How long after a runner was taken others are asked for."""


class NativeDriver:
    """See ExecDriver. Exits may be told before `start` has returned."""

    name = "native"

    def __init__(self, state: Path, spawner: SpawnerClient, runtimes: Sequence[OciRuntime] = ()) -> None:
        """`state` is the daemon's state directory; the spawner stays the caller's; `runtimes` can make containers too."""
        self._runtimes = {runtime.name: runtime for runtime in runtimes}
        self.runtimes = frozenset(self._runtimes)
        self._pods = state / "pods"
        self._spawner = spawner
        self._cgroups = cgroups.detect()
        self._cleaning = threading.Lock()
        """Held by who looks at what a dead supervisor left, or deletes it."""
        self._removing: set[str] = set()
        self._ordered: dict[str, PodOrder] = {}
        """Those nobody has waited for yet."""
        self._ending = ThreadPoolExecutor(1, "moorage-pods")
        """Sees supervisors end whose pods are gone already."""
        self._leaving: dict[str, Future[None]] = {}
        """Their ends; until then they hold the mounts of their last containers."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_exit: ExitCallback | None = None
        # These belong to the loop's thread.
        self._watches: dict[str, Watch] = {}
        self._told: dict[str, set[tuple[str, int]]] = {}
        self._entries = Entries()
        self._replacing: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Future[Any]] = set()

    async def open(self, on_exit: ExitCallback) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._pods.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def close(self) -> None:
        self._loop = None
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        self._entries.clear()
        if self._replacing is not None:
            self._replacing.cancel()
        if self._background:
            await asyncio.wait(self._background)
        await asyncio.to_thread(self._ending.shutdown)

    async def recover(self) -> list[PodStatus]:
        found = await asyncio.to_thread(self._find)
        for status, channel in found:
            # What is answered here is told.
            told = {(each.id, each.started_ns) for each in status.containers if each.exit}
            self._told.setdefault(status.pod.id, set()).update(told)
            if channel is not None:
                self._watch(status.pod.id, channel)
        return [status for status, _channel in found]

    def order_pod(self, spec: PodSpec) -> PodOrder:
        directory = self._directory(spec.id)
        leaving = self._leaving.get(spec.id)
        if leaving is not None:
            leaving.result()
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError as error:
            raise AlreadyExists(f"pod {spec.id} exists") from error
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        message = {**asdict(spec), "namespaces": sorted(spec.namespaces)}
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, directory)
            undo.callback(os.close, fd)
            arrival = self._spawner.order_pod(message, fd)
            order = self._ordered[spec.id] = PodOrder(lambda: self._arrived(spec.id, fd, arrival))
            undo.pop_all()
        return order

    def _arrived(self, pod_id: str, directory: int, arrival: Callable[[], tuple[int, Channel]]) -> Pod:
        """Wait for the supervisor of a pod that has been ordered."""
        del self._ordered[pod_id]
        try:
            pid, channel = arrival()
        except BaseException:
            shutil.rmtree(self._directory(pod_id))
            raise
        finally:
            os.close(directory)
        self._call_soon(self._watch, pod_id, channel)
        return Pod(pod_id, pid)

    def configure_network(self, pod: Pod, interfaces: Sequence[InterfaceConfig]) -> None:
        try:
            sock = inside.socket_of(pod.pid)
        except FileNotFoundError as error:
            raise native_channel.died(pod.id) from error
        if sock is None:
            raise FailedPrecondition(f"pod {pod.id} has no network namespace of its own")
        with sock:
            for interface in interfaces:
                try:
                    inside.configure(sock, asdict(interface))
                except (OSError, ValueError) as error:
                    raise Internal(f"cannot set up interface {interface.name} of pod {pod.id}: {error}") from error

    def start(
        self, pod_id: str, spec: ContainerSpec, stage: StageListener, meanwhile: Callable[[], None] | None = None
    ) -> Started:
        directory, message = self._directory(pod_id), _start_message(spec)
        if spec.runtime:
            message |= {"runtime": self._runtime(spec.runtime).message(directory), "ahead": False}
        if meanwhile is None:
            frame = native_channel.call_frame(directory, message, stage=stage)
        else:
            frame = native_channel.call_meanwhile(directory, message, stage, meanwhile)
        answer = native_channel.checked(frame)
        self._call_soon(self._enter, pod_id, spec.id, frame)
        uid, gid, groups = answer["user"]
        return Started(answer["pid"], answer["started_ns"], Identity(uid, gid, tuple(groups)))

    def _runtime(self, name: str) -> OciRuntime:
        runtime = self._runtimes.get(name)
        if runtime is None:
            hint = f"it needs [runtimes.{name}] in the daemon's configuration"
            raise FailedPrecondition(f"runtime {name!r} is not configured any more", hint=hint, runtime=name)
        return runtime

    def signal(self, pod_id: str, container_id: str, number: int) -> None:
        self._call(pod_id, {"op": "signal", "container": container_id, "signal": number})

    def kill(self, pod_id: str, container_id: str) -> None:
        self._call(pod_id, {"op": "kill", "container": container_id})

    def stop_pod(self, pod_id: str) -> None:
        # A supervisor that has died has taken its containers with it, and who is told of their ends is told so.
        with contextlib.suppress(NotFound, Unavailable):
            self._call(pod_id, {"op": "stop"})

    def remove_container(self, pod_id: str, container_id: str) -> None:
        with contextlib.suppress(NotFound, Unavailable):
            self._call(pod_id, {"op": "forget", "container": container_id}, END_SECONDS)
        self._call_soon(self._forget_container, pod_id, container_id)

    def check_directory(self, mounts: Sequence[Mapping[str, Any]], path: str) -> None:
        self._spawner.run_task("check_directory", {"layers": list(mounts), "path": path})

    def maps_owners(self, directory: str) -> bool:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return bool(self._spawner.run_task("maps_owners", {}, [fd])["mapped"])
        finally:
            os.close(fd)

    def reopen_log(self, pod_id: str, container_id: str) -> None:
        self._call(pod_id, {"op": "reopen", "container": container_id})

    def dial(self, pod_id: str, port: int) -> socket.socket:
        with contextlib.closing(Channel(native_channel.connect(self._directory(pod_id)))) as channel:
            channel.sock.settimeout(ANSWER_SECONDS)
            frame = native_channel.ask_frame(channel, pod_id, {"op": "dial", "port": port})
            native_channel.checked(frame)
            return socket.socket(fileno=frame.fds[0])

    def remove_pod(self, pod_id: str) -> None:
        directory = self._directory(pod_id)
        order = self._ordered.get(pod_id)
        if order is not None:
            with contextlib.suppress(MoorageError):
                order.wait()
        if directory.exists():
            self._removing.add(pod_id)
            ended = self._end_softly(directory)
            for status in self._clean_up_and_delete(directory) if ended is None else ended:
                self._call_soon(self._tell, pod_id, status)
        self._call_soon(self._forget, pod_id)

    def _end_softly(self, directory: Path) -> list[ContainerStatus] | None:
        """Have a supervisor end its containers; that it ends itself, and its files go, happens later.

        None when something is left to clean up; the supervisor has ended then.
        """
        with ExitStack() as stack:
            try:
                sock, pidfd = native_channel.connect_to_living(directory)
            except MoorageError:
                return None
            stack.enter_context(sock)
            stack.callback(os.close, pidfd)
            answer = _ask_to_end(sock, directory.name)
            if not answer.get("clean"):
                _see_end(pidfd, patient=bool(answer))
                return None
            # Out of the way of another pod of this ID.
            left = directory.with_name(f".{directory.name}-{time.monotonic_ns()}")
            directory.rename(left)
            stack.pop_all()
            sock.close()
            self._see_off(directory.name, pidfd, left)
            return [container_status(each) for each in answer["containers"]]

    def _see_off(self, pod_id: str, pidfd: int, left: Path) -> None:
        leaving = self._leaving[pod_id] = self._ending.submit(_finish, pidfd, left)

        def left_now(done: Future[None]) -> None:
            if self._leaving.get(pod_id) is done:
                del self._leaving[pod_id]

        leaving.add_done_callback(left_now)

    def _clean_up_and_delete(self, directory: Path) -> list[ContainerStatus]:
        with self._cleaning, contextlib.suppress(FileNotFoundError):
            ended = clean_up(directory, self._cgroups)
            shutil.rmtree(directory)
            return ended
        return []

    async def attach(self, pod_id: str, container_id: str, spec: AttachSpec) -> ProcessStream:
        channel = native_channel.AsyncChannel(native_channel.connect(self._directory(pod_id)))
        try:
            await channel.request({"op": "attach", "container": container_id, **asdict(spec)})
            frame = await channel.receive()
            if frame is None:
                raise native_channel.died(pod_id)
            pid = int(native_channel.checked(frame)["pid"])
        except BaseException:
            channel.close()
            raise
        return native_stream.AttachStream(channel, pid, functools.partial(unknown_exit, pod_id))

    async def exec(self, pod_id: str, container_id: str, spec: ExecSpec) -> ProcessStream:
        stream = None if spec.detach or spec.process.get("terminal") else await self._run(pod_id, container_id, spec)
        if stream is not None:
            return stream
        channel = native_channel.AsyncChannel(native_channel.connect(self._directory(pod_id)))
        message = {"op": "exec", "container": container_id, "process": spec.process, "detach": spec.detach}
        try:
            return await native_stream.execute(channel, message, spec, functools.partial(unknown_exit, pod_id))
        except BaseException:
            channel.close()
            raise

    async def _run(self, pod_id: str, container_id: str, spec: ExecSpec) -> ProcessStream | None:
        """Have a runner do it, if it can."""
        entry = self._entries.get(pod_id, container_id)
        if entry is None:
            message = {"op": "entry", "container": container_id}
            frame = await native_channel.ask_soon(self._directory(pod_id), message)
            entry = self._enter(pod_id, container_id, frame)
        if entry is None:
            raise NotFound(f"no pod {pod_id}")
        return await native_exec.execute(entry, spec, self._cgroups, self._take_runner)

    def _take_runner(self) -> socket.socket:
        """A runner, and another behind the back of who waits for what it does."""
        if self._replacing is None:
            self._replacing = asyncio.get_running_loop().call_later(REPLACE_SECONDS, self._replace_runners)
        return self._spawner.take_runner()

    def _replace_runners(self) -> None:
        self._replacing = None
        self._spawner.replace_runners()

    def _enter(self, pod_id: str, container_id: str, frame: Frame) -> Entry | None:
        """Keep what a supervisor has told of the way into a container; None when the pod has been removed meanwhile.

        Those of a run that has ended by now lead nowhere, and go with the container.
        """
        about = frame.message["entry"]
        if about is not None and about["filter"] not in (None, *self._spawner.filters):
            # Another daemon's, of other defaults: no runner has it.
            about = None
        entry = Entry(container_id, about, frame.fds)
        if pod_id not in self._watches:
            entry.close()
            return None
        self._entries.put(pod_id, entry)
        return entry

    def _directory(self, pod_id: str) -> Path:
        if not pod_id or "/" in pod_id or pod_id.startswith("."):
            raise InvalidArgument(f"{pod_id!r} is no pod ID")
        return self._pods / pod_id

    def _call(self, pod_id: str, message: dict[str, Any], timeout: float = ANSWER_SECONDS) -> dict[str, Any]:
        try:
            return native_channel.call(self._directory(pod_id), message, timeout=timeout)
        except TimeoutError as error:
            raise Unavailable(f"supervisor of pod {pod_id} does not answer", reason="SUPERVISOR_SILENT") from error

    def _find(self) -> list[tuple[PodStatus, Channel | None]]:
        """The pods on disk, with an open watch of those whose supervisor lives. The others are cleaned up."""
        found = []
        for directory in sorted(self._pods.iterdir()):
            if directory.name.startswith("."):
                shutil.rmtree(directory)
            elif directory.is_dir():
                found.append(self._find_one(directory))
        return found

    def _find_one(self, directory: Path) -> tuple[PodStatus, Channel | None]:
        try:
            sock = native_channel.connect(directory)
        except MoorageError:
            return PodStatus(Pod(directory.name, 0), tuple(self._clean_up(directory))), None
        sock.settimeout(ANSWER_SECONDS)
        channel = Channel(sock)
        try:
            answer = native_channel.ask(channel, directory.name, {"op": "watch"})
        except (MoorageError, TimeoutError):
            _end_supervisor(sock, directory.name)
            return PodStatus(Pod(directory.name, 0), tuple(self._clean_up(directory))), None
        containers = tuple(container_status(each) for each in answer["containers"])
        return PodStatus(Pod(directory.name, answer["pid"]), containers), channel

    def _clean_up(self, directory: Path) -> list[ContainerStatus]:
        with self._cleaning:
            return clean_up(directory, self._cgroups)

    def _call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Have the loop's thread do it; after `close` nobody does."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(function, *args)

    def _watch(self, pod_id: str, channel: Channel) -> None:
        self._watches[pod_id] = Watch(
            channel,
            lambda container: self._tell(pod_id, container_status(container)),
            lambda: self._lost(pod_id),
        )

    def _forget(self, pod_id: str) -> None:
        watch = self._watches.pop(pod_id, None)
        if watch is not None:
            watch.close()
        self._told.pop(pod_id, None)
        self._removing.discard(pod_id)
        self._entries.drop_pod(pod_id)

    def _forget_container(self, pod_id: str, container_id: str) -> None:
        self._entries.drop(pod_id, container_id)
        told = self._told.get(pod_id, set())
        told -= {run for run in told if run[0] == container_id}

    def _tell(self, pod_id: str, container: ContainerStatus) -> None:
        """Call back once for each run of a container."""
        told = self._told.setdefault(pod_id, set())
        run = (container.id, container.started_ns)
        if container.exit is not None and run not in told and self._on_exit is not None:
            told.add(run)
            self._entries.drop(pod_id, container.id)
            self._on_exit(pod_id, container.id, container.exit)

    def _lost(self, pod_id: str) -> None:
        """A supervisor has ended. Who is removing its pod cleans up himself, and tells."""
        loop = self._loop
        if loop is None or pod_id in self._removing:
            return
        cleaning = loop.run_in_executor(None, self._clean_up, self._directory(pod_id))
        self._background.add(cleaning)
        cleaning.add_done_callback(functools.partial(self._cleaned, pod_id))

    def _cleaned(self, pod_id: str, cleaning: asyncio.Future[list[ContainerStatus]]) -> None:
        self._background.discard(cleaning)
        for status in cleaning.result():
            if pod_id in self._watches:
                self._tell(pod_id, status)


def _start_message(spec: ContainerSpec) -> dict[str, Any]:
    # The filter goes as text: it is the key of the compiled program, and is parsed only where that is missing. The config does, as
    # the supervisor has no use for what is in it, but hands it on.
    linux = dict(spec.config["linux"])
    profile = linux.pop("seccomp", None)
    return {
        "op": "start",
        "container": spec.id,
        "config": json.dumps({**spec.config, "linux": linux}),
        "cgroup": linux["cgroupsPath"],
        "seccomp": json.dumps(profile) if profile else None,
        "rootfs": [dict(mount) for mount in spec.rootfs],
        "log_path": spec.log_path,
        "log": asdict(spec.log),
        "stdin_open": spec.stdin_open,
        "stdin_once": spec.stdin_once,
        "init": spec.init,
        "pid": spec.pid,
        "terminal": bool(spec.config["process"].get("terminal")),
        "ahead": _can_be_forked_ahead(spec),
    }


def _can_be_forked_ahead(spec: ContainerSpec) -> bool:
    """Whether the first process may be there before its config: with a pid namespace of its own, and no mappings of IDs."""
    linux, mounts = spec.config["linux"], spec.config.get("mounts", ())
    mapped = "uidMappings" in linux or any("uidMappings" in mount for mount in mounts)
    return not spec.pid and {"type": "pid"} in linux["namespaces"] and not mapped


def _finish(pidfd: int, directory: Path) -> None:
    """See a supervisor end that has no pod any more, and delete what it wrote."""
    try:
        _see_end(pidfd, patient=True)
    finally:
        os.close(pidfd)
    shutil.rmtree(directory, ignore_errors=True)


def _see_end(pidfd: int, *, patient: bool) -> None:
    """Wait for the end of a supervisor; one that does not end, or has not done what it was told, is killed."""
    if not patient or not native_channel.wait_for_end(pidfd, ANSWER_SECONDS):
        native_channel.kill_and_wait(pidfd, ANSWER_SECONDS)


def _ask_to_end(sock: socket.socket, pod_id: str) -> dict[str, Any]:
    """Have a supervisor kill its containers and end; how the containers ended, {} when it does not answer."""
    sock.settimeout(END_SECONDS)
    with contextlib.suppress(MoorageError, TimeoutError):
        return native_channel.ask(Channel(sock), pod_id, {"op": "remove"})
    return {}


def _end_supervisor(sock: socket.socket, pod_id: str) -> None:
    """Have the supervisor at the other end kill its containers and end; one that does not is killed. It has ended on return."""
    with sock:
        pidfd = native_channel.peer_pidfd(sock)
        if pidfd is None:
            return
        try:
            _see_end(pidfd, patient=bool(_ask_to_end(sock, pod_id)))
        finally:
            os.close(pidfd)
