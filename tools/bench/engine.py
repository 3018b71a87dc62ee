"""What the bench asks of an engine, and the numbers it takes: every engine is put through the same work."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

T = TypeVar("T")

SLEEP = ("/bin/sleep", "100000")
SAMPLE_SECONDS = 0.06
"""Pause between two calls for statistics: longer than Moorage lets one sample serve who asks."""
TURN = 5
"""Containers of one engine before it is another's turn."""
TURN_SECONDS = 0.2
"""Pause between two turns."""
QUIET_SECONDS = 10.0
"""How long nothing happens before memory is measured: neither engine is what it is in the middle of work."""
Samples = Sequence[int]
"""When each container's (or pod's) sample was taken: nanoseconds since 1970."""


class Engine(Protocol):
    """One engine, running. `up` makes a container with a network of its own and starts it; `down` stops and removes it."""

    name: str

    def pull(self, reference: str) -> None: ...

    def up(self, command: Sequence[str]) -> str: ...

    def down(self, container: str) -> None: ...

    def exec(self, container: str, command: Sequence[str]) -> None: ...

    def samplers(self) -> Mapping[str, Callable[[], Samples]]:
        """Calls that sample all that runs, by the key of what they measure."""
        ...

    def status(self, container: str) -> None: ...

    def list(self) -> int:
        """List all containers; answers how many."""
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


def lives(engines: Sequence[Engine], cycles: int) -> list[dict[str, Sample]]:
    """`life` of each engine, a few cycles of one after a few of another."""
    found: list[dict[str, Sample]] = [defaultdict(Sample) for _ in engines]
    for turn in range(0, cycles, TURN):
        for engine, samples in zip(engines, found, strict=True):
            for key, sample in life(engine, min(TURN, cycles - turn)).items():
                samples[key].seconds += sample.seconds
            # What follows from the last one is not the next engine's.
            time.sleep(TURN_SECONDS)
    return found


@dataclass(frozen=True)
class Crowd:
    """Many containers at once: per second up and down, PSS a container in bytes, idle CPU as a share of one, calls made of all of them."""

    up_per_second: float
    down_per_second: float
    pss: float
    idle_cpu: float
    calls: Mapping[str, Sample]


def crowd(engine: Engine, count: int, parallel: int, memory: Callable[[], int], idle_cpu: Callable[[], float]) -> Crowd:
    """Bring `count` containers up, `parallel` at a time; look at them; take them down."""
    empty = memory()
    with ThreadPoolExecutor(parallel) as pool:
        ids: list[str] = []
        rising = timed(lambda: ids.extend(pool.map(lambda _: engine.up(SLEEP), range(count))))
        time.sleep(QUIET_SECONDS)
        pss = (memory() - empty) / count
        calls = looked_at(engine, ids)
        idle = idle_cpu()
        falling = timed(lambda: list(pool.map(engine.down, ids)))
    return Crowd(count / rising, count / falling, pss, idle, calls)


def looked_at(engine: Engine, ids: Sequence[str]) -> dict[str, Sample]:
    """Statistics, statuses and lists of running containers, which are all there are."""
    found = {key: sampled(key, sampler, len(ids)) for key, sampler in engine.samplers().items()}
    status, listed = Sample(), Sample()
    for container in ids:
        status.time(partial(engine.status, container))
        if (count := listed.time(engine.list)) != len(ids):
            raise RuntimeError(f"{engine.name} lists {count} containers instead of {len(ids)}")
    return {**found, "status": status, "list": listed}


def sampled(key: str, sampler: Callable[[], Samples], count: int, calls: int = 20) -> Sample:
    """Calls for statistics, each answered with `count` samples that are younger than those of the call before."""
    sample, last = Sample(), 0
    for _ in range(calls):
        time.sleep(SAMPLE_SECONDS)
        moments = sample.time(sampler)
        if len(moments) != count:
            raise RuntimeError(f"{key}: {len(moments)} samples instead of {count}")
        if min(moments) <= last:
            raise RuntimeError(f"{key}: a sample of {min(moments)}, when the call before had one of {last}")
        last = max(moments)
    return sample


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
