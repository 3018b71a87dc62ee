"""`moorage inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from moorage.client.console import Settings, pass_settings, say_json
from moorage.client.errors import InvalidArgument, NotFound
from moorage.client.jsonout import to_dict

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from moorage.client.sdk import Client

Kind = Literal["container", "image", "network"]


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--type", "kind", type=click.Choice(["container", "image", "network"]), help="Only look among these.")
@click.option("-s", "--size", is_flag=True, help="Count the bytes of a container's writable layer.")
@click.option("--format", "output", type=click.Choice(["json"]), help="json: on one line.")
@pass_settings
def command(settings: Settings, names: tuple[str, ...], kind: Kind | None, size: bool, output: str | None) -> None:
    """Show all there is to know, as JSON.

    Of a container, else an image, else a network of that name; a list when several are named.
    """
    with settings.client() as client:
        found: list[dict[str, Any]] = [to_dict(_find(client, name, kind, size)) for name in names]
    say_json(found[0] if len(found) == 1 else found, indent=None if output else 2)


def _find(client: Client, name: str, kind: Kind | None, size: bool) -> Message:
    """The container of that name, else the image, else the network."""
    kinds: tuple[Kind, ...] = (kind,) if kind else ("container", "image", "network")
    for which in kinds:
        try:
            if which == "container":
                return client.containers.get(name, size=size)
            return client.images.get(name) if which == "image" else client.networks.get(name)
        except NotFound:
            if len(kinds) == 1:
                raise
        except InvalidArgument:
            # The name of a container or network need not be a reference, nor the other way round.
            if len(kinds) == 1 or which == "container":
                raise
    raise NotFound(f"no container, image or network is called {name}")
