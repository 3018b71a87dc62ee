"""The engine: a table verb -> handler, and the running of jobs.

Every job is logged as a `+job`/`-job` pair, is cancelled when its last caller hangs up or its deadline passes, is serialised per object
(`Verb.lock`), may join an identical job that still runs (`Verb.join`), has its concurrency bounded by its lane, is timed stage by stage,
and leaves an audit line with its caller.

Blocking handlers run on their lane's threads; `async` ones on the event loop; streams are async generators, driven by their reader.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from moorage.server.engine.job import Command, Context, Job, JobState, StreamCommand
from moorage.server.engine.metrics import Metrics
from moorage.server.errors import Cancelled, DeadlineExceeded, MoorageError, NotFound, Unavailable

log = logging.getLogger("moorage.engine")
audit = logging.getLogger("moorage.audit")

R = TypeVar("R")


class Lane(enum.Enum):
    """What a job costs, and so how many of its kind may run at once."""

    READ = 0
    """Answered from memory, on the event loop itself."""
    KERNEL = 16
    """Namespaces, links, cgroups: milliseconds."""
    DISK = 4
    """Reads or deletes trees of files."""
    TRANSFER = 3
    """Moves images."""
    LOOKUP = 8
    """Asks a registry for something small, and waits for its answer."""
    ARCHIVE = 5
    """Archives in and out, at the pace of whoever sends or reads them."""
    WAIT = 10_000
    """`async` jobs and streams, which mostly wait."""
    WATCH = 20_000
    """As WAIT, for those that only look on: whoever is cut off asks again."""


BLOCKING: tuple[Lane, ...] = (Lane.KERNEL, Lane.DISK, Lane.TRANSFER, Lane.LOOKUP, Lane.ARCHIVE)


@dataclass(frozen=True)
class Verb:
    """One row of the engine's table.

    `run(job, command)` is a function on the lane's threads, a coroutine function, or, for a StreamCommand, an async generator function.
    `subject` names what the job is about; `lock` answers the key of the object it must have for itself, empty for none (it may raise
    NotFound); `join` says whether this call may join an identical one that still runs.
    """

    name: str
    command: type
    run: Callable[[Job, Any], Any]
    lane: Lane
    subject: Callable[[Any], str] = lambda _: ""
    lock: Callable[[Any], str] | None = None
    join: Callable[[Any], bool] = lambda _: False


class Engine:
    """Runs jobs. Bound to the event loop it is first used on."""

    def __init__(self, metrics: Metrics, history: int = 256) -> None:
        self._verbs: dict[type, Verb] = {}
        self._metrics = metrics
        self._ids = itertools.count(1)
        self._running: dict[int, Job] = {}
        self._tasks: dict[int, asyncio.Task[Any]] = {}
        self._ended: deque[Job] = deque(maxlen=history)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._slots: dict[Lane, asyncio.Semaphore] = {
            lane: asyncio.Semaphore(lane.value) for lane in Lane if lane.value
        }
        self._threads = {lane: ThreadPoolExecutor(lane.value, f"moorage-{lane.name.lower()}") for lane in BLOCKING}
        self._closing = False

    def register(self, verbs: Iterable[Verb]) -> None:
        """Add rows to the table."""
        for verb in verbs:
            self._verbs[verb.command] = verb

    @property
    def verbs(self) -> list[str]:
        """The names in the table, sorted."""
        return sorted(verb.name for verb in self._verbs.values())

    def jobs(self, ended: bool = False) -> list[Job]:
        """Jobs that run now, oldest first; with `ended` the last that ended before them."""
        return ([*self._ended] if ended else []) + [self._running[key] for key in sorted(self._running)]

    def cancel(self, job_id: int, why: str) -> None:
        """Ask a running job to stop and undo. Raises NotFound."""
        job = self._running.get(job_id)
        if job is None:
            raise NotFound(f"no job {job_id} is running", hint="list the running jobs with `moorage jobs`")
        self._cancel(job, why)

    async def run(self, command: Command[R], context: Context) -> R:
        """Run the command's job to its end and answer its result, or raise its error."""
        verb = self._verbs[type(command)]
        if verb.lane is Lane.READ:
            result: R = verb.run(Job(0, verb.name, "", context, command), command)
            return result
        job = self._joinable(verb, command)
        if job is None:
            job = self._admit(verb, command, context)
            self._tasks[job.id] = asyncio.get_running_loop().create_task(self._execute(verb, job), name=f"job-{job.id}")
        answer: R = await self._follow(job, context)
        return answer

    async def stream(self, command: StreamCommand[R], context: Context) -> AsyncGenerator[R, None]:
        """Run a streaming command; closing the generator ends its job."""
        verb = self._verbs[type(command)]
        job = self._admit(verb, command, context)
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            if task is not None:
                loop.call_soon_threadsafe(task.cancel)

        self._begin(job)
        try:
            with job.cancel.on_cancel(interrupt):
                async with aclosing(verb.run(job, command)) as items:
                    async for item in items:
                        yield item
            self._end(job, JobState.DONE)
        except (GeneratorExit, asyncio.CancelledError):
            self._end(job, JobState.CANCELLED, "the caller hung up")
            if job.cancel.cancelled and task is not None:
                task.uncancel()
                job.cancel.check()
            raise
        except BaseException as error:
            self._end(job, JobState.FAILED, str(error))
            raise

    def dismiss(self) -> None:
        """End the jobs that only look on: the daemon is about to stop."""
        for job in list(self._running.values()):
            if self._verbs[type(job.command)].lane is Lane.WATCH:
                self._cancel(job, "the daemon is shutting down")

    async def shutdown(self, grace: float) -> None:
        """Take no more jobs; give those that run `grace` seconds to end, then cancel them and wait."""
        self._closing = True
        tasks = list(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for job in list(self._running.values()):
            self._cancel(job, "the daemon is shutting down")
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=30)
        for pool in self._threads.values():
            pool.shutdown(wait=True, cancel_futures=True)

    async def blocking(self, lane: Lane, function: Callable[..., R], *args: Any) -> R:
        """For `async` handlers: run a blocking function on a lane's threads."""
        async with self._slots[lane]:
            return await asyncio.get_running_loop().run_in_executor(self._threads[lane], function, *args)

    @asynccontextmanager
    async def locked(self, key: str) -> AsyncIterator[None]:
        """For `async` handlers: have the object `key` for oneself."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        async with lock:
            yield

    def _joinable(self, verb: Verb, command: Any) -> Job | None:
        if not verb.join(command):
            return None
        return next((job for job in self._running.values() if job.verb == verb.name and job.command == command), None)

    def _admit(self, verb: Verb, command: Any, context: Context) -> Job:
        if self._closing:
            raise Unavailable("the daemon is shutting down", hint="try again when it is back")
        job = Job(next(self._ids), verb.name, verb.subject(command), context, command)
        self._running[job.id] = job
        return job

    async def _execute(self, verb: Verb, job: Job) -> Any:
        try:
            key = verb.lock(job.command) if verb.lock else ""
            async with self.locked(key) if key else nullcontext():
                result = await self._in_lane(verb, job)
        except asyncio.CancelledError:
            self._end(job, JobState.CANCELLED, "cancelled")
            job.cancel.check()
            raise
        except (Cancelled, DeadlineExceeded) as error:
            self._end(job, JobState.CANCELLED, error.message)
            raise
        except BaseException as error:
            if not isinstance(error, MoorageError):
                log.exception("job failed", extra={"job": job.id, "verb": job.verb})
            self._end(job, JobState.FAILED, str(error))
            raise
        self._end(job, JobState.DONE)
        return result

    async def _in_lane(self, verb: Verb, job: Job) -> Any:
        async with self._slots[verb.lane]:
            job.cancel.check()
            self._begin(job)
            if inspect.iscoroutinefunction(verb.run):
                return await verb.run(job, job.command)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads[verb.lane], verb.run, job, job.command)

    async def _follow(self, job: Job, context: Context) -> Any:
        """Wait for a job as one of its callers; the last caller to go takes the job with it."""
        task = self._tasks[job.id]
        job.followers += 1
        timeout = None if context.deadline is None else max(0.0, context.deadline - time.monotonic())
        try:
            done, _ = await asyncio.wait({task}, timeout=timeout)
        except asyncio.CancelledError:
            self._leave(job, "the caller hung up", deadline=False)
            raise
        if done:
            job.followers -= 1
            return task.result()
        self._leave(job, f"deadline exceeded while the {job.verb} job was running", deadline=True)
        raise DeadlineExceeded(f"deadline exceeded while the {job.verb} job was running", stage=_stage_of(job))

    def _leave(self, job: Job, why: str, *, deadline: bool) -> None:
        job.followers -= 1
        if job.followers == 0:
            self._cancel(job, why, deadline=deadline)

    def _cancel(self, job: Job, why: str, *, deadline: bool = False) -> None:
        """Blocking work sees the token; a job that waits (for its turn, or in a coroutine) is woken."""
        job.cancel.cancel(why, deadline=deadline)
        task = self._tasks.get(job.id)
        threaded = job.state is JobState.RUNNING and not inspect.iscoroutinefunction(self._verbs[type(job.command)].run)
        if task is not None and not threaded:
            task.cancel()

    def _begin(self, job: Job) -> None:
        job.state = JobState.RUNNING
        self._metrics.job_started(job)
        log.info("+job", extra={"job": job.id, "verb": job.verb, "object": job.subject, "caller": job.context.caller})

    def _end(self, job: Job, state: JobState, error: str = "") -> None:
        started = job.state is JobState.RUNNING
        job.end(state, error)
        self._running.pop(job.id, None)
        self._ended.append(job)
        task = self._tasks.pop(job.id, None)
        if task is not None:
            task.add_done_callback(_retrieve)
        if started:
            self._metrics.job_ended(job)
        fields = {
            "job": job.id,
            "verb": job.verb,
            "object": job.subject,
            "caller": job.context.caller,
            "status": state.value,
        }
        stages = {stage.name: round(stage.duration / 1e6, 3) for stage in job.stages}
        log.info("-job", extra={**fields, "ms": round(job.duration_ns / 1e6, 3), "stages_ms": stages, "error": error})
        audit.info(job.verb, extra={**fields, "error": error})


def _retrieve(task: asyncio.Task[Any]) -> None:
    """A job whose callers have all gone has nobody to take its exception."""
    if not task.cancelled():
        task.exception()


def _stage_of(job: Job) -> str:
    return job.stages[-1].name if job.stages else "waiting"
