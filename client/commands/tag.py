"""`moorage tag`."""

from __future__ import annotations

import click

from moorage.client.console import Settings, image_argument, pass_settings


@click.command()
@image_argument()
@click.argument("name", metavar="NAME[:TAG]")
@pass_settings
def command(settings: Settings, image: str, name: str) -> None:
    """Give IMAGE one more name; another image that had it loses it."""
    with settings.client() as client:
        client.images.tag(image, name)
