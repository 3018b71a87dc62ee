"""`moorage load`."""

from __future__ import annotations

import click

from moorage.client import format
from moorage.client.console import Settings, pass_settings, say, say_messages, tell
from moorage.client.files import reading


@click.command()
@click.option("-i", "--input", "path", metavar="FILE", default="", help="Read FILE instead of stdin.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; print only the IDs.")
@click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@pass_settings
def command(settings: Settings, path: str, quiet: bool, output: str) -> None:
    """Take the images of an archive in.

    An OCI image layout, or what `docker save` or `moorage save` wrote, as tar, plain or compressed by gzip or zstd.
    """
    from moorage.v1 import image_pb2

    loaded = []
    with settings.client() as client, reading(path) as archive, client.images.load(archive) as steps:
        for step in steps:
            if step.HasField("image"):
                loaded.append(step.image)
                if quiet:
                    say(step.image.id)
                elif output == "table":
                    names = ", ".join(step.names) or "no name"
                    say(f"loaded {format.short_id(step.image.id)}: {format.printable(names)}")
            elif not quiet and step.stage == image_pb2.LOAD_STAGE_UNPACKING:
                tell(f"{format.short_id(step.digest)}: unpacking {format.size(step.current_bytes)}")
    if output == "json":
        say_messages(loaded)
