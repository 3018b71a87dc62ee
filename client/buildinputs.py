"""What a build is given: the Dockerfile, the context, and the contexts beside it."""

from __future__ import annotations

import itertools
import posixpath
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from moorage.client.buildcontext import LocalContext
from moorage.client.dockerignore import Ignore
from moorage.client.extract import CHUNK, extract

IMAGE = "docker-image://"
_URL = re.compile(r"(https?|ssh|git)://|git@|github\.com/")
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")
_HEAD = 512


@dataclass(frozen=True)
class Inputs:
    """`dockerfile` and `url` as in BuildOpen, `name` is what errors call the Dockerfile; `contexts` are those that are not listed here."""

    dockerfile: bytes
    name: str
    local: LocalContext
    url: str = ""
    contexts: dict[str, str] = field(default_factory=dict)


@contextmanager
def inputs(context: str, file: str, beside: tuple[str, ...]) -> Iterator[Inputs]:
    """Read what the command line names: a directory, an URL, or stdin's Dockerfile or archive (`-`). Files are there within the block.

    Raises ClickException for what cannot be read.
    """
    with TemporaryDirectory(prefix="moorage-context-") as unpacked:
        try:
            found = _main(context, file, Path(unpacked))
            for text in beside:
                name, value = _named(text)
                found.contexts[name] = value if _is_remote(value) else ""
                if not _is_remote(value):
                    found.local.named[name] = _read(Path(value), ".dockerignore")
        except OSError as error:
            raise click.ClickException(f"cannot read {error.filename}: {(error.strerror or '').lower()}") from None
        except ValueError as error:
            raise click.ClickException(str(error)) from None
        yield found


def _main(context: str, file: str, unpacked: Path) -> Inputs:
    if _URL.match(context):
        url = f"https://{context}" if context.startswith("github.com/") else context
        dockerfile = sys.stdin.buffer.read() if file == "-" else b""
        name = "Dockerfile" if file in ("", "-") else posixpath.normpath(file)
        return Inputs(dockerfile, name, LocalContext(), url)
    if context == "-":
        head = b"" if file == "-" else sys.stdin.buffer.read(_HEAD)
        if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
            pieces = itertools.chain([head], iter(lambda: sys.stdin.buffer.read(CHUNK), b""))
            extract(pieces, unpacked, mode="r|*")
            return _directory(unpacked, str(unpacked / (file or "Dockerfile")), unpacked)
        if file not in ("", "-"):
            raise click.UsageError("with - for a context the Dockerfile comes from stdin: leave --file out")
        return Inputs(head + sys.stdin.buffer.read(), "Dockerfile", LocalContext())
    directory = Path(context)
    if not directory.is_dir():
        raise click.UsageError(f"context {directory} is not a directory")
    return _directory(directory, file or str(directory / "Dockerfile"))


def _directory(directory: Path, file: str, confined: Path | None = None) -> Inputs:
    """A directory and the Dockerfile at `file`; with `confined` nothing outside of it is read, wherever links lead."""
    path = Path(file)
    own = directory / "Dockerfile.dockerignore" if file == "-" else Path(f"{file}.dockerignore")
    ignores = [each for each in (own, directory / ".dockerignore") if each.is_file()]
    for each in (path, *ignores):
        if confined is not None and not each.resolve().is_relative_to(confined.resolve()):
            raise click.ClickException(f"{each.relative_to(confined)} is a link that leads out of the archive")
    dockerfile = sys.stdin.buffer.read() if file == "-" else path.read_bytes()
    local = _read(directory, str(ignores[0]) if ignores else "")
    return Inputs(dockerfile, "Dockerfile" if file == "-" else path.name, local)


def _read(directory: Path, ignore: str) -> LocalContext:
    path = directory / ignore
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape") if ignore and path.is_file() else ""
    return LocalContext.read(directory, Ignore(text))


def _is_remote(value: str) -> bool:
    return value.startswith(IMAGE) or _URL.match(value) is not None


def _named(text: str) -> tuple[str, str]:
    """`NAME=DIRECTORY`, `NAME=docker-image://IMAGE` or `NAME=URL`."""
    name, _, value = text.partition("=")
    known = _is_remote(value) or Path(value).is_dir()
    if not name or not value or value == IMAGE or (not known and "://" in value):
        raise click.UsageError(
            f"--build-context {text}: NAME=DIRECTORY, NAME={IMAGE}IMAGE, or NAME=URL of a git repository"
        )
    if not known:
        raise click.UsageError(f"--build-context {text}: {value} is not a directory")
    return name, value
