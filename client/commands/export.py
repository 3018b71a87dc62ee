"""`moorage export`."""

from __future__ import annotations

import click

from moorage.client.console import Settings, container_argument, pass_settings
from moorage.client.files import write_archive


@click.command()
@container_argument()
@click.option("-o", "--output", metavar="FILE", default="", help="Write to FILE instead of stdout.")
@click.option("--pause", is_flag=True, help="Hold the container still meanwhile.")
@pass_settings
def command(settings: Settings, container: str, output: str, pause: bool) -> None:
    """Write the root file system of CONTAINER, without its mounts, to a tar archive."""
    with settings.client() as client, client.containers.export(container, pause=pause) as stream:
        write_archive((piece.data for piece in stream), output)
