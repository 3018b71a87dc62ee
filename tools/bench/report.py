"""The figures of a run as a table and as JSON. Every figure is `better when smaller` or `better when larger`; ratios are ours to theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tools.bench.engine import Sample


@dataclass(frozen=True)
class Figure:
    """One number an engine got. `p99` where it is of many samples."""

    p50: float
    p99: float | None = None

    @classmethod
    def of(cls, sample: Sample) -> Figure:
        return cls(sample.p50, sample.p99)


@dataclass(frozen=True)
class Measure:
    """What is measured, in which unit (figures are in SI base units: seconds, bytes), and the ratio to containerd it is to reach."""

    key: str
    title: str
    unit: str
    scale: float = 1.0
    larger_is_better: bool = False
    target: float | None = None


MEASURES = (
    Measure("up", "container up (create + start, network)", "ms", 1e3, target=1 / 8),
    Measure("exec", "exec of true", "ms", 1e3, target=1 / 6),
    Measure("down", "stop + remove", "ms", 1e3, target=1 / 15),
    Measure("up_per_second", "100 containers, 8 parallel: up", "/s", larger_is_better=True),
    Measure("down_per_second", "100 containers, 8 parallel: down", "/s", larger_is_better=True),
    Measure("stats", "stats of 100 containers", "ms", 1e3, target=1 / 20),
    Measure("pss", "memory (PSS) a container", "MB", 1e-6, target=1 / 2),
    Measure("idle_cpu", "idle CPU with 100 containers", "%", 1e2),
    Measure("pull", "pull: 8 layers, 133 MB, 20,000 files", "s"),
    Measure("log", "log lines", "k/s", 1e-3, larger_is_better=True),
    Measure("rpc", "smallest RPC", "ms", 1e3),
    Measure("start", "daemon start to first answer", "ms", 1e3),
)


@dataclass
class Report:
    """Engine name to measure key to figure; and for Moorage verb to stage to seconds."""

    figures: dict[str, dict[str, Figure]] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)

    def ratio(self, measure: Measure) -> float | None:
        """Ours as a share of theirs, smaller being better; None when one of the two was not measured (or is nothing)."""
        ours, theirs = (self.figures.get(name, {}).get(measure.key) for name in ("moorage", "containerd"))
        if ours is None or theirs is None or not ours.p50 or not theirs.p50:
            return None
        return theirs.p50 / ours.p50 if measure.larger_is_better else ours.p50 / theirs.p50

    def short_of_target(self) -> list[str]:
        """Which measures do not reach their target, in words."""
        return [
            f"{measure.title}: 1/{1 / ratio:.1f} of containerd, wanted 1/{1 / measure.target:.0f}"
            for measure in MEASURES
            if measure.target and (ratio := self.ratio(measure)) and ratio > measure.target
        ]

    def as_json(self) -> dict[str, object]:
        return {
            "engines": {
                name: {key: {"p50": figure.p50, "p99": figure.p99} for key, figure in figures.items()}
                for name, figures in self.figures.items()
            },
            "ratios": {measure.key: ratio for measure in MEASURES if (ratio := self.ratio(measure))},
            "stages": self.stages,
        }

    def as_text(self) -> str:
        names = list(self.figures)
        head = ["", *(f"{name} p50 / p99" for name in names), "ratio", "target"]
        lines = [head] + [self._row(measure, names) for measure in MEASURES]
        return "\n".join([*_aligned(lines), "", *_stage_lines(self.stages)])

    def as_markdown(self) -> str:
        """The medians and ratios, for the README."""
        names = list(self.figures)
        rows = [["", *names, "ratio"], ["---", *("---:" for _ in names), "---:"]]
        for measure in MEASURES:
            figures = [_figure(measure, self.figures[name].get(measure.key), tail=False) for name in names]
            rows.append([measure.title, *figures, _fraction(self.ratio(measure))])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def _row(self, measure: Measure, names: Iterable[str]) -> list[str]:
        figures = [_figure(measure, self.figures[name].get(measure.key)) for name in names]
        ratio, target = self.ratio(measure), measure.target
        return [measure.title, *figures, _fraction(ratio), f"1/{1 / target:.0f}" if target else ""]


def _figure(measure: Measure, figure: Figure | None, *, tail: bool = True) -> str:
    if figure is None:
        return "-"
    values = [figure.p50] if figure.p99 is None or not tail else [figure.p50, figure.p99]
    return " / ".join(_digits(value * measure.scale) for value in values) + f" {measure.unit}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _fraction(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return f"1/{1 / ratio:.1f}" if ratio < 1 else f"{ratio:.1f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    first, *others = widths
    return [
        "  ".join(
            [row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))]
        ).rstrip()
        for row in rows
    ]


def _stage_lines(stages: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not stages:
        return []
    lines = ["Where Moorage's jobs spend their time (median, ms):"]
    for verb, parts in sorted(stages.items()):
        inside = ", ".join(f"{name} {seconds * 1e3:.2f}" for name, seconds in parts.items() if name != "total")
        lines.append(f"  {verb} {parts['total'] * 1e3:.2f}" + (f": {inside}" if inside else ""))
    return lines
