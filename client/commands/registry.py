"""`moorage registry`: look into a registry."""

from __future__ import annotations

from collections.abc import Iterable

import click

from moorage.client import format
from moorage.client.auth import auth_for
from moorage.client.console import (
    Settings,
    each,
    format_option,
    pass_settings,
    say,
    say_json,
    say_table,
)
from moorage.client.jsonout import to_dict

HEADERS = ("DIGEST", "ARTIFACT TYPE", "SIZE")


@click.group()
def command() -> None:
    """Look into registries, copy and delete there."""


@command.command("ls")
@click.argument("registry")
@format_option
@pass_settings
def ls(settings: Settings, registry: str, output: str) -> None:
    """List the repositories of REGISTRY, where it offers that."""
    with settings.client() as client:
        _say_names(client.registry.repositories(registry, auth=auth_for(f"{registry}/")), output)


@command.command("tags")
@click.argument("repository")
@format_option
@pass_settings
def tags(settings: Settings, repository: str, output: str) -> None:
    """List the tags of REPOSITORY."""
    with settings.client() as client:
        _say_names(client.registry.tags(repository, auth=auth_for(repository)), output)


@command.command("referrers")
@click.argument("image")
@click.option("--artifact-type", default="", help="Only artifacts of this type.")
@click.option("-q", "--quiet", is_flag=True, help="Print only digests.")
@format_option
@pass_settings
def referrers(settings: Settings, image: str, artifact_type: str, quiet: bool, output: str) -> None:
    """List what refers to IMAGE in its registry: signatures, attestations, other artifacts."""
    with settings.client() as client:
        found = client.registry.referrers(image, artifact_type=artifact_type, auth=auth_for(image))
    if output == "json":
        say_json(to_dict(found))
    elif quiet:
        for entry in found.referrers:
            say(entry.digest)
    else:
        rows = [(entry.digest, entry.artifact_type, format.size(entry.size_bytes)) for entry in found.referrers]
        say_table(HEADERS, rows)


@command.command("cp")
@click.argument("source")
@click.argument("destination")
@click.option("--referrers", is_flag=True, help="With signatures, attestations and whatever else refers to it.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; print only the digest.")
@format_option
@pass_settings
def cp(settings: Settings, source: str, destination: str, referrers: bool, quiet: bool, output: str) -> None:
    """Copy SOURCE to DESTINATION, in registries.

    An image, an index with all its platforms, or any artifact; digests stay.
    """
    from moorage.client.progress import progress

    with settings.client() as client:
        auth, source_auth = auth_for(destination), auth_for(source)
        running = client.registry.copy(source, destination, referrers=referrers, auth=auth, source_auth=source_auth)
        with running as copying, progress(quiet or output == "json") as show:
            for step in copying:
                show(step)
            copied = copying.result()
    if output == "json":
        say_json(to_dict(copied))
    else:
        say(copied.digest if quiet else f"{copied.reference}: {copied.digest} ({format.size(copied.size_bytes)})")


@command.command("rm")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@pass_settings
def rm(settings: Settings, images: tuple[str, ...]) -> None:
    """Delete tags or, by digest, manifests from their registry. What is here stays."""
    with settings.client() as client:
        each(images, lambda image: client.registry.delete(image, auth=auth_for(image)))


def _say_names(names: Iterable[str], output: str) -> None:
    if output == "json":
        say_json(list(names))
        return
    for name in names:
        say(format.printable(name))
