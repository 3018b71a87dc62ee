"""`moorage logout`."""

from __future__ import annotations

import click

from moorage.client.console import Failure, say, tell
from moorage.client.credentials import Store, registry_named


@click.command()
@click.argument("registry", default="docker.io")
def command(registry: str) -> None:
    """Forget the credentials for REGISTRY.

    Without REGISTRY: Docker Hub.
    """
    registry = registry_named(registry)
    if not Store().erase(registry):
        tell(f"not logged in to {registry}")
        raise Failure(1)
    say(f"logged out of {registry}")
