"""`moorage logs`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from moorage.client import parse, terminal
from moorage.client.console import Parsed, Settings, container_argument, pass_settings

if TYPE_CHECKING:
    from moorage.v1 import runtime_pb2


_STDERR = 2
"""LOG_STREAM_STDERR, without loading the messages for it."""


def _tail(text: str) -> int:
    """Lines; -1 for `all`."""
    if text in ("all", "-1"):
        return -1
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"malformed number of lines {text!r}: want a number or all")
    return int(text)


@click.command()
@container_argument()
@click.option("-f", "--follow", is_flag=True, help="Stay and show what comes.")
@click.option(
    "-n", "--tail", type=Parsed("LINES", _tail), default="all", show_default=True, help="Only the last lines."
)
@click.option(
    "--since", type=Parsed("TIME", parse.moment), help="Only from then on: a time, or 10m for ten minutes ago."
)
@click.option("--until", type=Parsed("TIME", parse.moment), help="Only before then.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time.")
@pass_settings
def command(
    settings: Settings,
    container: str,
    follow: bool,
    tail: int,
    since: datetime | None,
    until: datetime | None,
    timestamps: bool,
) -> None:
    """Show what CONTAINER wrote.

    Its stdout goes to stdout, its stderr to stderr.
    """
    writer = _Writer(timestamps)
    with (
        settings.client() as client,
        client.containers.logs(
            container, follow=follow, tail=None if tail < 0 else tail, since=since, until=until
        ) as batches,
    ):
        for batch in batches:
            writer.write(batch.entries)


class _Writer:
    """Writes entries in order, in as few pieces as keep the order between the two streams."""

    def __init__(self, timestamps: bool) -> None:
        self._timestamps = timestamps
        self._inside: set[int] = set()
        """Streams whose last entry was the beginning of a line."""

    def write(self, entries: Iterable[runtime_pb2.LogEntry]) -> None:
        for stream, run in itertools.groupby(entries, key=lambda entry: entry.stream):
            fd = terminal.STDERR if stream == _STDERR else terminal.STDOUT
            terminal.write_all(fd, b"".join(self._line(entry) for entry in run))

    def _line(self, entry: runtime_pb2.LogEntry) -> bytes:
        if not self._timestamps:
            return entry.data
        begins = entry.stream not in self._inside
        (self._inside.add if entry.partial else self._inside.discard)(entry.stream)
        return entry.time.ToJsonString().encode() + b" " + entry.data if begins else entry.data
