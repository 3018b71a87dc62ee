"""Overlay on file systems with project quotas, in a kernel that has them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import uml

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MAKE = {"xfs": ("mkfs.xfs", "-q"), "ext4": ("mkfs.ext4", "-q", "-O", "project,quota")}
MODULES = {"xfs": (), "ext4": ("fs/quota/quota_tree", "fs/quota/quota_v2")}


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_a_container_on_project_quotas_cannot_write_more_than_its_size(kind: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(512 << 20)
    subprocess.run([*MAKE[kind], image], check=True, stdout=subprocess.DEVNULL)
    output = uml.run(["tests.umlproject", kind], image, "fs/overlayfs/overlay", *MODULES[kind])
    assert f"{kind}: a size is held" in output
