"""The graph drivers, by name, and the choice between them."""

from __future__ import annotations

import errno
import logging
import os
import secrets
from pathlib import Path

from moorage.server.errors import FailedPrecondition, InvalidArgument
from moorage.server.graph.drivers.base import Confined, GraphDriver
from moorage.server.graph.drivers.overlay import OPAQUE_XATTR, OverlayDriver
from moorage.server.graph.drivers.vfs import VfsDriver

NAMES = ("overlay", "vfs")

log = logging.getLogger(__name__)


def choose(name: str, root: Path, confined: Confined) -> GraphDriver:
    """The driver called `name`, or for "auto" the one that `root` was used with, else overlay where it works, else vfs.

    Raises InvalidArgument for an unknown name, FailedPrecondition when overlay is asked for and does not work.
    """
    if name == "auto":
        name = _used(root) or ("vfs" if _obstacle(root) else "overlay")
    if name == "vfs":
        return VfsDriver(root, confined)
    if name != "overlay":
        raise InvalidArgument(f"graph driver {name!r} is unknown: there are {', '.join(NAMES)}")
    obstacle = _obstacle(root)
    if obstacle:
        raise FailedPrecondition(f"graph driver overlay does not work in {root}: {obstacle}", hint="use vfs")
    return OverlayDriver(root, confined)


def _used(root: Path) -> str:
    """The driver that has layers here already: with another one they would be lost from sight."""
    for name in NAMES:
        layers = root / name / "layers"
        if layers.is_dir() and os.listdir(layers):
            return name
    return ""


def _obstacle(root: Path) -> str:
    """Why overlay would not work, empty when it should.

    The kernel must know the file system, and the one under `root` must take trusted attributes and whiteouts, which is what overlay asks
    of an upper directory. Nothing is mounted: the daemon does not touch its mount table.
    """
    if "overlay" not in Path("/proc/filesystems").read_text().split() and not _loadable("overlay"):
        return "the kernel has no overlay file system"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    probe = root / f".probe-{secrets.token_hex(4)}"
    probe.mkdir(mode=0o700)
    try:
        os.setxattr(probe, OPAQUE_XATTR, b"y")
        os.mknod(probe / "whiteout", 0o020000, os.makedev(0, 0))
        (probe / "whiteout").unlink()
    except OSError as error:
        log.info("no overlay in %s: %s", root, error)
        known = {errno.ENOTSUP: "its file system has no trusted extended attributes"}
        return known.get(error.errno or 0, os.strerror(error.errno or 0).lower())
    finally:
        probe.rmdir()
    return ""


def _loadable(module: str) -> bool:
    """Whether the kernel can load the module when the file system is first mounted."""
    index = Path("/lib/modules") / os.uname().release / "modules.dep"
    return index.exists() and f"/{module}.ko" in index.read_text()
