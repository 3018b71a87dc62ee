"""A recording fake of the kernel's side: an exec driver whose processes are Python objects, and a graph of one image.

`true` ends at once with 0, `false` with 1, `exit N` with N, `cat` copies stdin to stdout until it closes, `sleep` runs until it is
signalled, `nosuch` does not exist. Everything that was asked for is in `calls`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition, Internal, MoorageError, NotFound, Unavailable
from moorage.server.execdriver.base import (
    AttachSpec,
    ContainerSpec,
    ExecSpec,
    ExitCallback,
    Output,
    Pod,
    PodOrder,
    PodSpec,
    PodStatus,
    ProcessStream,
    Started,
)
from moorage.server.graph.drivers.base import UNLIMITED, DriverStatus, RootfsMount, WritableLayer
from moorage.server.graph.garbage import Collected
from moorage.server.libcontainer.cgroups import CgroupStats
from moorage.server.libcontainer.channel import StageListener
from moorage.server.model import DiskUsage, ExitStatus, Identity, Image, ImageConfig, Layer, Platform
from moorage.server.networkdriver.base import InterfaceConfig
from moorage.server.registry.progress import PullProgress, PullStage

IMAGE_ID = "sha256:" + "1" * 64
IMAGE = Image(
    id=IMAGE_ID,
    created_ns=1_700_000_000_000_000_000,
    platform=Platform(),
    config=ImageConfig(
        env=("A=image", "B=image"), entrypoint=(), command=("true",), working_dir="/srv", labels={"from": "image"}
    ),
    layers=(Layer("sha256:" + "2" * 64, "sha256:" + "3" * 64, "", 1234),),
    tags=("docker.io/library/base:latest",),
    digests=("docker.io/library/base@sha256:" + "4" * 64,),
)


class FakeStream:
    """The streams of one process."""

    def __init__(self, process: FakeProcess) -> None:
        self.pid = process.pid
        self._process = process
        self._queue: asyncio.Queue[Output | ExitStatus] = asyncio.Queue()
        process.streams.append(self)

    async def read(self) -> Output | ExitStatus:
        return await self._queue.get()

    async def write(self, data: bytes) -> None:
        self._process.take(data)

    async def close_stdin(self) -> None:
        self._process.end_of_input()

    async def resize(self, columns: int, rows: int) -> None:
        self._process.kernel.calls.append(("resize", columns, rows))

    async def signal(self, number: int) -> None:
        self._process.signal(number)

    async def close(self) -> None:
        self._process.kernel.calls.append(("close-stream", self.pid))
        if self._process.is_exec:
            self._process.signal(9)

    def give(self, item: Output | ExitStatus) -> None:
        self._queue.put_nowait(item)


class FakeProcess:
    """A process of the table above; lives on the kernel's event loop."""

    def __init__(self, kernel: FakeExecDriver, argv: Sequence[str], ended: Callable[[ExitStatus], None] | None) -> None:
        self.kernel = kernel
        self.pid = next(kernel.pids)
        self.is_exec = ended is None
        self.streams: list[FakeStream] = []
        self._argv = list(argv)
        self._ended = ended
        self.status: ExitStatus | None = None

    def run(self) -> None:
        match self._argv:
            case ["true"]:
                self.end(0)
            case ["false"]:
                self.end(1)
            case ["exit", code]:
                self.end(int(code))
            case ["echo", *words]:
                self._write(" ".join(words).encode() + b"\n")
                self.end(0)

    def take(self, data: bytes) -> None:
        if self._argv[0] == "cat":
            self._write(data)

    def end_of_input(self) -> None:
        if self._argv[0] == "cat":
            self.end(0)

    def signal(self, number: int) -> None:
        self.kernel.calls.append(("signalled", self.pid, number))
        if self._argv[0] != "stubborn" or number == 9:
            self.end(128 + number)

    def end(self, code: int, oom: bool = False) -> None:
        if self.status is not None:
            return
        reason = "OOMKilled" if oom else "Completed" if code == 0 else "Error"
        self.status = ExitStatus(code, time.time_ns(), oom, reason)
        for stream in self.streams:
            stream.give(self.status)
        if self._ended:
            self._ended(self.status)

    def _write(self, data: bytes) -> None:
        for stream in self.streams:
            stream.give(Output("stdout", data))


