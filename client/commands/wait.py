"""`moorage wait`."""

from __future__ import annotations

import click

from moorage.client.console import Settings, container_argument, pass_settings, say


@click.command()
@container_argument(many=True)
@pass_settings
def command(settings: Settings, containers: tuple[str, ...]) -> None:
    """Wait until containers have ended, and print their exit codes."""
    with settings.client() as client:
        for container in containers:
            say(str(client.containers.wait(container).exit_code))
