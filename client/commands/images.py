"""`moorage images`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from moorage.client import format
from moorage.client.console import Settings, format_option, pass_settings, say, say_messages, say_table

if TYPE_CHECKING:
    from moorage.v1 import image_pb2

HEADERS = ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE")


@click.command()
@click.argument("reference", default="")
@click.option("-q", "--quiet", is_flag=True, help="Print only IDs.")
@click.option("--no-trunc", is_flag=True, help="Print IDs whole.")
@format_option
@pass_settings
def command(settings: Settings, reference: str, quiet: bool, no_trunc: bool, output: str) -> None:
    """List images, newest first.

    All, or those of a repository.
    """
    with settings.client() as client:
        images = client.images.list(reference)
    if output == "json":
        say_messages(images)
    elif quiet:
        for image in images:
            say(image.id if no_trunc else format.short_id(image.id))
    else:
        say_table(HEADERS, [row for image in images for row in _rows(image, no_trunc)])


def _rows(image: image_pb2.Image, no_trunc: bool) -> Iterator[tuple[str, ...]]:
    """A row a tag; an image without tags has one of its own."""
    identifier = image.id if no_trunc else format.short_id(image.id)
    created = format.ago(image.created_at.seconds, time.time()) or "unknown"
    for repository, tag in [_split(tag) for tag in image.tags] or [(_repository(image), "<none>")]:
        yield repository, tag, identifier, created, format.size(image.size_bytes)


def _split(name: str) -> tuple[str, str]:
    repository, _, tag = name.rpartition(":")
    return repository, tag


def _repository(image: image_pb2.Image) -> str:
    return image.digests[0].partition("@")[0] if image.digests else "<none>"