class FakeExecDriver:
    """ExecDriver without a kernel."""

    name = "fake"
    runtimes: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.pids = itertools.count(4242)
        self.processes: dict[str, FakeProcess] = {}
        self.pods: set[str] = set()
        self.inside: dict[str, set[str]] = {}
        self.pod_specs: dict[str, PodSpec] = {}
        self.fail_pod: MoorageError | None = None
        self.fail_remove = False
        self.identity = Identity(0, 0, (0,))
        self.specs: dict[str, ContainerSpec] = {}
        self.left_over: list[PodStatus] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_exit: ExitCallback | None = None
        self._early: dict[str, list[FakeStream]] = {}

    async def open(self, on_exit: ExitCallback) -> None:
        self._loop, self._on_exit = asyncio.get_running_loop(), on_exit

    async def close(self) -> None:
        self._loop = None

    async def recover(self) -> list[PodStatus]:
        return self.left_over

    def order_pod(self, spec: PodSpec) -> PodOrder:
        self.calls.append(("order_pod", spec.id))
        self.pod_specs[spec.id] = spec
        return PodOrder(lambda: self._arrived(spec))

    def _arrived(self, spec: PodSpec) -> Pod:
        if self.fail_pod is not None:
            raise self.fail_pod
        self.pods.add(spec.id)
        return Pod(spec.id, next(self.pids))

    def configure_network(self, pod: Pod, interfaces: Sequence[InterfaceConfig]) -> None:
        self.calls.append(("configure_network", pod.id, tuple(interfaces)))

    def start(
        self, pod_id: str, spec: ContainerSpec, stage: StageListener, meanwhile: Callable[[], None] | None = None
    ) -> Started:
        if meanwhile is not None:
            meanwhile()
        self.calls.append(("start", spec.id))
        self.specs[spec.id] = spec
        argv = spec.config["process"]["args"]
        if argv[0] == "nosuch":
            raise FailedPrecondition(
                f"cannot execute {argv[0]}: no such file", exit_code=127, stage="exec", path=argv[0]
            )
        if argv[0] == "broken":
            raise Internal("the kernel is on fire")
        process = FakeProcess(self, argv, lambda status: self._tell(pod_id, spec.id, status))
        self.processes[spec.id] = process
        self.inside.setdefault(pod_id, set()).add(spec.id)
        self._on_loop(self._run, process, self._early.pop(spec.id, []))
        return Started(process.pid, time.time_ns(), self.identity)

    def signal(self, pod_id: str, container_id: str, number: int) -> None:
        self._on_loop(self._known(container_id).signal, number)

    def kill(self, pod_id: str, container_id: str) -> None:
        self._on_loop(self._known(container_id).signal, 9)

    def stop_pod(self, pod_id: str) -> None:
        for container_id in self.inside.get(pod_id, ()):
            if container_id in self.processes:
                self._on_loop(self.processes[container_id].signal, 9)

    def remove_container(self, pod_id: str, container_id: str) -> None:
        self.calls.append(("remove_container", pod_id, container_id))
        process = self.processes.pop(container_id, None)
        if process is not None:
            self._on_loop(process.signal, 9)

    def check_directory(self, mounts: Sequence[Mapping[str, Any]], path: str) -> None:
        self.calls.append(("check_directory", path))

    def maps_owners(self, directory: str) -> bool:
        return True

    def reopen_log(self, pod_id: str, container_id: str) -> None:
        self.calls.append(("reopen_log", pod_id, container_id))

    def dial(self, pod_id: str, port: int) -> socket.socket:
        """What is sent comes back; nothing listens on port 1."""
        self.calls.append(("dial", pod_id, port))
        if port == 1:
            raise Unavailable(f"cannot connect to port {port} of pod {pod_id}: connection refused")
        ours, theirs = socket.socketpair()
        threading.Thread(target=_echo, args=(theirs,), daemon=True).start()
        return ours

    def remove_pod(self, pod_id: str) -> None:
        self.calls.append(("remove_pod", pod_id))
        if self.fail_remove:
            raise Internal("the kernel holds on to it")
        self.pods.discard(pod_id)

    async def attach(self, pod_id: str, container_id: str, spec: AttachSpec) -> ProcessStream:
        self.calls.append(("attach", container_id, spec))
        if container_id in self.processes:
            return FakeStream(self.processes[container_id])
        waiting = FakeStream(FakeProcess(self, ["waiting"], None))
        self._early.setdefault(container_id, []).append(waiting)
        return waiting

    async def exec(self, pod_id: str, container_id: str, spec: ExecSpec) -> ProcessStream:
        self.calls.append(("exec", container_id, spec))
        if spec.process["args"][0] == "nosuch":
            raise FailedPrecondition("cannot execute nosuch: no such file", exit_code=127, stage="exec", path="nosuch")
        process = FakeProcess(self, spec.process["args"], None)
        stream = FakeStream(process)
        process.run()
        return stream

    def out_of_memory(self, container_id: str) -> None:
        """The kernel kills the container's process for want of memory."""
        self._on_loop(self.processes[container_id].end, 137, True)

    def tell(self, pod_id: str, container_id: str, status: ExitStatus) -> None:
        """An end that the daemon did not ask for."""
        self._on_loop(self._tell, pod_id, container_id, status)

    def _run(self, process: FakeProcess, early: list[FakeStream]) -> None:
        for stream in early:
            stream._process = process
            process.streams.append(stream)
        process.run()

    def _tell(self, pod_id: str, container_id: str, status: ExitStatus) -> None:
        assert self._on_exit is not None
        self._on_exit(pod_id, container_id, status)

    def _known(self, container_id: str) -> FakeProcess:
        if container_id not in self.processes:
            raise NotFound(f"no such pod: {container_id}")
        return self.processes[container_id]

    def _on_loop(self, function: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function, *args)


