"""`moorage viz`."""

from __future__ import annotations

import click

from moorage.client.console import Settings, pass_settings


@click.command()
@pass_settings
def command(settings: Settings) -> None:
    """Print the daemon's database as a graph in the dot language.

    Images, layers, names, containers and what leads from one to the other: `moorage viz | dot -Tsvg > graph.svg`.
    """
    with settings.client() as client, client.system.graph() as pieces:
        for piece in pieces:
            click.echo(piece.text, nl=False)
