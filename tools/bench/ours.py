"""Moorage: a daemon of its own, driven over its SDK or over CRI, and the stages its jobs tell their time by."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from moorage.client import Client, MoorageError
from moorage.v1 import runtime_pb2
from tests.daemon import Daemon
from tools.bench.cri import Cri, remove_cgroups
from tools.bench.engine import Samples
from tools.bench.process import children

LOG_LIMIT = 64 << 30
"""Size at which the log is rotated: never, as containerd does not rotate either."""


class Mooraged:
    """Implements `Server`."""

    def __init__(self, directory: Path, mirrors: Mapping[str, str], settings: str = "") -> None:
        self.daemon = Daemon(directory, mirrors, settings=settings)

    @classmethod
    @contextmanager
    def running(cls, directory: Path, mirrors: Mapping[str, str], settings: str = "") -> Iterator[Mooraged]:
        """A daemon with all it has in `directory`, and with these settings."""
        server = cls(directory, mirrors, settings)
        server.daemon.start()
        try:
            yield server
        finally:
            server.daemon.close()

    @property
    def url(self) -> str:
        return f"unix:{self.daemon.socket}"

    @property
    def pid(self) -> int:
        return self.daemon.pid

    def processes(self) -> list[int]:
        """The daemon, the spawner and the supervisors: what runs inside containers is in another PID namespace."""
        return [pid for pid in children(self.pid) if _pid_namespace(pid) == _pid_namespace(os.getpid())]

    def restart(self) -> float:
        self.daemon.stop()
        begun = time.perf_counter()
        self.daemon.start()
        return begun

    def stages(self) -> dict[str, dict[str, float]]:
        """Verb to stage to the median of its seconds, of the jobs that the daemon still remembers."""
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        with Client(self.daemon.url) as client:
            jobs = client.system.jobs(all=True)
        for job in jobs:
            found[job.verb]["total"].append(job.duration_nanos / 1e9)
            for stage in job.stages:
                found[job.verb][stage.name].append(stage.duration_nanos / 1e9)
        return {
            verb: {name: statistics.median(times) for name, times in parts.items()} for verb, parts in found.items()
        }


class Moorage:
    """Implements `Engine` over `moorage.v1`."""

    def __init__(self, name: str, server: Mooraged, client: Client, image: str) -> None:
        self.name = name
        self.server = server
        self._client, self._image = client, image

    @classmethod
    @contextmanager
    def running(cls, name: str, directory: Path, mirrors: Mapping[str, str], image: str) -> Iterator[Moorage]:
        with Mooraged.running(directory, mirrors) as server, Client(server.daemon.url) as client:
            yield cls(name, server, client, image)

    def pull(self, reference: str) -> None:
        self._client.images.pull(reference).result()

    def up(self, command: Sequence[str]) -> str:
        log = runtime_pb2.LogConfig(max_size_bytes=LOG_LIMIT)
        config = runtime_pb2.ContainerConfig(image=self._image, command=command, log=log)
        container = self._client.containers.create(config).id
        self._client.containers.start(container)
        return container

    def down(self, container: str) -> None:
        self._client.containers.stop(container, timeout=0)
        self._client.containers.remove(container)

    def exec(self, container: str, command: Sequence[str]) -> None:
        done = self._client.containers.exec_sync(container, command)
        if done.exit_code:
            raise RuntimeError(f"exec in moorage: exit {done.exit_code}: {done.stderr!r}")

    def samplers(self) -> Mapping[str, Callable[[], Samples]]:
        return {"stats": self._stats}

    def status(self, container: str) -> None:
        self._client.containers.get(container)

    def list(self) -> int:
        return len(self._client.containers.list())

    def wait(self, container: str) -> float:
        self._client.containers.wait(container)
        found = self._client.containers.get(container)
        return (found.finished_at.ToNanoseconds() - found.started_at.ToNanoseconds()) / 1e9

    def log_size(self, container: str) -> int:
        path = Path(self._client.containers.get(container).log_path)
        return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))

    def version(self) -> None:
        self._client.system.version()

    def processes(self) -> Sequence[int]:
        return self.server.processes()

    def restart(self) -> float:
        begun = self.server.restart()
        while True:
            try:
                self.version()
                return time.perf_counter() - begun
            except MoorageError:
                if time.perf_counter() - begun > 30:
                    raise

    def _stats(self) -> Samples:
        with self._client.containers.stats(stream=False) as samples:
            return [one.time.ToNanoseconds() for one in next(samples).stats]


@contextmanager
def over_cri(name: str, directory: Path, mirrors: Mapping[str, str], image: str) -> Iterator[tuple[Cri, Mooraged]]:
    """A daemon with all it has in `directory`, driven over CRI."""
    with Mooraged.running(directory, mirrors) as server:
        engine = Cri(name, server, image, directory / "logs")
        try:
            yield engine, server
        finally:
            engine.close()
            remove_cgroups()


def _pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except FileNotFoundError:
        return ""
