"""Run the bench: `python -m tools.bench [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.registry import LoopbackRegistry
from tools.bench import engine, images, process
from tools.bench.containerd import PROGRAM, Containerd, version
from tools.bench.cri import Cri
from tools.bench.ours import Moorage, Mooraged, over_cri
from tools.bench.report import CONTAINERD, ENGINES, OWN, Figure, Report

WARM = 2
"""Containers before the first one that is measured."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools.bench", description="Measure Moorage beside Debian's containerd + runc."
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: shows that it works, not how fast")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="which to measure")
    parser.add_argument("--cycles", type=int, default=50, help="containers up, exec, down, one after the other")
    parser.add_argument("--containers", type=int, default=100, help="containers at once")
    parser.add_argument("--parallel", type=int, default=8, help="calls at a time for those")
    parser.add_argument("--log-lines", type=int, default=2_000_000, help="lines one container writes")
    parser.add_argument("--calls", type=int, default=2000, help="smallest RPCs")
    parser.add_argument("--pulls", type=int, default=3, help="pulls of the big image")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the big image")
    parser.add_argument(
        "--containerd", metavar="PATH", default=PROGRAM, help="another containerd than Debian's; its shim is beside it"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument(
        "--readme", type=Path, help="put a short table into this file, between its two `bench` comments"
    )
    parser.add_argument("--docs", type=Path, help="put all tables into this file, between its two `bench` comments")
    options = parser.parse_args()
    if options.quick:
        options.cycles, options.containers, options.log_lines = 10, 16, 200_000
        options.calls, options.pulls, options.scale = 200, 1, 0.1
    return options


@contextmanager
def running(
    name: str, directory: Path, registry: LoopbackRegistry, program: str
) -> Iterator[tuple[engine.Engine, Mooraged | None]]:
    """An engine with a daemon of its own, and that daemon where it is ours. `program` is the containerd."""
    directory.mkdir()
    mirrors = {images.HOST: registry.url}
    if name == CONTAINERD:
        hosts = [images.HOST]
        with Containerd.running(name, directory, registry.url, hosts, images.BUSYBOX, images.PAUSE, program) as theirs:
            yield theirs, None
    elif name == OWN:
        with Moorage.running(name, directory, mirrors, images.BUSYBOX) as own:
            yield own, own.server
    else:
        with over_cri(name, directory, mirrors, images.BUSYBOX) as (cri, server):
            yield cri, server


def measure_in_turn(options: argparse.Namespace, registry: LoopbackRegistry, directory: Path, report: Report) -> None:
    """The figures of containers one by one, some of each engine in turn: this machine is not as fast now as it was a minute ago."""
    with ExitStack() as stack:
        engines: list[tuple[engine.Engine, Mooraged | None]] = []
        for name in options.engines:
            place = Path(directory, f"{name}-in-turn")
            engines.append(stack.enter_context(running(name, place, registry, options.containerd)))
        for measured, _ours in engines:
            measured.pull(images.BUSYBOX)
            engine.life(measured, WARM)
            if isinstance(measured, Cri):
                measured.calls.clear()
        os.sync()
        print("containers one by one", flush=True, file=sys.stderr)
        lives = engine.lives([measured for measured, _ours in engines], options.cycles)
        for (measured, ours), samples in zip(engines, lives, strict=True):
            report.figures[measured.name] = {key: Figure.of(sample) for key, sample in samples.items()}
            if isinstance(measured, Cri):
                report.calls[measured.name] = {key: Figure.of(sample) for key, sample in measured.calls.items()}
            if ours is not None:
                report.stages[measured.name] = ours.stages()


def measure(measured: engine.Engine, options: argparse.Namespace, big: Sequence[str], report: Report) -> None:
    """All other figures of one engine, into the report."""
    name = measured.name
    say = partial(print, f"{name}:", flush=True, file=sys.stderr)
    measured.pull(images.BUSYBOX)
    engine.life(measured, WARM)
    # What the engine before has written is not to be waited for.
    os.sync()
    say(f"{options.containers} containers at once")
    crowd = engine.crowd(
        measured,
        options.containers,
        options.parallel,
        memory=lambda: process.pss(measured.processes()),
        idle_cpu=lambda: process.idle_cpu(measured.processes()),
    )
    figures = {"up_per_second": Figure(crowd.up_per_second), "down_per_second": Figure(crowd.down_per_second)}
    figures |= {"pss": Figure(crowd.pss), "idle_cpu": Figure(crowd.idle_cpu)}
    figures |= {key: Figure.of(sample) for key, sample in crowd.calls.items()}
    say("log, calls, pulls, start")
    figures["log"] = Figure(engine.log_rate(measured, options.log_lines))
    figures["rpc"] = Figure.of(engine.latency(measured, options.calls))
    figures["pull"] = Figure.of(engine.pulls(measured, big))
    figures["start"] = Figure.of(engine.Sample([measured.restart() for _ in range(3)]))
    report.figures[name] |= figures


def put_into(page: Path, table: str) -> None:
    """Replace what stands between `<!-- bench -->` and `<!-- /bench -->`."""
    before, opening, rest = page.read_text().partition("<!-- bench -->\n")
    _, closing, after = rest.partition("<!-- /bench -->\n")
    if not closing:
        raise SystemExit(f"bench: {page} has no pair of bench comments")
    page.write_text(f"{before}{opening}\n{table}\n\n{closing}{after}")


def main() -> int:
    options = arguments()
    if os.geteuid() != 0:
        print("bench: needs root, as both engines do", file=sys.stderr)
        return 1
    report = Report()
    if CONTAINERD in options.engines and shutil.which(options.containerd) is None:
        print(f"bench: there is no containerd {options.containerd}", file=sys.stderr)
        return 1
    with LoopbackRegistry() as registry, TemporaryDirectory(prefix="moorage-bench-") as directory:
        images.push_all(registry.url)
        big = images.push_big(registry.url, options.pulls, options.scale)
        measure_in_turn(options, registry, Path(directory), report)
        for name in options.engines:
            with running(name, Path(directory, name), registry, options.containerd) as (measured, _ours):
                measure(measured, options, big, report)
    if options.quick:
        print("a quick run: a tenth of the work, and of the sizes that the titles name")
    if CONTAINERD in options.engines:
        print(version(options.containerd))
    print(report.as_text())
    for line in report.short_of_target():
        print(f"short of its target: {line}")
    if options.readme:
        put_into(options.readme, report.as_short_markdown())
    if options.docs:
        put_into(options.docs, report.as_markdown())
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
