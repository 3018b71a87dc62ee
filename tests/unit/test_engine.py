"""The engine: joining, locking, cancelling, deadlines, streams, shutdown."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from moorage.server.engine.engine import Engine, Lane, Verb
from moorage.server.engine.job import Command, Context, Job, JobState, StreamCommand
from moorage.server.engine.metrics import Metrics
from moorage.server.errors import Cancelled, DeadlineExceeded, InvalidArgument, NotFound, Unavailable

HERE = Context("test")


@dataclass(frozen=True)
class Work(Command[str]):
    """A piece of work on an object."""

    name: str


@dataclass(frozen=True)
class Count(StreamCommand[int]):
    """A stream of numbers."""

    to: int


def engine_with(run: Callable[[Job, Any], Any], **options: Any) -> Engine:
    engine = Engine(Metrics())
    options.setdefault("lane", Lane.KERNEL)
    engine.register([Verb("work", Work, run, subject=lambda w: w.name, **options)])
    return engine


async def test_answers_the_result_and_keeps_the_job_with_its_stages() -> None:
    def run(job: Job, work: Work) -> str:
        job.stage("first")
        job.stage("second")
        return work.name.upper()

    engine = engine_with(run)
    assert await engine.run(Work("a"), HERE) == "A"
    (job,) = engine.jobs(ended=True)
    assert (job.verb, job.subject, job.state) == ("work", "a", JobState.DONE)
    assert [stage.name for stage in job.stages] == ["first", "second"]
    assert all(stage.duration > 0 for stage in job.stages)
    assert engine.jobs() == []


async def test_an_error_reaches_the_caller_and_is_kept() -> None:
    def run(job: Job, work: Work) -> str:
        raise InvalidArgument("no good")

    engine = engine_with(run)
    with pytest.raises(InvalidArgument, match="no good"):
        await engine.run(Work("a"), HERE)
    assert [(job.state, job.error) for job in engine.jobs(ended=True)] == [(JobState.FAILED, "no good")]


async def test_identical_calls_join_one_job() -> None:
    release, runs = threading.Event(), []

    def run(job: Job, work: Work) -> str:
        runs.append(job.id)
        assert release.wait(10)
        return f"by {job.id}"

    engine = engine_with(run, join=lambda _: True)
    callers = [asyncio.create_task(engine.run(Work("same"), HERE)) for _ in range(5)]
    await asyncio.sleep(0.05)
    release.set()
    assert set(await asyncio.gather(*callers)) == {"by 1"}
    assert runs == [1]


async def test_a_joined_job_outlives_one_caller_and_ends_with_the_last() -> None:
    started, seen = threading.Event(), []

    def run(job: Job, work: Work) -> str:
        started.set()
        try:
            job.cancel.wait(10)
        except Cancelled as error:
            seen.append(error.message)
            raise
        return "never"

    engine = engine_with(run, join=lambda _: True)
    first, second = (asyncio.create_task(engine.run(Work("x"), HERE)) for _ in range(2))
    await asyncio.to_thread(started.wait, 5)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert len(engine.jobs()) == 1 and not engine.jobs()[0].cancel.cancelled
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    await engine.shutdown(5)
    assert seen == ["the caller hung up"]


async def test_the_same_object_is_worked_on_by_one_job_at_a_time() -> None:
    inside, most = set(), []

    def run(job: Job, work: Work) -> str:
        inside.add(job.id)
        most.append(len(inside))
        time.sleep(0.01)
        inside.discard(job.id)
        return ""

    engine = engine_with(run, lock=lambda w: w.name)
    await asyncio.gather(*(engine.run(Work("one"), HERE) for _ in range(8)))
    assert max(most) == 1


async def test_a_lane_bounds_how_many_run_at_once() -> None:
    inside, most, lock = set(), [], threading.Lock()

    def run(job: Job, work: Work) -> str:
        with lock:
            inside.add(job.id)
            most.append(len(inside))
        time.sleep(0.02)
        with lock:
            inside.discard(job.id)
        return ""

    engine = engine_with(run, lane=Lane.TRANSFER)
    await asyncio.gather(*(engine.run(Work(str(n)), HERE) for n in range(12)))
    assert max(most) == Lane.TRANSFER.value


def test_stages_of_what_was_done_elsewhere_meanwhile() -> None:
    job = Job(1, "start", "box", HERE, Work("box"))
    job.stage("first")
    began = job.stages[0].started
    time.sleep(0.001)
    job.stage("second")
    job.stage("elsewhere", began)
    job.stage("there", began + 10)
    job.end(JobState.DONE)
    assert [stage.name for stage in job.stages] == ["first", "second", "elsewhere", "there"]
    assert all(stage.duration > 0 for stage in job.stages)
    assert job.stages[2].duration == 10


async def test_a_passed_deadline_cancels_the_work_and_names_its_stage() -> None:
    undone = threading.Event()

    def run(job: Job, work: Work) -> str:
        job.stage("slow part")
        try:
            job.cancel.wait(10)
        finally:
            undone.set()
        return ""

    engine = engine_with(run)
    with pytest.raises(DeadlineExceeded) as caught:
        await engine.run(Work("a"), Context("test", time.monotonic() + 0.05))
    assert caught.value.metadata["stage"] == "slow part"
    assert await asyncio.to_thread(undone.wait, 5)


async def test_cancel_by_number_wakes_a_coroutine_and_tells_why() -> None:
    async def run(job: Job, work: Work) -> str:
        await asyncio.sleep(30)
        return ""

    engine = engine_with(run, lane=Lane.WAIT)
    task = asyncio.create_task(engine.run(Work("a"), HERE))
    await asyncio.sleep(0.02)
    engine.cancel(engine.jobs()[0].id, "cancelled by test")
    with pytest.raises(Cancelled, match="cancelled by test"):
        await task
    with pytest.raises(NotFound):
        engine.cancel(999, "")


async def test_a_stream_is_a_job_while_it_is_read() -> None:
    async def run(job: Job, count: Count) -> AsyncIterator[int]:
        for number in range(count.to):
            yield number

    engine = Engine(Metrics())
    engine.register([Verb("count", Count, run, Lane.WAIT)])
    seen = []
    async for number in engine.stream(Count(3), HERE):
        assert len(engine.jobs()) == 1
        seen.append(number)
    assert seen == [0, 1, 2]
    assert [job.state for job in engine.jobs(ended=True)] == [JobState.DONE]


async def test_a_stream_that_is_cancelled_by_number_ends_with_the_reason() -> None:
    closed = []

    async def run(job: Job, count: Count) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(30)
        finally:
            closed.append(True)

    engine = Engine(Metrics())
    engine.register([Verb("count", Count, run, Lane.WAIT)])

    async def read() -> None:
        async for _ in engine.stream(Count(1), HERE):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0.02)
    engine.cancel(engine.jobs()[0].id, "enough")
    with pytest.raises(Cancelled, match="enough"):
        await task
    assert closed == [True]


async def test_shutdown_refuses_new_jobs_and_cancels_the_old() -> None:
    def run(job: Job, work: Work) -> str:
        job.cancel.wait(30)
        return ""

    engine = engine_with(run)
    task = asyncio.create_task(engine.run(Work("a"), HERE))
    await asyncio.sleep(0.02)
    await engine.shutdown(0.01)
    with pytest.raises(Cancelled, match="shutting down"):
        await task
    with pytest.raises(Unavailable):
        await engine.run(Work("b"), HERE)
