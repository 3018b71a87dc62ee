"""`moorage top`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moorage.client import format
from moorage.client.console import Settings, container_argument, format_option, pass_settings, say_messages, say_table

if TYPE_CHECKING:
    from moorage.v1 import runtime_pb2

HEADERS = ("PID", "PPID", "UID", "STATE", "TIME", "RSS", "STARTED", "COMMAND")


@click.command()
@container_argument(all=False)
@format_option
@pass_settings
def command(settings: Settings, container: str, output: str) -> None:
    """List the processes in CONTAINER, as the host sees them."""
    with settings.client() as client:
        processes = client.containers.processes(container)
    if output == "json":
        say_messages(processes)
    else:
        say_table(HEADERS, [_row(process) for process in processes])


def _row(process: runtime_pb2.Process) -> tuple[str, ...]:
    return (
        str(process.pid),
        str(process.parent_pid),
        str(process.uid),
        process.state,
        format.brief_duration(process.cpu_usage_nanos),
        format.binary_size(process.memory_rss_bytes),
        process.started_at.ToDatetime().astimezone().strftime("%H:%M:%S"),
        format.command_line(process.command),
    )
