"""`moorage events`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from moorage.client import format, parse
from moorage.client.console import Parsed, Settings, pass_settings, say, say_json

if TYPE_CHECKING:
    from moorage.v1 import system_pb2


@click.command()
@click.option("--since", type=Parsed("TIME", parse.moment), help="From then on: a time, or 10m for ten minutes ago.")
@click.option("--until", type=Parsed("TIME", parse.moment), help="Stop at that time.")
@click.option("--after", type=click.IntRange(0), help="After this sequence number; 0 for all that are kept.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="kind=, action=, object=.")
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: a document a line.",
)
@pass_settings
def command(
    settings: Settings,
    since: datetime | None,
    until: datetime | None,
    after: int | None,
    filters: tuple[str, ...],
    output: str,
) -> None:
    """Show what happens, as it happens.

    With --since or --after also what has happened before.
    """
    from moorage.client.jsonout import to_dict

    query = _query(filters)
    with (
        settings.client() as client,
        client.system.events(after=after, since=since, until=until, **query) as events,
    ):
        for event in events:
            say_json(to_dict(event)) if output == "json" else say(_line(event))


def _query(filters: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of `System.events` that `filters` ask for."""
    query: dict[str, Any] = {"kinds": [], "actions": [], "object": ""}
    try:
        for key, value in parse.filters(filters):
            if key in ("kind", "type"):
                query["kinds"].append(value)
            elif key in ("action", "event"):
                query["actions"].append(value)
            elif key in ("object", "container", "image", "network"):
                query["object"] = value
            else:
                raise ValueError(f"unknown filter {key!r}: want kind, action or object")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return query


def _line(event: system_pb2.Event) -> str:
    """`time kind action id (name=…, …)`."""
    facts = {"name": event.name} | dict(sorted(event.attributes.items()))
    listed = ", ".join(f"{key}={value}" for key, value in facts.items() if value)
    parts = (event.time.ToJsonString(), event.kind, event.action, format.short_id(event.id), f"({listed})")
    return format.printable(" ".join(filter(None, parts)))
