"""What a supervisor that died leaves behind: the container's processes are killed, their cgroups removed, their ends written down."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moorage.server.execdriver import runtimes
from moorage.server.execdriver.base import ContainerStatus
from moorage.server.execdriver.native_stream import exit_status
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.model import ExitStatus
from moorage.server.supervisor.protocol import EXIT_SUFFIX, STATE_SUFFIX

UNKNOWN_EXIT = 255


def unknown_exit(pod_id: str) -> ExitStatus:
    """The end of a process whose supervisor died before it."""
    error = f"supervisor of pod {pod_id} died"
    return ExitStatus(exit_code=UNKNOWN_EXIT, finished_ns=time.time_ns(), reason="Unknown", error=error)


def clean_up(directory: Path, cgroups: CgroupManager) -> list[ContainerStatus]:
    """Kill and remove what is left of the containers of the pod in `directory`, whose supervisor has ended; answer how each ended.

    Repeated, it answers the same. Containers that never ran are not answered.
    """
    ended: list[ContainerStatus] = []
    for path in sorted(directory.glob(f"[!.]*{STATE_SUFFIX}")):
        if path.name.endswith(EXIT_SUFFIX):
            continue
        state = _load(path)
        exit_path = path.with_name(state["id"] + EXIT_SUFFIX)
        cgroup = cgroups.cgroup(state["cgroup"])
        if not exit_path.exists():
            cgroup.kill()
        if state.get("runtime"):
            runtimes.forget(state["runtime"], state["id"])
        cgroup.remove()
        if state["pid"]:
            ended.append(_ended(exit_path, state, directory.name))
    return ended


def container_status(told: Mapping[str, Any]) -> ContainerStatus:
    """As a supervisor tells it."""
    return ContainerStatus(
        id=told["id"],
        pid=told["pid"],
        started_ns=told["started_ns"],
        exit=exit_status(told["exit"]) if told["exit"] else None,
    )


def _ended(exit_path: Path, state: Mapping[str, Any], pod_id: str) -> ContainerStatus:
    if not exit_path.exists():
        record = {**state, "exit": asdict(unknown_exit(pod_id))}
        temporary = exit_path.with_name(f".{exit_path.name}")
        # On a full disk it is not remembered, and made up again next time.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(record))
            os.rename(temporary, exit_path)
            return container_status(record)
        return container_status(record)
    return container_status(_load(exit_path))


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content
