"""`moorage artifact`: files that registries keep beside images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from moorage.client import format
from moorage.client.auth import auth_for, auth_options
from moorage.client.console import Settings, pass_settings, say
from moorage.client.files import write_archive

TITLE = "org.opencontainers.image.title"
"""Annotation of a blob: the name of its file (OCI image spec, annotations.md)."""
IMAGES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")


@click.group()
def command() -> None:
    """Fetch artifacts: charts, reports and other files that registries keep beside images.

    `moorage registry cp` copies them between registries, and `moorage registry referrers` lists those that belong to an image.
    """


@command.command("pull")
@click.argument("artifact")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=".")
@auth_options
@pass_settings
def pull(settings: Settings, artifact: str, directory: Path, username: str, password_stdin: bool) -> None:
    """Write the files of ARTIFACT to DIRECTORY (the present one), under the names they have there; prints their paths.

    A file without a name is named by its digest. Files that are there already are replaced.
    """
    auth = auth_for(artifact, username, password_stdin)
    with settings.client() as client:
        document = json.loads(client.registry.manifest(artifact, auth=auth).raw)
        for layer in _files(artifact, document):
            path = directory / _name(layer)
            path.parent.mkdir(parents=True, exist_ok=True)
            with client.registry.blob(artifact, layer["digest"], layer["size"], auth=auth) as pieces:
                write_archive((piece.data for piece in pieces), str(path))
            say(format.printable(str(path)))


def _files(artifact: str, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The descriptors of its files. Raises for what is no artifact."""
    if document.get("manifests") is not None:
        raise click.ClickException(f"{artifact} is an index: name one of what it lists, by digest")
    if (document.get("config") or {}).get("mediaType") in IMAGES:
        raise click.ClickException(f"{artifact} is a container image: `moorage pull` brings it")
    for layer in document.get("layers") or document.get("blobs") or ():
        if not (
            isinstance(layer, dict) and isinstance(layer.get("digest"), str) and isinstance(layer.get("size"), int)
        ):
            raise click.ClickException(f"the manifest of {artifact} is malformed: it lists {str(layer)[:100]}")
        yield layer


def _name(layer: dict[str, Any]) -> Path:
    """Where a file goes, below the directory. Raises for a name that leads out of it: it is the choice of whoever pushed it."""
    title = (layer.get("annotations") or {}).get(TITLE) or str(layer["digest"]).replace(":", "-")
    parts = title.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise click.ClickException(f"cannot write {format.printable(title)}: its name leads out of the directory")
    return Path(*parts)
