"""`moorage kill`."""

from __future__ import annotations

import click

from moorage.client.console import Settings, container_argument, each, pass_settings


@click.command()
@container_argument(many=True, all=False)
@click.option("-s", "--signal", default="SIGKILL", show_default=True, help="Signal, by name or number.")
@pass_settings
def command(settings: Settings, containers: tuple[str, ...], signal: str) -> None:
    """Send a signal to the first process of containers."""
    with settings.client() as client:
        each(containers, lambda name: client.containers.kill(name, signal=signal))
