"""`moorage artifact`: files that registries keep beside images."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from moorage.client import artifacts, format, names, parse
from moorage.client.auth import auth_for, auth_options
from moorage.client.console import Parsed, Settings, format_option, pass_settings, say, say_json
from moorage.client.files import make_directory, write_archive
from moorage.client.jsonout import to_dict

if TYPE_CHECKING:
    from moorage.client.progress import Show
    from moorage.client.sdk import Client
    from moorage.v1 import image_pb2

IMAGES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")


@click.group()
def command() -> None:
    """Push and fetch artifacts: charts, reports and other files that registries keep beside images.

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
            make_directory(path.parent)
            with client.registry.blob(artifact, layer["digest"], layer["size"], auth=auth) as pieces:
                write_archive((piece.data for piece in pieces), str(path))
            say(format.printable(str(path)))


@command.command("push")
@click.argument("name")
@click.argument("files", metavar="FILE[:TYPE]...", nargs=-1, required=True)
@click.option(
    "--artifact-type",
    type=Parsed("TYPE", artifacts.media_type),
    default=artifacts.UNKNOWN,
    show_default=True,
    help="What kind of artifact it is, as a media type.",
)
@click.option("-a", "--annotation", multiple=True, metavar="KEY=VALUE", help="Annotation of the artifact.")
@click.option("--subject", default="", metavar="IMAGE", help="What it belongs to, in the same repository.")
@auth_options
@click.option("-q", "--quiet", is_flag=True, help="No progress; print only the digest.")
@format_option
@pass_settings
def push(
    settings: Settings,
    name: str,
    files: tuple[str, ...],
    artifact_type: str,
    annotation: tuple[str, ...],
    subject: str,
    username: str,
    password_stdin: bool,
    quiet: bool,
    output: str,
) -> None:
    """Push FILEs as the artifact NAME: REPOSITORY[:TAG].

    TYPE is a file's media type (application/octet-stream). Without a tag the artifact is `latest`, or, with --subject, has none: it is
    found by what it belongs to.
    """
    from moorage.client.progress import progress

    repository, tag = names.split(name)
    if "@" in name:
        raise click.UsageError(f"cannot push to {name}: a digest follows from what is pushed")
    if subject and names.split(subject)[0] != repository:
        raise click.UsageError(f"{subject} is not in the repository that the artifact goes to, {repository}")
    try:
        parts, annotations = artifacts.parts(files), parse.annotation_pairs(annotation)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    auth = auth_for(name, username, password_stdin)
    with settings.client() as client, progress(quiet or output == "json") as show:
        belongs = _subject(client, subject, auth) if subject else None
        layers = [_send(client, name, part, auth, show) for part in parts]
        _put(client, name, artifacts.empty(), io.BytesIO(artifacts.EMPTY), auth, show)
        raw = artifacts.manifest(layers, artifact_type, annotations, belongs)
        target = name if tag or not subject else f"{repository}@sha256:{hashlib.sha256(raw).hexdigest()}"
        pushed = client.registry.put_manifest(target, raw, auth=auth)
    if output == "json":
        say_json(to_dict(pushed))
    else:
        say(pushed.digest if quiet else f"{pushed.reference}: {pushed.digest} ({format.size(pushed.size_bytes)})")


def _subject(client: Client, subject: str, auth: image_pb2.RegistryAuth | None) -> dict[str, Any]:
    """The descriptor of what the artifact belongs to."""
    found = client.registry.manifest(subject, auth=auth)
    return {"mediaType": found.media_type, "digest": found.digest, "size": len(found.raw)}


def _send(
    client: Client, name: str, part: artifacts.Part, auth: image_pb2.RegistryAuth | None, show: Show
) -> dict[str, Any]:
    """Have a file in the repository; answers its descriptor."""
    try:
        with open(part.path, "rb") as file:
            layer = artifacts.descriptor(file, part.media_type)
            _put(client, name, layer, file, auth, show)
    except OSError as error:
        raise click.ClickException(f"cannot read {part.path}: {(error.strerror or '').lower()}") from None
    return {**layer, "annotations": {artifacts.TITLE: part.title}}


def _put(
    client: Client, name: str, blob: dict[str, Any], file: BinaryIO, auth: image_pb2.RegistryAuth | None, show: Show
) -> None:
    with client.registry.put_blob(name, blob["digest"], blob["size"], file, auth=auth) as steps:
        for step in steps:
            show(step)


def _files(artifact: str, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The descriptors of its files. Raises for what is no artifact."""
    if document.get("manifests") is not None:
        raise click.ClickException(f"{artifact} is an index: name one of what it lists, by digest")
    config = document.get("config")
    if isinstance(config, dict) and config.get("mediaType") in IMAGES:
        raise click.ClickException(f"{artifact} is a container image: `moorage pull` brings it")
    layers = document.get("layers") or document.get("blobs") or []
    if not isinstance(layers, list):
        raise click.ClickException(f"the manifest of {artifact} is malformed: it lists {str(layers)[:100]}")
    for layer in layers:
        if not (
            isinstance(layer, dict)
            and isinstance(layer.get("digest"), str)
            and isinstance(layer.get("size"), int)
            and isinstance(layer.get("annotations") or {}, dict)
        ):
            raise click.ClickException(f"the manifest of {artifact} is malformed: it lists {str(layer)[:100]}")
        yield layer


def _name(layer: dict[str, Any]) -> Path:
    """Where a file goes, below the directory. Raises for a name that leads out of it: it is the choice of whoever pushed it."""
    title = str((layer.get("annotations") or {}).get(artifacts.TITLE) or layer["digest"].replace(":", "-"))
    parts = title.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise click.ClickException(f"cannot write {format.printable(title)}: its name leads out of the directory")
    return Path(*parts)
