"""The graph drivers, by name, and the choice between them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from moorage.server.errors import FailedPrecondition, InvalidArgument
from moorage.server.graph.drivers import backing
from moorage.server.graph.drivers.base import Confined, GraphDriver
from moorage.server.graph.drivers.btrfs import BtrfsDriver
from moorage.server.graph.drivers.options import DEFAULTS, OverlayOptions
from moorage.server.graph.drivers.overlay import OverlayDriver
from moorage.server.graph.drivers.vfs import VfsDriver

NAMES = ("overlay", "btrfs", "vfs")
"""In order of preference: overlay starts containers without a transaction of the file system, and they share the page cache."""

OBSTACLES: dict[str, Callable[[Path], str]] = {
    "overlay": backing.overlay_obstacle,
    "btrfs": backing.btrfs_obstacle,
    "vfs": lambda root: "",
}

log = logging.getLogger(__name__)


def choose(name: str, root: Path, confined: Confined, overlay: OverlayOptions = DEFAULTS) -> GraphDriver:
    """The driver called `name`, or for "auto" the one that `root` was used with, else the first that works there.

    Raises InvalidArgument for an unknown name, FailedPrecondition when the one asked for does not work, or `root` has layers of another.
    """
    if name != "auto" and name not in NAMES:
        raise InvalidArgument(f"graph driver {name!r} is unknown: there are {', '.join(NAMES)}")
    used = _used(root)
    if name == "auto":
        name = used or _first(root)
    elif used and used != name:
        raise FailedPrecondition(
            f"graph driver {name} cannot be used in {root}: it has layers of {used}",
            hint=f"remove all images and containers with graph driver {used} first, or give the daemon another root",
            path=root,
        )
    obstacle = OBSTACLES[name](root)
    if obstacle:
        hint = f"use {next(each for each in NAMES if not OBSTACLES[each](root))}, or another root"
        raise FailedPrecondition(f"graph driver {name} does not work in {root}: {obstacle}", hint=hint, path=root)
    if name == "overlay":
        return OverlayDriver(root, confined, overlay)
    return BtrfsDriver(root, confined) if name == "btrfs" else VfsDriver(root, confined)


def _first(root: Path) -> str:
    """The first driver that works in `root`."""
    for name, obstacle in ((name, OBSTACLES[name](root)) for name in NAMES):
        if not obstacle:
            return name
        log.info("no graph driver %s in %s: %s", name, root, obstacle)
    raise FailedPrecondition(f"no graph driver works in {root}", path=root)


def _used(root: Path) -> str:
    """The driver that has layers here already: with another one they would be lost from sight."""
    for name in NAMES:
        layers = root / name / "layers"
        if layers.is_dir() and os.listdir(layers):
            return name
    return ""
