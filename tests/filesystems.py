"""File systems of their own for tests, in an image file on a loop device."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def mounted(kind: str, *options: str, size: int = 1 << 30) -> Iterator[Path]:
    """A new file system of `size` bytes, sparse, mounted with `options` below a directory that goes again."""
    with tempfile.TemporaryDirectory(prefix="moorage-fs-") as directory:
        image, target = Path(directory) / "image", Path(directory) / kind
        with open(image, "wb") as file:
            file.truncate(size)
        target.mkdir()
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", ",".join(("loop", *options)), image, target], check=True)
        try:
            yield target
        finally:
            subprocess.run(["umount", target], check=True)


@contextmanager
def in_overlay(directory: Path) -> Iterator[Path]:
    """A root inside an overlay, which takes no other overlay's upper directory."""
    lower, upper, work, target = (directory / f"outer-{name}" for name in ("lower", "upper", "work", "merged"))
    for each in (lower, upper, work, target):
        each.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, target], check=True)
    try:
        yield target / "root"
    finally:
        subprocess.run(["umount", target], check=True)
