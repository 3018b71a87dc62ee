"""`moorage history`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from moorage.client import format
from moorage.client.console import (
    Settings,
    format_option,
    image_argument,
    pass_settings,
    say,
    say_messages,
    say_table,
)

if TYPE_CHECKING:
    from moorage.v1 import image_pb2

HEADERS = ("LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT")
WIDTH = 45


@click.command()
@image_argument()
@click.option("-q", "--quiet", is_flag=True, help="Print only the digests of the layers.")
@click.option("--no-trunc", is_flag=True, help="Print everything whole.")
@format_option
@pass_settings
def command(settings: Settings, image: str, quiet: bool, no_trunc: bool, output: str) -> None:
    """Show how IMAGE was made, the last step first."""
    with settings.client() as client:
        entries = client.images.history(image)
    if output == "json":
        say_messages(entries)
    elif quiet:
        for entry in entries:
            if entry.diff_id:
                say(entry.diff_id if no_trunc else format.short_id(entry.diff_id))
    else:
        say_table(HEADERS, [_row(entry, no_trunc) for entry in entries])


def _row(entry: image_pb2.ImageHistoryEntry, no_trunc: bool) -> tuple[str, ...]:
    layer = entry.diff_id if no_trunc else format.short_id(entry.diff_id)
    created = format.ago(entry.created_at.seconds, time.time())
    by = entry.created_by if no_trunc else format.shorten(entry.created_by, WIDTH)
    comment = entry.comment if no_trunc else format.shorten(entry.comment, WIDTH)
    return layer or "-", created, by, format.size(entry.size_bytes), comment
