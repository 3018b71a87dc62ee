"""The bench's arithmetic: percentiles, ratios, targets, tables."""

from __future__ import annotations

from pathlib import Path

from tools.bench.__main__ import put_into
from tools.bench.engine import Sample
from tools.bench.report import Figure, Report


def report() -> Report:
    return Report(
        {
            "containerd": {"up": Figure(0.120, 0.200), "up_per_second": Figure(10.0), "pss": Figure(3e6)},
            "moorage": {"up": Figure(0.030, 0.040), "up_per_second": Figure(40.0), "pss": Figure(1e6)},
        },
        {"start": {"total": 0.02, "network": 0.002}},
    )


def test_percentiles() -> None:
    sample = Sample([float(n) for n in range(1, 201)])
    assert (sample.p50, sample.p99) == (100.5, 198.0)
    assert Sample([3.0, 1.0, 2.0]).p99 == 3.0


def test_a_ratio_is_below_one_where_ours_is_better_whichever_way_the_figure_goes() -> None:
    assert report().as_json()["ratios"] == {"up": 0.25, "up_per_second": 0.25, "pss": 1 / 3}


def test_what_misses_its_target_is_said() -> None:
    (line,) = report().short_of_target()
    assert "1/4.0 of containerd, wanted 1/8" in line


def test_the_tables_hold_every_engine_and_the_stages() -> None:
    text = report().as_text()
    assert "120 / 200 ms" in text
    assert "30.0 / 40.0 ms" in text
    assert "start 20.00: network 2.00" in text
    assert "| 120 ms | 30.0 ms | 1/4.0 |" in report().as_markdown()


def test_the_readme_gets_the_table_between_its_comments(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    put_into(readme, "| new |")
    assert readme.read_text() == "before\n<!-- bench -->\n\n| new |\n\n<!-- /bench -->\nafter\n"
