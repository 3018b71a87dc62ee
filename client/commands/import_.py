"""`moorage import`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moorage.client import parse
from moorage.client.console import Parsed, Settings, pass_settings, say
from moorage.client.files import reading

if TYPE_CHECKING:
    from moorage.v1 import image_pb2


@click.command("import")
@click.argument("file", metavar="FILE|-")
@click.argument("name", metavar="[NAME[:TAG]]", default="")
@click.option("-m", "--message", default="", help="A remark for its history.")
@click.option(
    "-c", "--change", "changes", multiple=True, metavar="LINE", help="A line of a Dockerfile: CMD, ENV, LABEL, USER, …"
)
@click.option("--platform", type=Parsed("OS/ARCH[/VARIANT]", parse.platform), default=None, help="What it runs on.")
@pass_settings
def command(
    settings: Settings,
    file: str,
    name: str,
    message: str,
    changes: tuple[str, ...],
    platform: image_pb2.Platform | None,
) -> None:
    """Make an image out of the tar of a root file system; prints its ID."""
    with settings.client() as client, reading(file) as archive:
        options = {"message": message, "changes": changes, "platform": platform}
        with client.images.import_(archive, name, **options) as steps:  # type: ignore[arg-type]
            for step in steps:
                if step.HasField("image"):
                    say(step.image.id)
