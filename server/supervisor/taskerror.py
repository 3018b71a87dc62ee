"""The failure of a task."""

from __future__ import annotations

from moorage.server.supervisor.failures import Failure


class TaskError(Failure):
    """A failure told to the caller of `run_task`."""
