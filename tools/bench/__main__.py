"""Run the bench: `python -m tools.bench [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.registry import LoopbackRegistry
from tools.bench import engine, images, process
from tools.bench.containerd import Containerd
from tools.bench.ours import Moorage
from tools.bench.report import Figure, Report

ENGINES = ("containerd", "moorage")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools.bench", description="Measure Moorage beside Debian's containerd + runc."
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: shows that it works, not how fast")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which to measure (default: %(default)s)")
    parser.add_argument("--cycles", type=int, default=50, help="containers up, exec, down, one after the other")
    parser.add_argument("--containers", type=int, default=100, help="containers at once")
    parser.add_argument("--parallel", type=int, default=8, help="calls at a time for those")
    parser.add_argument("--log-lines", type=int, default=2_000_000, help="lines one container writes")
    parser.add_argument("--calls", type=int, default=2000, help="smallest RPCs")
    parser.add_argument("--pulls", type=int, default=3, help="pulls of the big image")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the big image")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--readme", type=Path, help="put the table into this file, between its two `bench` comments")
    options = parser.parse_args()
    if options.quick:
        options.cycles, options.containers, options.log_lines = 10, 16, 200_000
        options.calls, options.pulls, options.scale = 200, 1, 0.1
    return options


@contextmanager
def running(name: str, directory: Path, registry: LoopbackRegistry) -> Iterator[Containerd | Moorage]:
    directory.mkdir()
    if name == "containerd":
        with Containerd.running(directory, registry.url, [images.HOST], images.BUSYBOX, images.PAUSE) as containerd:
            yield containerd
    else:
        with Moorage.running(directory, {images.HOST: registry.url}, images.BUSYBOX) as moorage:
            yield moorage


def measure(
    measured: Containerd | Moorage, options: argparse.Namespace, big: Sequence[str], report: Report
) -> dict[str, Figure]:
    """All figures of one engine."""
    say = partial(print, f"{measured.name}:", flush=True, file=sys.stderr)
    measured.pull(images.BUSYBOX)
    engine.life(measured, 2)
    say("containers one by one")
    figures = {key: Figure.of(sample) for key, sample in engine.life(measured, options.cycles).items()}
    if isinstance(measured, Moorage):
        report.stages = measured.stages()
    say(f"{options.containers} containers at once")
    crowd = engine.crowd(
        measured,
        options.containers,
        options.parallel,
        memory=lambda: process.pss(measured.processes()),
        idle_cpu=lambda: process.idle_cpu(measured.processes()),
    )
    figures |= {"up_per_second": Figure(crowd.up_per_second), "down_per_second": Figure(crowd.down_per_second)}
    figures |= {"stats": Figure.of(crowd.stats), "pss": Figure(crowd.pss), "idle_cpu": Figure(crowd.idle_cpu)}
    say("log, calls, pulls, start")
    figures["log"] = Figure(engine.log_rate(measured, options.log_lines))
    figures["rpc"] = Figure.of(engine.latency(measured, options.calls))
    figures["pull"] = Figure.of(engine.pulls(measured, big))
    starts = engine.Sample([measured.restart() for _ in range(3)])
    return figures | {"start": Figure.of(starts)}


def put_into(readme: Path, table: str) -> None:
    """Replace what stands between `<!-- bench -->` and `<!-- /bench -->`."""
    before, opening, rest = readme.read_text().partition("<!-- bench -->\n")
    _, closing, after = rest.partition("<!-- /bench -->\n")
    if not closing:
        raise SystemExit(f"bench: {readme} has no pair of bench comments")
    readme.write_text(f"{before}{opening}\n{table}\n\n{closing}{after}")


def main() -> int:
    options = arguments()
    if os.geteuid() != 0:
        print("bench: needs root, as both engines do", file=sys.stderr)
        return 1
    report = Report()
    with LoopbackRegistry() as registry, TemporaryDirectory(prefix="moorage-bench-") as directory:
        images.push_all(registry.url)
        big = images.push_big(registry.url, options.pulls, options.scale)
        for name in options.engines.split(","):
            with running(name, Path(directory, name), registry) as measured:
                report.figures[name] = measure(measured, options, big, report)
    if options.quick:
        print("a quick run: a tenth of the work, and of the sizes that the titles name")
    print(report.as_text())
    for line in report.short_of_target():
        print(f"short of its target: {line}")
    if options.readme:
        put_into(options.readme, report.as_markdown())
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
