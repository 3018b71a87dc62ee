"""`moorage create`: make a container without starting it."""

from __future__ import annotations

from typing import Any

import click

from moorage.client.console import Settings, engine_failure, pass_settings, say
from moorage.client.createoptions import CONTEXT, config_from, create_options


@click.command(context_settings=CONTEXT)
@create_options
@pass_settings
@engine_failure()
def command(settings: Settings, image: str, command: tuple[str, ...], **options: Any) -> None:
    """Make a container of IMAGE, and print its ID."""
    from moorage.client.pulling import create

    config = config_from(image, command, options)
    with settings.client() as client:
        say(create(client, config, name=options["name"], policy=options["pull"], platform=options["platform"]))
