"""The graph drivers, by name, and the choice between them."""

from __future__ import annotations

import logging
import os
from functools import cached_property
from pathlib import Path

from moorage.server.errors import FailedPrecondition, InvalidArgument
from moorage.server.graph.drivers import backing
from moorage.server.graph.drivers.base import Confined, GraphDriver
from moorage.server.graph.drivers.btrfs import BtrfsDriver
from moorage.server.graph.drivers.overlay import OverlayDriver
from moorage.server.graph.drivers.vfs import VfsDriver
from moorage.server.graph.overlayoptions import DEFAULTS, OverlayOptions

NAMES = ("overlay", "btrfs", "vfs")
"""In order of preference: overlay starts containers without a transaction of the file system, and they share the page cache."""

log = logging.getLogger(__name__)


class Trials:
    """Which drivers work in a root, tried once: it takes the root's file system its time."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @cached_property
    def overlay(self) -> backing.OverlayFeatures:
        """What the overlay driver can use there."""
        return backing.overlay_features(self._root)

    def obstacle(self, name: str) -> str:
        """Why a driver does not work there, empty when it does."""
        match name:
            case "overlay":
                return self.overlay.obstacle
            case "btrfs":
                return backing.btrfs_obstacle(self._root)
        return ""


def choose(name: str, root: Path, confined: Confined, overlay: OverlayOptions = DEFAULTS) -> GraphDriver:
    """The driver called `name`, or for "auto" the one that `root` was used with, else the first that works there.

    Raises InvalidArgument for an unknown name, FailedPrecondition when the one asked for does not work, or `root` has layers of another.
    """
    if name != "auto" and name not in NAMES:
        raise InvalidArgument(f"graph driver {name!r} is unknown: there are {', '.join(NAMES)}")
    used, trials = _used(root), Trials(root)
    if name == "auto":
        name = used or _first(root, trials)
    elif used and used != name:
        raise FailedPrecondition(
            f"graph driver {name} cannot be used in {root}: it has layers of {used}",
            hint=f"remove all images and containers with graph driver {used} first, or give the daemon another root",
            path=root,
        )
    obstacle = trials.obstacle(name)
    if obstacle:
        hint = f"use {next(each for each in NAMES if not trials.obstacle(each))}, or another root"
        raise FailedPrecondition(f"graph driver {name} does not work in {root}: {obstacle}", hint=hint, path=root)
    if name == "overlay":
        return OverlayDriver(root, confined, overlay, trials.overlay)
    return BtrfsDriver(root, confined) if name == "btrfs" else VfsDriver(root, confined)


def _first(root: Path, trials: Trials) -> str:
    """The first driver that works in `root`."""
    for name, obstacle in ((name, trials.obstacle(name)) for name in NAMES):
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
