"""`moorage rm`."""

from __future__ import annotations

import click

from moorage.client.console import Settings, container_argument, each, pass_settings, tell_error
from moorage.client.errors import NotFound


@click.command()
@container_argument(many=True)
@click.option("-f", "--force", is_flag=True, help="Kill it first if it runs; one that is not there is fine.")
@pass_settings
def command(settings: Settings, containers: tuple[str, ...], force: bool) -> None:
    """Remove containers with their writable layers and logs."""
    with settings.client() as client:

        def remove(name: str) -> bool:
            try:
                client.containers.remove(name, force=force)
            except NotFound as error:
                if not force:
                    raise
                tell_error(error)
                return False
            return True

        each(containers, remove)
