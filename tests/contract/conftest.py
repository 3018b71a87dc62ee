"""What the suites of the graph drivers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.server.graph import drivers
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.graph.drivers.base import GraphDriver
from moorage.server.graph.overlayoptions import OverlayOptions
from tests.filesystems import mounted
from tests.spawning import running_spawner


@pytest.fixture(scope="module")
def confined() -> Iterator[ConfinedRunner]:
    with running_spawner() as spawner:
        yield ConfinedRunner(spawner.run_task)


@pytest.fixture(scope="module")
def btrfs() -> Iterator[Path]:
    """A btrfs file system that writes itself out, and frees what was deleted, once a second."""
    with mounted("btrfs", "commit=1") as directory:
        yield directory


OPTIONS = {"overlay": OverlayOptions(), "overlay-user": OverlayOptions(xattrs="user")}


@pytest.fixture(params=(*drivers.NAMES, "overlay-user"))
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A root for the driver, and its variant, that the parameter names, which is the root's parent's name too."""
    base = Path(request.getfixturevalue("btrfs") if request.param == "btrfs" else tmp_path)
    return base / tmp_path.name / str(request.param) / "root"


@pytest.fixture
def driver(root: Path, confined: ConfinedRunner) -> Iterator[GraphDriver]:
    variant = root.parent.name
    driver = drivers.choose(variant.partition("-")[0], root, confined, OPTIONS.get(variant, OverlayOptions()))
    yield driver
    driver.close()
