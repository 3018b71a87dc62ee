"""`moorage search`."""

from __future__ import annotations

import click

from moorage.client import format
from moorage.client.auth import auth_for
from moorage.client.console import Settings, format_option, pass_settings, say, say_messages, say_table

HEADERS = ("NAME", "DESCRIPTION", "STARS", "OFFICIAL")
WIDTH = 45


def _filters(texts: tuple[str, ...]) -> tuple[bool, int]:
    official, stars = False, 0
    for text in texts:
        key, _, value = text.partition("=")
        if key == "is-official" and value in ("true", "false"):
            official = value == "true"
        elif key == "stars" and value.isascii() and value.isdigit():
            stars = int(value)
        else:
            raise click.BadParameter(f"{text!r}: want is-official=true or stars=N", param_hint="--filter")
    return official, stars


@click.command()
@click.argument("term")
@click.option("--limit", type=click.IntRange(1, 100), default=25, show_default=True, help="At most so many.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="is-official=true, stars=N.")
@click.option("--no-trunc", is_flag=True, help="Print descriptions whole.")
@click.option("-q", "--quiet", is_flag=True, help="Print only names.")
@format_option
@pass_settings
def command(
    settings: Settings, term: str, limit: int, filters: tuple[str, ...], no_trunc: bool, quiet: bool, output: str
) -> None:
    """Find images in a registry.

    On Docker Hub by its search; TERM may begin with another registry (`registry.example/app`), whose catalogue is searched.
    """
    official, stars = _filters(filters)
    with settings.client() as client:
        found = client.registry.search(term, limit=limit, official=official, min_stars=stars, auth=auth_for(term))
    if output == "json":
        say_messages(found)
    elif quiet:
        for entry in found:
            say(format.printable(entry.name))
    else:
        rows = [
            (
                entry.name,
                entry.description if no_trunc else format.shorten(entry.description, WIDTH),
                str(entry.stars),
                "[OK]" if entry.official else "",
            )
            for entry in found
        ]
        say_table(HEADERS, rows)
