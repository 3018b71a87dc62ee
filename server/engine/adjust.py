"""Handlers that change a container as it runs: its limits, its log file."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import fields, replace

from moorage.server.engine import commands
from moorage.server.engine.containers import Containers
from moorage.server.engine.job import Job
from moorage.server.errors import FailedPrecondition
from moorage.server.execdriver import spec as oci
from moorage.server.execdriver.base import ExecDriver
from moorage.server.execdriver.check import check_resources
from moorage.server.libcontainer.cgroups import CgroupManager
from moorage.server.model import Resources


class Adjust:
    """Handlers for update and for new log files."""

    def __init__(
        self,
        containers: Containers,
        exec_driver: ExecDriver,
        cgroups: CgroupManager,
        cgroup_path: Callable[[str], str],
    ) -> None:
        self._containers = containers
        self._exec = exec_driver
        self._cgroups = cgroups
        self._cgroup_path = cgroup_path

    def update(self, job: Job, command: commands.Update) -> None:
        """Set the limits on the cgroup, if there is one, and keep them for the next start."""
        container = self._containers.get(command.id)
        if container.state == "removing":
            raise FailedPrecondition(f"container {container.name} is being removed", state=container.state)
        resources = merged(container.config.resources, command.resources)
        check_resources(resources)
        if container.state == "running":
            set_limits(self._cgroups, self._cgroup_path(container.id), resources)
        config = replace(container.config, resources=resources)
        if command.annotations is not None:
            config = replace(config, annotations=command.annotations)
        self._containers.save(replace(container, config=config), "update")

    def reopen_log(self, job: Job, command: commands.ReopenLog) -> None:
        """Have the supervisor open the log's path again."""
        container = self._containers.get(command.id)
        if container.state != "running":
            raise FailedPrecondition(f"container {container.name} is not running", state=container.state)
        self._exec.reopen_log(container.pod, container.id)


def merged(old: Resources, new: Resources) -> Resources:
    """The old limits with those of the new that say something."""
    return replace(
        old, **{f.name: value for f in fields(new) if (value := getattr(new, f.name)) not in (0, "", (), {}, None)}
    )


def set_limits(cgroups: CgroupManager, path: str, resources: Resources) -> None:
    """Change the limits of a cgroup. Raises FailedPrecondition with what the kernel says."""
    try:
        cgroups.cgroup(path).update(oci.limits(resources))
    except OSError as error:
        hint = "more memory is in use than the limit that was asked for" if error.errno == errno.EBUSY else ""
        raise FailedPrecondition(
            str(error), stage="cgroup", path=error.filename, errno=error.errno, hint=hint
        ) from error
