"""`moorage df`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moorage.client import format
from moorage.client.console import Settings, format_option, pass_settings, say_json, say_table
from moorage.client.jsonout import to_dict

if TYPE_CHECKING:
    from moorage.v1 import system_pb2

HEADERS = ("TYPE", "TOTAL", "IN USE", "SIZE", "RECLAIMABLE")


@click.command()
@format_option
@pass_settings
def command(settings: Settings, output: str) -> None:
    """Show what the daemon's root directory takes on the disk.

    A layer or blob is in use while an image has it, a container while it runs. What images could give back is what only images have that
    no container holds.
    """
    with settings.client() as client:
        usage = client.system.disk_usage()
    if output == "json":
        say_json(to_dict(usage))
        return
    images = usage.layers.bytes + usage.blobs.bytes
    say_table(
        HEADERS,
        [
            _row("images", usage.images, usage.images_in_use, images, usage.images_reclaimable_bytes),
            _part("  layers", usage.layers),
            _part("  blobs", usage.blobs),
            _part("containers", usage.containers),
            ("other", "", "", format.size(usage.other_bytes), ""),
            ("total", "", "", format.size(usage.total_bytes), ""),
        ],
    )


def _part(name: str, part: system_pb2.DiskUsagePart) -> tuple[str, ...]:
    return _row(name, part.count, part.in_use, part.bytes, part.reclaimable_bytes)


def _row(name: str, count: int, used: int, size: int, reclaimable: int) -> tuple[str, ...]:
    return name, str(count), str(used), format.size(size), format.size(reclaimable)
