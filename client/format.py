"""Values as people read them: sizes, times, identifiers, tables.

No escape sequence of a container or image passes through here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_STEPS = (
    (1, 60, "second"),
    (60, 60, "minute"),
    (3600, 48, "hour"),
    (86400, 14, "day"),
    (7 * 86400, 9, "week"),
    (30 * 86400, 24, "month"),
    (365 * 86400, 0, "year"),
)


def size(count: int) -> str:
    """Bytes in decimal units with three or more significant figures: `0B`, `999B`, `12.3MB`."""
    return _scaled(count, 1000, _UNITS)


def binary_size(count: int) -> str:
    """Bytes in binary units, as memory is counted: `31.5MiB`."""
    return _scaled(count, 1024, _BINARY_UNITS)


def _scaled(count: int, base: int, units: Sequence[str]) -> str:
    value = float(count)
    for unit in units:
        text = f"{value:.3g}" if value < 999.5 else f"{value:.0f}"
        if float(text) < base or unit == units[-1]:
            return text + unit
        value /= base
    raise AssertionError("the last unit takes all")


def duration(seconds: float) -> str:
    """A time span in one rounded-down unit: `5 minutes`, `1 hour`, `less than a second`."""
    if seconds < 1:
        return "less than a second"
    unit, name = next((unit, name) for unit, limit, name in _STEPS if not limit or seconds // unit < limit)
    count = int(seconds // unit)
    return f"{count} {name}{'' if count == 1 else 's'}"


def ago(then: float, now: float) -> str:
    """How long `then` is past, both seconds since 1970; empty for a `then` of 0, which means never."""
    return f"{duration(now - then)} ago" if then else ""


def brief_duration(nanos: int) -> str:
    """Billionths of a second as a short span: `850ns`, `1.25ms`, `3.2s`, `2m5s`, `3h12m`."""
    for limit, unit, name in (
        (1_000, 1, "ns"),
        (1_000_000, 1_000, "µs"),
        (10**9, 10**6, "ms"),
        (60 * 10**9, 10**9, "s"),
    ):
        if nanos < limit:
            return f"{nanos / unit:.3g}{name}" if nanos / unit < 999.5 else f"{nanos // unit}{name}"
    minutes, seconds = divmod(nanos // 10**9, 60)
    return f"{minutes}m{seconds}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60}m"


def short_id(identifier: str) -> str:
    """The first 12 hexadecimal digits of an ID or digest."""
    return identifier.rpartition(":")[2][:12]


def shorten(text: str, width: int) -> str:
    """Cut to `width` characters, the last then being an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def printable(text: str) -> str:
    """Control characters and those that reorder or hide text as escapes, so that a terminal shows them and does not
    obey them.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def columns(text: str) -> int:
    """How many columns a terminal gives to `text`."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, the headers first."""
    cells = [list(headers), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(columns(row[at]) for row in cells) for at in range(len(headers))]
    return ["   ".join(map(_pad, row, widths)).rstrip() for row in cells]


def _pad(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def command_line(words: Iterable[str]) -> str:
    """A command as one would type it."""
    import shlex

    return shlex.join(words)
