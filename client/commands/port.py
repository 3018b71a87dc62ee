"""`moorage port`."""

from __future__ import annotations

import click

from moorage.client import parse
from moorage.client.console import Parsed, Settings, container_argument, format_option, pass_settings, say, say_messages
from moorage.client.errors import NotFound
from moorage.client.ports import container_side, host_side


@click.command()
@container_argument(all=False)
@click.argument("port", required=False, type=Parsed("PORT[/udp]", parse.container_port))
@format_option
@pass_settings
def command(settings: Settings, container: str, port: tuple[int, str] | None, output: str) -> None:
    """List the host ports that lead to CONTAINER.

    All, or those that lead to its PORT.
    """
    with settings.client() as client:
        ports = list(client.containers.get(container).endpoint.ports)
    if port is not None:
        wanted = f"{port[0]}/{port[1]}"
        ports = [mapping for mapping in ports if container_side(mapping) == wanted]
        if not ports:
            raise NotFound(f"container {container} publishes no port {wanted}")
    if output == "json":
        say_messages(ports)
        return
    for mapping in ports:
        say(host_side(mapping) if port else f"{container_side(mapping)} -> {host_side(mapping)}")
