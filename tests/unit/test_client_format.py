"""Values as people read them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moorage.client import format, parse

INT64 = st.integers(0, (1 << 63) - 1)


@given(INT64)
def test_sizes_are_right_to_three_figures(count: int) -> None:
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", format.size(count)).groups()  # type: ignore[union-attr]
    power = ("B", "kB", "MB", "GB", "TB", "PB", "EB").index(unit)
    assert float(number) * 1000**power == pytest.approx(count, rel=0.006)
    assert len(number.replace(".", "")) <= 3
    assert float(number) < 1000


@given(st.integers(0, 7 << 60))
@example((1 << 60) - (1 << 50))
def test_binary_sizes_read_back(count: int) -> None:
    assert parse.size(format.binary_size(count)) == pytest.approx(count, rel=0.006)


def test_sizes() -> None:
    assert [format.size(count) for count in (0, 999, 1000, 12_345_678)] == ["0B", "999B", "1kB", "12.3MB"]
    assert [format.size(count) for count in (999_499, 999_500, 999_999)] == ["999kB", "1MB", "1MB"]
    assert [format.binary_size(count) for count in (1023, 1024, 33_030_144)] == ["1023B", "1KiB", "31.5MiB"]


@given(st.floats(0, 1e11))
def test_durations_round_down_by_less_than_half(seconds: float) -> None:
    text = format.duration(seconds)
    if seconds < 1:
        assert text == "less than a second"
        return
    number, unit = text.split()
    length = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000, "year": 31536000}
    told = int(number) * length[unit.removesuffix("s")]
    assert told <= seconds < 2 * told + 1
    assert (number == "1") != unit.endswith("s")


def test_durations() -> None:
    seconds = {1: "1 second", 59: "59 seconds", 60: "1 minute", 300: "5 minutes", 3600: "1 hour", 172800: "2 days"}
    assert {number: format.duration(number) for number in seconds} == seconds
    assert format.ago(0, 100) == ""
    assert format.ago(40, 100) == "1 minute ago"
    assert format.ago(200, 100) == "less than a second ago"


def test_brief_durations() -> None:
    nanos = {0: "0ns", 999: "999ns", 1500: "1.5µs", 1_250_000: "1.25ms", 3_200_000_000: "3.2s", 125 * 10**9: "2m5s"}
    assert {number: format.brief_duration(number) for number in nanos} == nanos
    assert format.brief_duration(11_520 * 10**9) == "3h12m"


@given(INT64)
def test_any_brief_duration_is_brief(nanos: int) -> None:
    assert re.fullmatch(r"[\d.]+(ns|µs|ms|s)|\d+m\d+s|\d+h\d+m", format.brief_duration(nanos))


@given(st.text())
def test_nothing_printable_obeys(text: str) -> None:
    shown = format.printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5))
def test_columns_of_a_table_begin_in_one_place(rows: list[tuple[str, str, str]]) -> None:
    marked = [(first, f"|{second}", f"|{third}") for first, second, third in rows]
    lines = format.table(("A", "|B", "|C"), marked)
    assert len(lines) == len(rows) + 1
    assert all(line == line.rstrip() for line in lines)
    printed = [[format.printable(cell) for cell in row] for row in [("A", "|B", "|C"), *marked]]
    widths = [max(format.columns(row[at]) for row in printed) for at in range(2)]
    for line, (first, _, third) in zip(lines, printed, strict=True):
        assert line.startswith(first.rstrip() or " ") or not first
        assert line.endswith(third.rstrip())
        assert format.columns(line[: len(line) - len(third.rstrip())]) == sum(widths) + 6


def test_identifiers_are_shortened() -> None:
    assert format.short_id("sha256:" + "ab" * 32) == "abababababab"
    assert format.short_id("c0ffee" * 10) == "c0ffeec0ffee"
    assert format.shorten("abcdef", 4) == "abc…"
    assert format.shorten("abcd", 4) == "abcd"
    assert format.columns("日本e\u0301") == 5
