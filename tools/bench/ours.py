"""Moorage over its SDK: a daemon of its own, and the stages its jobs tell their time by."""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from moorage.client import Client, MoorageError
from moorage.v1 import runtime_pb2
from tests.daemon import Daemon
from tools.bench.process import children

LOG_LIMIT = 64 << 30
"""Size at which the log is rotated: never, as containerd does not rotate either."""


class Moorage:
    """Implements `Engine`."""

    name = "moorage"

    def __init__(self, daemon: Daemon, client: Client, image: str) -> None:
        self._daemon, self._client, self._image = daemon, client, image

    @classmethod
    @contextmanager
    def running(cls, directory: Path, mirrors: Mapping[str, str], image: str) -> Iterator[Moorage]:
        """A daemon with all it has in `directory`."""
        daemon = Daemon(directory, mirrors)
        daemon.start()
        try:
            with Client(daemon.url) as client:
                yield cls(daemon, client, image)
        finally:
            daemon.close()

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
        with self._client.containers.exec(container, command) as session:
            printed = b"".join(output.data for output in session)
        if session.exit_code:
            raise RuntimeError(f"exec in moorage: exit {session.exit_code}: {printed!r}")

    def stats(self) -> int:
        with self._client.containers.stats(stream=False) as samples:
            return len(next(samples).stats)

    def wait(self, container: str) -> float:
        self._client.containers.wait(container)
        found = self._client.containers.get(container)
        return (found.finished_at.ToNanoseconds() - found.started_at.ToNanoseconds()) / 1e9

    def log_size(self, container: str) -> int:
        path = Path(self._client.containers.get(container).log_path)
        return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))

    def version(self) -> None:
        self._client.system.version()

    def daemon_pid(self) -> int:
        return self._daemon.pid

    def processes(self) -> list[int]:
        """The daemon, the spawner and the supervisors: what runs inside containers is in another PID namespace."""
        return [pid for pid in children(self.daemon_pid()) if _pid_namespace(pid) == _pid_namespace(os.getpid())]

    def restart(self) -> float:
        self._daemon.stop()
        begun = time.perf_counter()
        self._daemon.start()
        while True:
            try:
                self.version()
                return time.perf_counter() - begun
            except MoorageError:
                if time.perf_counter() - begun > 30:
                    raise

    def stages(self) -> dict[str, dict[str, float]]:
        """Verb to stage to the median of its seconds, of the jobs that the daemon still remembers."""
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for job in self._client.system.jobs(all=True):
            found[job.verb]["total"].append(job.duration_nanos / 1e9)
            for stage in job.stages:
                found[job.verb][stage.name].append(stage.duration_nanos / 1e9)
        return {
            verb: {name: statistics.median(times) for name, times in parts.items()} for verb, parts in found.items()
        }


def _pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except FileNotFoundError:
        return ""