def _echo(sock: socket.socket) -> None:
    with sock:
        while data := sock.recv(65536):
            sock.sendall(data)


class FakeGraph:
    """A graph of one image, and of root file systems that are only names."""

    driver = SimpleNamespace(name="fake", status=lambda: DriverStatus("ext4", ("fakery",), "", "it has none"))

    def __init__(self) -> None:
        self.images: dict[str, Image] = {IMAGE_ID: IMAGE}
        self.roots: set[str] = set()

    def is_id(self, text: str) -> bool:
        return text.startswith("sha256:") or (len(text) >= 6 and all(c in "0123456789abcdef" for c in text))

    def get(self, text: str) -> Image:
        for image in self.images.values():
            if text in (image.id, *image.tags, *image.digests) or image.id.removeprefix("sha256:").startswith(
                text.removeprefix("sha256:")
            ):
                return image
        raise NotFound(f"no such image: {text}", hint="pull it first", image=text)

    def drop_nameless(self, image_id: str, in_use: Callable[[str], Sequence[str]]) -> None:
        """All images have names."""

    def list(self) -> list[Image]:
        return list(self.images.values())

    def create_rootfs(self, container_id: str, image_id: str, layer: WritableLayer = UNLIMITED) -> None:
        if layer.size:
            raise FailedPrecondition(f"cannot limit the size of container {container_id}", reason="NO_QUOTA")
        self.roots.add(container_id)

    def rootfs(self, container_id: str) -> tuple[RootfsMount, ...]:
        return (RootfsMount("bind", f"/nowhere/{container_id}"),)

    def view(self, image_id: str) -> tuple[RootfsMount, ...]:
        return (RootfsMount("bind", f"/nowhere/{image_id}", ("bind", "ro")),)

    def remove_rootfs(self, container_id: str) -> None:
        self.roots.discard(container_id)

    def rootfs_usages(self, container_ids: Sequence[str]) -> dict[str, DiskUsage]:
        return dict.fromkeys(container_ids, DiskUsage(4096, 2))

    def collect(self, containers: set[str]) -> Collected:
        self.roots &= containers
        return Collected(0, 0, 0, 0, 0)


class FakeCgroup:
    """A cgroup of fixed accounts; what is made and changed is in the manager's `calls`."""

    def __init__(self, path: str, calls: list[tuple[Any, ...]]) -> None:
        self.path = path
        self._calls = calls

    def create(self, resources: Mapping[str, Any]) -> None:
        self._calls.append(("create", self.path, dict(resources)))

    def update(self, resources: Mapping[str, Any]) -> None:
        self._calls.append(("update", self.path, dict(resources)))

    def thaw(self) -> None:
        self._calls.append(("thaw", self.path))

    def sampler(self) -> FakeCgroup:
        return self

    def read(self) -> CgroupStats:
        return CgroupStats(
            cpu_usage_ns=time.monotonic_ns(),
            cpu_throttled_ns=5,
            memory_usage=1000,
            memory_inactive_file=200,
            memory_limit=0,
            memory_rss=600,
            memory_swap=50,
            page_faults=40,
            major_page_faults=4,
            pids=3,
            pids_limit=10,
            io_read_bytes=7,
            io_write_bytes=8,
            oom_kills=1,
        )

    def close(self) -> None:
        """Nothing is open."""

    def pids(self) -> list[int]:
        return [os.getpid()]

    def kill(self) -> None:
        """Nothing runs."""

    def remove(self) -> None:
        self._calls.append(("remove", self.path))


class FakeCgroups:
    """A manager of fake cgroups."""

    version = 1

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def cgroup(self, path: str) -> FakeCgroup:
        return FakeCgroup(path, self.calls)

    def children(self, parent: str) -> set[str]:
        return set()

    def prune(self, parent: str) -> None:
        """Nothing is there."""


class FakePuller:
    """Answers one image after the steps it is told to report; `fail` raises instead, `block` waits to be cancelled."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.steps: list[PullProgress] = [
            PullProgress("sha256:aa", PullStage.DOWNLOADING, 5, 10),
            PullProgress("", PullStage.DONE),
        ]
        self.fail: MoorageError | None = None
        self.block = False
        self.asked: list[tuple[Any, ...]] = []
        self.cancelled = threading.Event()

    def pull(
        self, reference: Any, platform: Any, auth: Any, progress: Callable[[PullProgress], None], cancel: CancelToken
    ) -> Image:
        self.asked.append((str(reference), platform, auth))
        for step in self.steps:
            progress(step)
        if self.block:
            try:
                cancel.wait(20)
            finally:
                self.cancelled.set()
        if self.fail:
            raise self.fail
        return self.image


def no_task(name: str, args: Mapping[str, Any], fds: Sequence[int], cancel: CancelToken | None) -> dict[str, Any]:
    """There is no spawner that would run a task."""
    raise Unavailable(f"task {name} cannot be run: there is no spawner")
