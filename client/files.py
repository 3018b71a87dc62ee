"""Archives between the daemon and files or pipes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click


def write_archive(pieces: Iterable[bytes], output: str) -> None:
    """Write to the file `output`, which is there whole or not at all, or to stdout ("", "-"), which must not be a terminal."""
    if output in ("", "-"):
        if sys.stdout.isatty():
            raise click.UsageError("an archive is not for a terminal: give --output FILE, or pipe it")
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    draft = Path(f"{output}.part-{os.getpid()}")
    try:
        with open(draft, "xb") as file:
            for piece in pieces:
                file.write(piece)
        draft.replace(output)
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {(error.strerror or '').lower()}") from None
    finally:
        draft.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Have a directory, with those above it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"cannot make {path}: {(error.strerror or '').lower()}") from None


@contextmanager
def reading(path: str) -> Iterator[BinaryIO]:
    """The file `path`, or stdin ("", "-"), which must not be a terminal."""
    if path in ("", "-"):
        if sys.stdin.isatty():
            raise click.UsageError("no archive was given: name a file, or pipe one in")
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {(error.strerror or '').lower()}") from None
    with file:
        yield file
