"""What the bench asks of an engine, and the numbers it takes: both engines are driven over their own API, through the same calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

T = TypeVar("T")

SLEEP = ("/bin/sleep", "100000")


class Engine(Protocol):
    """One engine, running. `up` makes a container with a network of its own and starts it; `down` stops and removes it."""

    name: str

    def pull(self, reference: str) -> None: ...

    def up(self, command: Sequence[str]) -> str: ...

    def down(self, container: str) -> None: ...

    def exec(self, container: str, command: Sequence[str]) -> None: ...

    def stats(self) -> int:
        """Sample all containers; answers how many."""
        ...

    def wait(self, container: str) -> float:
        """Wait until it has exited; answers how many seconds it ran."""
        ...

    def log_size(self, container: str) -> int:
        """Bytes in its log, rotated files included."""
        ...

    def version(self) -> None: ...

    def processes(self) -> Iterable[int]:
        """The engine's own processes: its daemon and what stands beside containers, not what runs inside them."""
        ...

    def daemon_pid(self) -> int: ...

    def restart(self) -> float:
        """Stop the daemon and start it again; answers the seconds from its start to its first answer."""
        ...


@dataclass
class Sample:
    """Durations in seconds of one thing done many times."""

    seconds: list[float] = field(default_factory=list)

    def time(self, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        answer = work()
        self.seconds.append(time.perf_counter() - begun)
        return answer

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """The nearest rank: with fewer than a hundred, the slowest."""
        return sorted(self.seconds)[max(0, -(-len(self.seconds) * 99 // 100) - 1)]


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def life(engine: Engine, cycles: int) -> dict[str, Sample]:
    """`cycles` containers one after the other: up, exec in it, down."""
    up, run, down = Sample(), Sample(), Sample()
    for _ in range(cycles):
        container = up.time(lambda: engine.up(SLEEP))
        run.time(partial(engine.exec, container, ("/bin/true",)))
        down.time(partial(engine.down, container))
    return {"up": up, "exec": run, "down": down}


@dataclass(frozen=True)
class Crowd:
    """Many containers at once: per second up and down, a stats call over all, PSS a container in bytes, idle CPU as a share of one."""

    up_per_second: float
    down_per_second: float
    stats: Sample
    pss: float
    idle_cpu: float


def crowd(engine: Engine, count: int, parallel: int, memory: Callable[[], int], idle_cpu: Callable[[], float]) -> Crowd:
    """Bring `count` containers up, `parallel` at a time; look at them; take them down."""
    empty = memory()
    with ThreadPoolExecutor(parallel) as pool:
        ids: list[str] = []
        rising = timed(lambda: ids.extend(pool.map(lambda _: engine.up(SLEEP), range(count))))
        pss = (memory() - empty) / count
        stats = Sample()
        for _ in range(20):
            stats.time(lambda: _all_sampled(engine, count))
        idle = idle_cpu()
        falling = timed(lambda: list(pool.map(engine.down, ids)))
    return Crowd(count / rising, count / falling, stats, pss, idle)


def _all_sampled(engine: Engine, count: int) -> None:
    sampled = engine.stats()
    if sampled != count:
        raise RuntimeError(f"{engine.name} answered the stats of {sampled} containers instead of {count}")


LINE = "the quick brown fox jumps over the lazy dog, and so on, 0123456789"


def log_rate(engine: Engine, lines: int) -> float:
    """Lines a second that one container gets written to its log."""
    container = engine.up(("/bin/sh", "-c", f"yes '{LINE}' | head -n {lines}"))
    seconds = engine.wait(container)
    kept = engine.log_size(container)
    engine.down(container)
    if kept < lines * (len(LINE) + 1):
        raise RuntimeError(f"{engine.name} kept {kept} bytes of {lines} lines of {len(LINE) + 1}")
    return lines / seconds


def latency(engine: Engine, calls: int) -> Sample:
    """Round trips of the smallest call there is."""
    sample = Sample()
    for _ in range(calls):
        sample.time(engine.version)
    return sample


def pulls(engine: Engine, references: Iterable[str]) -> Sample:
    """Pull images that are not here, nor their layers. They stay: files just deleted slow ext4 down, whoever did it."""
    sample = Sample()
    for reference in references:
        sample.time(partial(engine.pull, reference))
    return sample
