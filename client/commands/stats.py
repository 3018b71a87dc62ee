"""`moorage stats`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from moorage.client import format
from moorage.client.console import Settings, format_option, pass_settings, say, say_messages

if TYPE_CHECKING:
    from moorage.v1 import runtime_pb2

HEADERS = ("CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS")
HOME = "\x1b[H"
CLEAR_LINE = "\x1b[K"
CLEAR_BELOW = "\x1b[J"
CLEAR = "\x1b[2J" + HOME


@click.command()
@click.argument("containers", metavar="[CONTAINER]...", nargs=-1)
@click.option("--no-stream", is_flag=True, help="One sample, then exit.")
@click.option("--interval", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Seconds between samples.")
@format_option
@pass_settings
def command(settings: Settings, containers: tuple[str, ...], no_stream: bool, interval: float, output: str) -> None:
    """Show what containers use, again and again.

    Those named, or all that run.
    """
    live = output == "table" and not no_stream and sys.stdout.isatty()
    with (
        settings.client() as client,
        client.containers.stats(containers, stream=True, interval_millis=round(interval * 1000)) as samples,
    ):
        if live:
            click.echo(CLEAR, nl=False)
        for number, sample in enumerate(samples):
            # The share of a CPU is known from the second sample on: a single look waits for it.
            if no_stream and number == 0 and any(not _has_rate(stats) for stats in sample.stats):
                continue
            _show(sample.stats, output, live)
            if no_stream:
                return


def _has_rate(stats: runtime_pb2.ContainerStats) -> bool:
    return stats.HasField("cpu_usage_nano_cores")


def _show(stats: Iterable[runtime_pb2.ContainerStats], output: str, live: bool) -> None:
    if output == "json":
        say_messages(stats)
        return
    lines = format.table(HEADERS, map(_row, stats))
    if live:
        click.echo(HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW, nl=False)
    else:
        say("\n".join(lines))


def _row(stats: runtime_pb2.ContainerStats) -> tuple[str, ...]:
    used, limit = stats.memory_working_set_bytes, stats.memory_limit_bytes
    return (
        format.short_id(stats.id),
        stats.name,
        f"{stats.cpu_usage_nano_cores / 1e7:.2f}%" if _has_rate(stats) else "--",
        f"{format.binary_size(used)} / {format.binary_size(limit)}",
        f"{100 * used / limit:.2f}%" if limit else "--",
        f"{format.size(stats.network_receive_bytes)} / {format.size(stats.network_transmit_bytes)}",
        f"{format.size(stats.block_read_bytes)} / {format.size(stats.block_write_bytes)}",
        str(stats.pids),
    )
