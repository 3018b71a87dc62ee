"""An exec driver with pods and containers to try it on; what the contract and the native driver's own tests share."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from moorage.server.execdriver.base import (
    ContainerSpec,
    ExecDriver,
    ExecSpec,
    Output,
    Pod,
    PodSpec,
    ProcessStream,
    Started,
)
from moorage.server.libcontainer import cgroups
from moorage.server.libcontainer.channel import StageListener
from moorage.server.model import ExitStatus

BUSYBOX = "/bin/busybox"
ENTRY = re.compile(rb"\S+ (stdout|stderr) ([FP]) ([^\n]*)\n")
SECONDS = 30.0


def make_rootfs(directory: Path) -> None:
    """A root file system with busybox and the users root and user."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, directory / "bin" / "busybox")
    for applet in ("cat", "dd", "echo", "head", "hostname", "ip", "kill", "ls", "sh", "sleep", "stty", "true", "yes"):
        (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
    (directory / "etc" / "group").write_text("root:x:0:\nuser:x:1000:\n")


def run_pod(driver: ExecDriver, spec: PodSpec) -> Pod:
    """Order a pod, and wait until it is there."""
    return driver.order_pod(spec).wait()


class Box:
    """A driver with a root file system to run, names of its own, and the exits it told."""

    def __init__(self, driver: ExecDriver, directory: Path) -> None:
        self.driver = driver
        self.directory = directory
        self.cgroup = f"/moorage-test-{uuid4().hex[:8]}"
        self.exits: dict[str, list[ExitStatus]] = {}
        self.pods: list[str] = []
        self._changed = asyncio.Condition()
        make_rootfs(directory / "rootfs")

    async def open(self) -> None:
        await self.driver.open(self._on_exit)

    async def close(self) -> None:
        for pod_id in self.pods:
            await asyncio.to_thread(self.driver.remove_pod, pod_id)
        await self.driver.close()
        cgroups.detect().cgroup(self.cgroup).remove()

    def _on_exit(self, pod_id: str, container_id: str, status: ExitStatus) -> None:
        assert pod_id in self.pods
        self.exits.setdefault(container_id, []).append(status)

    async def pod(self, **settings: Any) -> Pod:
        spec = PodSpec(id=uuid4().hex, hostname="box", **settings)
        self.pods.append(spec.id)
        return await asyncio.to_thread(run_pod, self.driver, spec)

    def process(self, *command: str, terminal: bool = False, username: str = "0") -> dict[str, Any]:
        """An OCI process."""
        return {
            "args": list(command),
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "terminal": terminal,
            "user": {"uid": 0, "gid": 0, "username": username},
            "capabilities": {},
            "noNewPrivileges": True,
        }

    def spec(self, *command: str, memory: int = 0, **settings: Any) -> ContainerSpec:
        """A container that runs `command`."""
        identity = uuid4().hex
        process = {key: settings.pop(key) for key in ("terminal", "username") if key in settings}
        config = {
            "ociVersion": "1.2.0",
            "process": self.process(*command, **process),
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755", "size=64k"]},
                {
                    "destination": "/dev/pts",
                    "type": "devpts",
                    "source": "devpts",
                    "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
                },
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}],
                "cgroupsPath": f"{self.cgroup}/{identity}",
                "resources": {"memory": {"limit": memory, "swap": memory}} if memory else {},
            },
        }
        rootfs = [{"type": "bind", "source": os.fspath(self.directory / "rootfs"), "options": ["rbind"]}]
        log_path = os.fspath(self.directory / "logs" / identity / "log")
        return ContainerSpec(identity, config, rootfs, log_path, **settings)

    async def start(
        self,
        pod: Pod,
        spec: ContainerSpec,
        stage: StageListener = lambda _name, _at_ns=0: None,
        meanwhile: Callable[[], None] | None = None,
    ) -> Started:
        return await asyncio.to_thread(self.driver.start, pod.id, spec, stage, meanwhile)

    async def run(self, *command: str, **settings: Any) -> tuple[Pod, ContainerSpec, Started]:
        """A container in a pod of its own, started."""
        pod, spec = await self.pod(), self.spec(*command, **settings)
        return pod, spec, await self.start(pod, spec)

    async def exit(self, spec: ContainerSpec) -> ExitStatus:
        """How it ended, as called back, exactly once."""
        await until(lambda: spec.id in self.exits)
        (status,) = self.exits[spec.id]
        return status

    def logged(self, spec: ContainerSpec, stream: str = "stdout") -> bytes:
        """What the log says of a stream."""
        entries = ENTRY.findall(Path(spec.log_path).read_bytes())
        return b"".join(
            text + (b"\n" if tag == b"F" else b"") for name, tag, text in entries if name == stream.encode()
        )

    async def exec(self, pod: Pod, spec: ContainerSpec, *command: str, **settings: Any) -> ProcessStream:
        process = {key: settings.pop(key) for key in ("terminal", "username") if key in settings}
        return await self.driver.exec(pod.id, spec.id, ExecSpec(self.process(*command, **process), **settings))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def read_all(stream: ProcessStream) -> tuple[bytes, bytes, ExitStatus]:
    """stdout, stderr and how it ended."""
    texts = {"stdout": b"", "stderr": b""}
    async with asyncio.timeout(SECONDS):
        while isinstance(item := await stream.read(), Output):
            texts[item.stream] += item.data
    return texts["stdout"], texts["stderr"], item


async def read_until(stream: ProcessStream, wanted: bytes) -> bytes:
    text = b""
    async with asyncio.timeout(SECONDS):
        while wanted not in text:
            item = await stream.read()
            assert isinstance(item, Output), (item, text)
            text += item.data
    return text


def alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
