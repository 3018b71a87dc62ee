"""The figures of a run as tables and as JSON. Every figure is better when smaller or better when larger; ratios are to containerd's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tools.bench.engine import Sample

CONTAINERD, OWN, CRI = "containerd", "moorage", "moorage-cri"
ENGINES = {CONTAINERD: "containerd", OWN: "moorage", CRI: "moorage over CRI"}
"""What can be measured, and what it is called in tables."""


@dataclass(frozen=True)
class Figure:
    """One number an engine got. `p99` where it is of many samples."""

    p50: float
    p99: float | None = None

    @classmethod
    def of(cls, sample: Sample) -> Figure:
        return cls(sample.p50, sample.p99)


@dataclass(frozen=True)
class Target:
    """The ratio to containerd that is to be reached, over which API; `p99` where there is one for that."""

    engine: str
    p50: float
    p99: float | None = None


@dataclass(frozen=True)
class Measure:
    """What is measured, in which unit (figures are in SI base units: seconds, bytes), and what is to be reached.

    `short`: it is in short tables, too.
    """

    key: str
    title: str
    unit: str
    scale: float = 1.0
    larger_is_better: bool = False
    targets: tuple[Target, ...] = ()
    short: bool = False

    def ratio(self, ours: float | None, theirs: float | None) -> float | None:
        """Ours as a share of theirs, smaller being better; None when one of the two was not measured (or is nothing)."""
        if not ours or not theirs:
            return None
        return theirs / ours if self.larger_is_better else ours / theirs

    def target(self, engine: str) -> Target | None:
        return next((target for target in self.targets if target.engine == engine), None)


def both(own: float, cri: float, cri_p99: float | None = None) -> tuple[Target, ...]:
    return (Target(OWN, own), Target(CRI, cri, cri_p99))


def over_cri(ratio: float) -> tuple[Target, ...]:
    return (Target(CRI, ratio),)


MEASURES = (
    Measure("up", "container up, network and all", "ms", 1e3, targets=both(1 / 8, 1 / 8, 1 / 5), short=True),
    Measure("exec", "exec of true", "ms", 1e3, targets=both(1 / 6, 1 / 6), short=True),
    Measure("down", "stop + remove", "ms", 1e3, targets=both(1 / 15, 1 / 15), short=True),
    Measure("up_per_second", "100 at 8 parallel: up", "/s", larger_is_better=True, targets=over_cri(1 / 8), short=True),
    Measure("down_per_second", "100 at 8 parallel: down", "/s", larger_is_better=True),
    Measure("stats", "stats of 100 containers", "ms", 1e3, targets=both(1 / 20, 1 / 20), short=True),
    Measure("pod_stats", "stats of 100 pods", "ms", 1e3, targets=over_cri(1 / 20)),
    Measure("status", "status of one in 100", "ms", 1e3, targets=over_cri(2.0)),
    Measure("list", "list of 100", "ms", 1e3, targets=over_cri(2.0)),
    Measure("pss", "memory (PSS) a container", "MB", 1e-6, targets=both(1 / 2, 1 / 3), short=True),
    Measure("idle_cpu", "idle CPU with 100 containers", "%", 1e2),
    Measure("pull", "pull: 8 layers, 133 MB, 20,000 files", "s", targets=over_cri(1 / 2), short=True),
    Measure("log", "2 million log lines", "k/s", 1e-3, larger_is_better=True, targets=over_cri(1 / 2), short=True),
    Measure("rpc", "smallest RPC", "ms", 1e3, short=True),
    Measure("start", "daemon start to first answer", "ms", 1e3),
)


@dataclass
class Report:
    """Engine to key to figure, of what is measured and of the calls a pod's life is made of; engine to verb to stage to seconds."""

    figures: dict[str, dict[str, Figure]] = field(default_factory=dict)
    calls: dict[str, dict[str, Figure]] = field(default_factory=dict)
    stages: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)

    def ratios(self, measure: Measure, engine: str) -> tuple[float | None, float | None]:
        """The engine's share of containerd's p50 and p99."""
        ours, theirs = (self.figures.get(name, {}).get(measure.key, Figure(0)) for name in (engine, CONTAINERD))
        return measure.ratio(ours.p50, theirs.p50), measure.ratio(ours.p99, theirs.p99)

    def short_of_target(self) -> list[str]:
        """Which measures do not reach their target, in words."""
        return [
            f"{measure.title}, {ENGINES[target.engine]}: {which} {_fraction(ratio)} of containerd, wanted {_fraction(wanted)}"
            for measure in MEASURES
            for target in measure.targets
            for which, ratio, wanted in zip(
                ("p50", "p99"), self.ratios(measure, target.engine), (target.p50, target.p99), strict=True
            )
            if ratio and wanted and ratio > wanted
        ]

    def as_json(self) -> dict[str, object]:
        return {
            "engines": {name: _plain(figures) for name, figures in self.figures.items()},
            "ratios": {
                name: {measure.key: ratio for measure in MEASURES if (ratio := self.ratios(measure, name)[0])}
                for name in self._ours
            },
            "calls": {name: _plain(figures) for name, figures in self.calls.items()},
            "stages": self.stages,
        }

    def as_text(self) -> str:
        """Everything, to be read in a terminal."""
        tables = [_aligned(self._table()), _aligned(self._calls_table())]
        return "\n\n".join("\n".join(lines) for lines in [*tables, *self._stage_lines()] if lines)

    def as_short_markdown(self) -> str:
        """The medians and ratios of what matters most."""
        names, ours = list(self.figures), self._ours
        rows = [["", *(ENGINES[name] for name in names), *(f"{ENGINES[name]}: ratio" for name in ours)]]
        for measure in (measure for measure in MEASURES if measure.short):
            figures = [_figure(measure, self.figures[name].get(measure.key), tail=False) for name in names]
            rows.append([measure.title, *figures, *(_fraction(self.ratios(measure, name)[0]) for name in ours)])
        return _markdown(rows)

    def as_markdown(self) -> str:
        """Everything, with what fell short of its target."""
        short = [f"- {line}" for line in self.short_of_target()]
        missed = ["Short of their targets in this run:", *short] if short else ["All targets were reached in this run."]
        stages = "\n\n".join("\n".join(lines) for lines in self._stage_lines())
        parts = [_markdown(self._table()), "\n".join([missed[0], *([""] if short else []), *missed[1:]])]
        if calls := self._calls_table():
            parts += ["The calls that a pod's life is made of, p50 / p99:", _markdown(calls)]
        return "\n\n".join([*parts, *([f"```\n{stages}\n```"] if stages else [])])

    @property
    def _ours(self) -> list[str]:
        return [name for name in self.figures if name != CONTAINERD]

    def _table(self) -> list[list[str]]:
        names, ours = list(self.figures), self._ours
        head = ["", *(f"{ENGINES[name]} p50 / p99" for name in names)]
        rows = [head + [word for name in ours for word in (f"{ENGINES[name]}: ratio p50 / p99", "target")]]
        for measure in MEASURES:
            row = [measure.title, *(_figure(measure, self.figures[name].get(measure.key)) for name in names)]
            for name in ours:
                target = measure.target(name)
                wanted = (target.p50, target.p99) if target else (None, None)
                row += [_fractions(self.ratios(measure, name)), _fractions(wanted)]
            rows.append(row)
        return rows

    def _calls_table(self) -> list[list[str]]:
        if not self.calls:
            return []
        names = list(self.calls)
        keys = list(dict.fromkeys(key for calls in self.calls.values() for key in calls))
        unit = Measure("", "", "ms", 1e3)
        rows = [["", *(ENGINES[name] for name in names)]]
        return rows + [[key, *(_figure(unit, self.calls[name].get(key)) for name in names)] for key in keys]

    def _stage_lines(self) -> Iterator[list[str]]:
        """A paragraph for each of our APIs."""
        for name, verbs in self.stages.items():
            lines = [f"Where the jobs of {ENGINES[name]} spend their time (median, ms):"]
            for verb, parts in sorted(verbs.items()):
                inside = ", ".join(
                    f"{stage} {seconds * 1e3:.2f}" for stage, seconds in parts.items() if stage != "total"
                )
                lines.append(f"  {verb} {parts['total'] * 1e3:.2f}" + (f": {inside}" if inside else ""))
            yield lines


def _plain(figures: Mapping[str, Figure]) -> dict[str, dict[str, float | None]]:
    return {key: {"p50": figure.p50, "p99": figure.p99} for key, figure in figures.items()}


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
    return f"1/{1 / ratio:.1f}".removesuffix(".0") if ratio < 1 else f"{ratio:.1f}"


def _fractions(ratios: Iterable[float | None]) -> str:
    return " / ".join(_fraction(ratio) for ratio in ratios if ratio is not None)


def _aligned(rows: list[list[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    first, *others = widths
    return [
        "  ".join(
            [row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))]
        ).rstrip()
        for row in rows
    ]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    lines = [head, ["---", *("---:" for _ in head[1:])], *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
