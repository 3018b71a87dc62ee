"""Handlers about the daemon itself, and about the processes of a container."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

from moorage.server.engine import commands
from moorage.server.engine.containers import Containers
from moorage.server.engine.engine import Engine
from moorage.server.engine.job import Job
from moorage.server.errors import FailedPrecondition
from moorage.server.execdriver.runtimes import Examined
from moorage.server.graph.graph import Graph
from moorage.server.libcontainer.cgroups import CgroupManager

LETTERS = {
    "running": "R",
    "sleeping": "S",
    "disk-sleep": "D",
    "stopped": "T",
    "tracing-stop": "t",
    "zombie": "Z",
    "dead": "X",
    "idle": "I",
}


@dataclass(frozen=True)
class Setup:
    """What the composition root knows about the daemon."""

    root: str
    state: str
    instance: str
    graph_driver: str
    exec_driver: str
    listen: tuple[str, ...]
    warnings: Callable[[], tuple[str, ...]]
    runtimes: tuple[Examined, ...] = ()


class System:
    """Handlers about the daemon."""

    def __init__(
        self,
        setup: Setup,
        engine: Engine,
        containers: Containers,
        graph: Graph,
        cgroups: CgroupManager,
        cgroup_path: Callable[[str], str],
    ) -> None:
        self._setup = setup
        self._engine = engine
        self._containers = containers
        self._graph = graph
        self._cgroups = cgroups
        self._cgroup_path = cgroup_path
        self._started_ns = time.time_ns()

    def info(self, job: Job, command: commands.GetInfo) -> commands.Info:
        """How the daemon is set up and what it holds."""
        containers = self._containers.all()
        setup = self._setup
        return commands.Info(
            root=setup.root,
            state=setup.state,
            instance=setup.instance,
            graph_driver=setup.graph_driver,
            exec_driver=setup.exec_driver,
            cgroup_version=self._cgroups.version,
            cgroup_parent=f"/{setup.instance}",
            cpus=os.cpu_count() or 1,
            memory=psutil.virtual_memory().total,
            images=len(self._graph.list()),
            containers=len(containers),
            running=sum(container.state == "running" for container in containers),
            warnings=setup.warnings(),
            listen=setup.listen,
            pid=os.getpid(),
            started_ns=self._started_ns,
            driver_status=self._graph.driver.status(),
            runtimes=setup.runtimes,
        )

    def jobs(self, job: Job, command: commands.ListJobs) -> list[Job]:
        """The jobs that run, and those that ended lately."""
        return self._engine.jobs(ended=command.all)

    def cancel(self, job: Job, command: commands.CancelJob) -> None:
        """Ask a job to stop."""
        self._engine.cancel(command.job_id, f"cancelled by {job.context.caller}")

    def top(self, job: Job, command: commands.Top) -> list[commands.ProcessInfo]:
        """The processes in a container's cgroup."""
        container = self._containers.get(command.id)
        if container.state != "running":
            raise FailedPrecondition(
                f"container {container.name} is not running", hint="start it first", state=container.state
            )
        pids = self._cgroups.cgroup(self._cgroup_path(container.id)).pids()
        found = (_process(pid) for pid in sorted(pids))
        return [info for info in found if info is not None]


def _process(pid: int) -> commands.ProcessInfo | None:
    """None when the process has ended since it was listed."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            cpu: Any = process.cpu_times()
            return commands.ProcessInfo(
                pid=pid,
                parent=process.ppid(),
                uid=process.uids().real,
                cpu_ns=int((cpu.user + cpu.system) * 1e9),
                rss=process.memory_info().rss,
                started_ns=int(process.create_time() * 1e9),
                command=tuple(process.cmdline()) or (f"[{process.name()}]",),
                state=LETTERS.get(process.status(), "?"),
            )
    except psutil.NoSuchProcess:
        return None
