"""`moorage stop`."""

from __future__ import annotations

import click

from moorage.client.console import Settings, container_argument, each, pass_settings


@click.command()
@container_argument(many=True, all=False)
@click.option("-t", "--time", "--timeout", "timeout", type=click.IntRange(0), help="Seconds until SIGKILL.")
@pass_settings
def command(settings: Settings, containers: tuple[str, ...], timeout: int | None) -> None:
    """Stop containers.

    Their stop signal comes first, SIGKILL when the time is over.
    """
    with settings.client() as client:
        each(containers, lambda name: client.containers.stop(name, timeout=timeout))
