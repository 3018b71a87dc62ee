"""`moorage manifest`: indexes, which tie the images of several platforms together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from moorage.client import format, parse
from moorage.client.auth import auth_for, auth_options
from moorage.client.console import Settings, each, format_option, pass_settings, say, say_json, say_messages, say_table
from moorage.client.jsonout import to_dict

if TYPE_CHECKING:
    from moorage.v1 import image_pb2

HEADERS = ("NAME", "DIGEST", "PLATFORMS")


@click.group()
def command() -> None:
    """Make, show and push indexes (manifest lists)."""


@command.command("create")
@click.argument("name")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--annotation", multiple=True, metavar="KEY=VALUE", help="Annotation of the index.")
@pass_settings
def create(settings: Settings, name: str, images: tuple[str, ...], annotation: tuple[str, ...]) -> None:
    """Make the index NAME of IMAGEs here, or in their registries; prints its digest."""
    try:
        pairs = parse.annotation_pairs(annotation)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--annotation") from None
    with settings.client() as client:
        say(client.registry.create_index(name, images, annotations=pairs, auth=auth_for(name)).digest)


@command.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Print only names.")
@format_option
@pass_settings
def ls(settings: Settings, quiet: bool, output: str) -> None:
    """List the indexes here, by name."""
    with settings.client() as client:
        indexes = client.registry.indexes()
    if output == "json":
        say_messages(indexes)
    elif quiet:
        for index in indexes:
            say(index.name)
    else:
        rows = [
            (index.name, format.short_id(index.digest), ", ".join(_name(entry.platform) for entry in index.entries))
            for index in indexes
        ]
        say_table(HEADERS, rows)


@command.command("inspect")
@click.argument("name")
@click.option("--raw", is_flag=True, help="Print the document as it is, byte for byte.")
@pass_settings
def inspect(settings: Settings, name: str, raw: bool) -> None:
    """Show the manifest or index of NAME: of an index here, else from its registry."""
    with settings.client() as client:
        found = client.registry.manifest(name, auth=auth_for(name))
    if raw:
        click.echo(found.raw, nl=False)
    else:
        say_json(json.loads(found.raw), indent=2)


@command.command("push")
@click.argument("name")
@click.argument("destination", default="")
@auth_options
@click.option("-q", "--quiet", is_flag=True, help="No progress; print only the digest.")
@format_option
@pass_settings
def push(
    settings: Settings, name: str, destination: str, username: str, password_stdin: bool, quiet: bool, output: str
) -> None:
    """Send the index NAME and its images to its registry, or to DESTINATION."""
    from moorage.client.progress import progress

    auth = auth_for(destination or name, username, password_stdin)
    with settings.client() as client:
        running = client.registry.push_index(name, destination, auth=auth)
        with running as pushing, progress(quiet or output == "json") as show:
            for step in pushing:
                show(step)
            pushed = pushing.result()
    if output == "json":
        say_json(to_dict(pushed))
    else:
        say(pushed.digest if quiet else f"{pushed.reference}: {pushed.digest}")


@command.command("rm")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@pass_settings
def rm(settings: Settings, names: tuple[str, ...]) -> None:
    """Delete indexes here; their images stay."""
    with settings.client() as client:
        each(names, client.registry.remove_index)


def _name(platform: image_pb2.Platform) -> str:
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)
