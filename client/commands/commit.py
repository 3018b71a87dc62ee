"""`moorage commit`."""

from __future__ import annotations

import click

from moorage.client import format
from moorage.client.console import Settings, container_argument, pass_settings, say, tell


@click.command()
@container_argument()
@click.argument("name", metavar="[NAME[:TAG]]", default="")
@click.option("-a", "--author", default="", help="Who made it.")
@click.option("-m", "--message", default="", help="A remark for its history.")
@click.option(
    "-c", "--change", "changes", multiple=True, metavar="LINE", help="A line of a Dockerfile: CMD, ENV, LABEL, USER, …"
)
@click.option("--pause/--no-pause", default=True, show_default=True, help="Hold the container still meanwhile.")
@click.option("--compression", type=click.Choice(["gzip", "zstd", "none"]), default="gzip", show_default=True)
@click.option("-q", "--quiet", is_flag=True, help="Print only the ID.")
@pass_settings
def command(
    settings: Settings,
    container: str,
    name: str,
    author: str,
    message: str,
    changes: tuple[str, ...],
    pause: bool,
    compression: str,
    quiet: bool,
) -> None:
    """Make an image of what CONTAINER has changed; prints its ID."""
    with settings.client() as client:
        made = client.containers.commit(
            container, name, author=author, message=message, changes=changes, pause=pause, compression=compression
        )
    say(made.image_id)
    if not quiet:
        tell(f"new layer: {format.size(made.layer_size_bytes)}")
