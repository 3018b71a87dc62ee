"""`moorage images`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from moorage.client import format, parse
from moorage.client.console import Settings, format_option, pass_settings, say, say_messages, say_table

if TYPE_CHECKING:
    from moorage.v1 import image_pb2

FILTERS = ("dangling", "label", "before", "since", "reference")
HEADERS = ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE")


@click.command()
@click.argument("reference", default="")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="dangling=true|false, label=KEY[=VALUE], before=IMAGE, since=IMAGE, reference=PATTERN.",
)
@click.option("-a", "--all", "every", is_flag=True, help="As without: no image is hidden here.")
@click.option("--digests", is_flag=True, help="Show the digests that images were pulled as.")
@click.option("-q", "--quiet", is_flag=True, help="Print only IDs.")
@click.option("--no-trunc", is_flag=True, help="Print IDs whole.")
@format_option
@pass_settings
def command(
    settings: Settings,
    reference: str,
    filters: tuple[str, ...],
    every: bool,
    digests: bool,
    quiet: bool,
    no_trunc: bool,
    output: str,
) -> None:
    """List images, newest first.

    All, or those of a repository.
    """
    with settings.client() as client:
        images = client.images.list(reference, **_conditions(filters))
    if output == "json":
        say_messages(images)
    elif quiet:
        for image in images:
            say(image.id if no_trunc else format.short_id(image.id))
    else:
        headers = (*HEADERS[:2], "DIGEST", *HEADERS[2:]) if digests else HEADERS
        say_table(headers, [row for image in images for row in _rows(image, no_trunc, digests)])


def _conditions(entries: tuple[str, ...]) -> dict[str, Any]:
    """The filters as arguments of `Images.list`."""
    labels: dict[str, str] = {}
    patterns: list[str] = []
    found: dict[str, Any] = {"labels": labels, "patterns": patterns}
    try:
        pairs = parse.filters(entries)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    for key, value in pairs:
        if key == "label":
            labels |= parse.labels([value])
        elif key == "reference":
            patterns.append(value)
        elif key in ("before", "since"):
            found[key] = value
        elif key == "dangling":
            if value not in ("true", "false"):
                raise click.UsageError(f"the filter dangling is true or false, not {value!r}")
            found[key] = value == "true"
        else:
            raise click.UsageError(f"no such filter: {key}; there are {', '.join(FILTERS)}")
    return found


def _rows(image: image_pb2.Image, no_trunc: bool, digests: bool) -> Iterator[tuple[str, ...]]:
    """A row a tag; an image without tags has one of its own."""
    identifier = image.id if no_trunc else format.short_id(image.id)
    created = format.ago(image.created_at.seconds, time.time()) or "unknown"
    for repository, tag in [_split(tag) for tag in image.tags] or [(_repository(image), "<none>")]:
        shown = (_digest(image, repository),) if digests else ()
        yield repository, tag, *shown, identifier, created, format.size(image.size_bytes)


def _digest(image: image_pb2.Image, repository: str) -> str:
    """What the image was pulled as from a repository."""
    found = (digest.partition("@") for digest in image.digests)
    return next((digest for name, _, digest in found if name == repository), "<none>")


def _split(name: str) -> tuple[str, str]:
    repository, _, tag = name.rpartition(":")
    return repository, tag


def _repository(image: image_pb2.Image) -> str:
    return image.digests[0].partition("@")[0] if image.digests else "<none>"
