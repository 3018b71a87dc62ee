"""`moorage start`."""

from __future__ import annotations

import click

from moorage.client.commands.attach import stay
from moorage.client.console import Settings, container_argument, detach_keys_option, each, pass_settings


@click.command()
@container_argument(many=True)
@click.option("-a", "--attach", is_flag=True, help="Connect to its output, pass signals on, and exit as it does.")
@click.option("-i", "--interactive", is_flag=True, help="Connect its stdin too.")
@detach_keys_option
@pass_settings
def command(
    settings: Settings, containers: tuple[str, ...], attach: bool, interactive: bool, detach_keys: bytes
) -> int:
    """Start containers that were made before, or have exited."""
    if (attach or interactive) and len(containers) > 1:
        raise click.UsageError("only one container can be attached to")
    with settings.client() as client:
        if attach or interactive:
            found = client.containers.get(containers[0])
            return stay(client, found, start=True, stdin=interactive, forward_signals=True, detach_keys=detach_keys)
        each(containers, client.containers.start)
        return 0
