"""The bench's arithmetic: percentiles, ratios, targets, tables, and its distrust of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tools.bench import engine
from tools.bench.__main__ import put_into
from tools.bench.engine import Sample, sampled
from tools.bench.report import Figure, Report


def report() -> Report:
    return Report(
        {
            "containerd": {"up": Figure(0.120, 0.200), "up_per_second": Figure(10.0), "pss": Figure(3e6)},
            "moorage": {"up": Figure(0.030, 0.050), "up_per_second": Figure(40.0), "pss": Figure(1e6)},
            "moorage-cri": {"up": Figure(0.012, 0.050), "up_per_second": Figure(80.0), "pss": Figure(1.5e6)},
        },
        {"containerd": {"RunPodSandbox": Figure(0.050, 0.060)}, "moorage-cri": {"RunPodSandbox": Figure(0.002, 0.003)}},
        {"moorage": {"start": {"total": 0.02, "network": 0.002}}},
    )


def test_percentiles() -> None:
    sample = Sample([float(n) for n in range(1, 201)])
    assert (sample.p50, sample.p99) == (100.5, 198.0)
    assert Sample([3.0, 1.0, 2.0]).p99 == 3.0


def test_engines_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "TURN_SECONDS", 0.0)
    told: list[str] = []

    class Teller:
        def __init__(self, name: str) -> None:
            self.name = name

        def up(self, _command: Sequence[str]) -> str:
            told.append(self.name)
            return "container"

        def exec(self, _container: str, _command: Sequence[str]) -> None:
            """It has run."""

        def down(self, _container: str) -> None:
            """It is gone."""

    tellers: list[Any] = [Teller("a"), Teller("b")]
    found = engine.lives(tellers, 7)
    assert "".join(told) == "aaaaabbbbbaabb"
    assert [{key: len(sample.seconds) for key, sample in each.items()} for each in found] == [
        {"up": 7, "exec": 7, "down": 7}
    ] * 2


def test_a_ratio_is_below_one_where_ours_is_better_whichever_way_the_figure_goes() -> None:
    assert report().as_json()["ratios"] == {
        "moorage": {"up": 0.25, "up_per_second": 0.25, "pss": 1 / 3},
        "moorage-cri": {"up": 0.1, "up_per_second": 0.125, "pss": 0.5},
    }


def test_what_misses_its_target_is_said_for_each_api_and_percentile() -> None:
    assert report().short_of_target() == [
        "container up, network and all, moorage: p50 1/4 of containerd, wanted 1/8",
        "container up, network and all, moorage over CRI: p99 1/4 of containerd, wanted 1/5",
        "memory (PSS) a container, moorage over CRI: p50 1/2 of containerd, wanted 1/3",
    ]


def test_an_engine_alone_has_figures_and_no_ratios() -> None:
    alone = Report({"moorage-cri": {"up": Figure(0.012, 0.050)}})
    assert alone.short_of_target() == []
    assert "12.0 / 50.0 ms" in alone.as_text()
    assert "| 12.0 ms |  |" in alone.as_short_markdown()


def test_the_tables_hold_every_engine_the_calls_and_the_stages() -> None:
    text = report().as_text()
    assert "120 / 200 ms" in text
    assert "12.0 / 50.0 ms" in text
    assert "1/10 / 1/4" in text
    assert "start 20.00: network 2.00" in text
    markdown = report().as_markdown()
    assert "| 120 / 200 ms | 30.0 / 50.0 ms | 12.0 / 50.0 ms | 1/4 / 1/4 | 1/8 | 1/10 / 1/4 | 1/8 / 1/5 |" in markdown
    assert "| RunPodSandbox | 50.0 / 60.0 ms | 2.00 / 3.00 ms |" in markdown
    assert "\n- memory (PSS) a container" in markdown
    assert "| 120 ms | 30.0 ms | 12.0 ms | 1/4 | 1/10 |" in report().as_short_markdown()


def test_the_readme_gets_the_table_between_its_comments(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    put_into(readme, "| new |")
    assert readme.read_text() == "before\n<!-- bench -->\n\n| new |\n\n<!-- /bench -->\nafter\n"


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engine, "SAMPLE_SECONDS", 0)
    yield


def test_statistics_count_only_when_they_are_all_there_and_new(no_pause: None) -> None:
    moments = count(1)
    assert len(sampled("stats", lambda: [next(moments), next(moments)], 2, calls=3).seconds) == 3
    with pytest.raises(RuntimeError, match="1 samples instead of 2"):
        sampled("stats", lambda: [next(moments)], 2)
    with pytest.raises(RuntimeError, match="a sample of 7, when the call before had one of 8"):
        sampled("stats", lambda: [7, 8], 2)
