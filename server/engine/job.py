"""A job: the engine's unit of work, shaped like a Unix process.

It has a name (the verb), arguments (a frozen command), an environment (who called, until when), an exit status and an error. Blocking
handlers see cancellation through `cancel`; what they half did is undone by their own ExitStack.
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from moorage.server.cancel import CancelToken

R_co = TypeVar("R_co", covariant=True)


class Command(Generic[R_co]):
    """Typed arguments of a job that answers once, with an `R_co`."""


class StreamCommand(Generic[R_co]):
    """Typed arguments of a job that answers with a stream of `R_co`."""


class JobState(enum.Enum):
    """Where a job is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Context:
    """A job's environment. `caller` is who asked; `deadline` is on `time.monotonic()`'s clock, None for none."""

    caller: str
    deadline: float | None = None


@dataclass
class Stage:
    """Time spent in one part of a job, in nanoseconds."""

    name: str
    started: int
    duration: int = 0


@dataclass
class Job:
    """One running or ended piece of work."""

    id: int
    verb: str
    subject: str
    context: Context
    command: Any
    state: JobState = JobState.WAITING
    created_ns: int = field(default_factory=time.time_ns)
    error: str = ""
    stages: list[Stage] = field(default_factory=list)
    cancel: CancelToken = field(default_factory=CancelToken)
    followers: int = 0
    _begun: int = field(default_factory=time.monotonic_ns)
    _ended: int = 0

    def stage(self, name: str, at_ns: int = 0) -> None:
        """The work enters the stage `name`, or has at `at_ns` (on `time.monotonic_ns`'s clock); the stage before it, if any, ends: now, if
        it began later, because what is told was done elsewhere meanwhile.

        Raises when the job is cancelled.
        """
        at_ns = at_ns or time.monotonic_ns()
        self._close_stage(at_ns)
        self.stages.append(Stage(name, at_ns))
        self.cancel.check()

    def end(self, state: JobState, error: str = "") -> None:
        """The work has ended."""
        self._close_stage(time.monotonic_ns())
        self.state, self.error, self._ended = state, error, time.monotonic_ns()

    @property
    def duration_ns(self) -> int:
        """Time since it was asked for, or until its end."""
        return (self._ended or time.monotonic_ns()) - self._begun

    def _close_stage(self, at_ns: int) -> None:
        last = self.stages[-1] if self.stages else None
        if last is not None and not last.duration:
            last.duration = (at_ns if at_ns >= last.started else time.monotonic_ns()) - last.started
