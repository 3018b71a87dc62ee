"""Runs in User Mode Linux (`tests/uml.py`): graph driver overlay on a file system with project quotas, its containers held to a size."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import time
from pathlib import Path

from moorage.server.cancel import CancelToken
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.graph.drivers import projectquotas
from moorage.server.graph.drivers.base import WritableLayer
from moorage.server.graph.drivers.overlay import OverlayDriver
from tests.archives import Archive
from tests.spawning import running_spawner

BASE = f"sha256:{'a' * 64}"
MIB = 1 << 20


def main(kind: str) -> None:
    place = Path("/run/moorage-quota")
    place.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", "prjquota", "/dev/ubda", place], check=True)
    with running_spawner() as spawner:
        driver = OverlayDriver(place / "root", ConfinedRunner(spawner.run_task))
        status = driver.status()
        assert (status.backing, status.quota, status.no_quota) == (kind, "project quotas", ""), status
        archive = Archive().add("etc", "dir").add("etc/passwd", data=bytes(MIB))
        driver.apply(BASE, "", io.BytesIO(archive.bytes), CancelToken())
        held_to_its_size(driver, place)
        freed(driver, place)
        driver.close()
    sys.stdout.write(f"{kind}: a size is held\n")


def mounted(driver: OverlayDriver, container_id: str, place: Path) -> Path:
    target = place / f"mnt-{container_id}"
    target.mkdir()
    (mount,) = driver.rootfs(container_id)
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", ",".join(mount.options), target], check=True)
    return target


def fill(path: Path, size: int) -> int:
    """Write up to `size` bytes to a file; answer how many went."""
    done = 0
    with open(path, "ab", buffering=0) as file:
        while done < size:
            try:
                done += file.write(bytes(MIB))
                os.fsync(file.fileno())
            except OSError as error:
                assert error.errno in (errno.ENOSPC, errno.EDQUOT), error
                break
    return done


def held_to_its_size(driver: OverlayDriver, place: Path) -> None:
    """Also when what is written is copied up, or renamed: upper and work are of one project."""
    driver.create("small", BASE, WritableLayer(size=8 * MIB))
    driver.create("free", BASE)
    small, free = mounted(driver, "small", place), mounted(driver, "free", place)
    (small / "etc" / "passwd").write_bytes(b"copied up")
    (small / "etc" / "passwd").rename(small / "renamed")
    assert 6 * MIB <= fill(small / "fill", 32 * MIB) <= 8 * MIB
    assert fill(free / "fill", 32 * MIB) == 32 * MIB
    assert 6 * MIB <= projectquotas.used(driver_home(place, "small")) <= 8 * MIB


def freed(driver: OverlayDriver, place: Path) -> None:
    """With the container goes its limit, and the project is unused again (xfs frees inodes in the background)."""
    home = driver_home(place, "small")
    project = projectquotas.project_of(home)
    assert projectquotas.account(place, project)[0] == 8 * MIB
    for name in ("small", "free"):
        subprocess.run(["umount", place / f"mnt-{name}"], check=True)
        driver.remove(name)
    driver.close()
    deadline = time.monotonic() + 60
    while projectquotas.account(place, project) != (0, 0, 0):
        assert time.monotonic() < deadline, projectquotas.account(place, project)
        time.sleep(0.2)


def driver_home(place: Path, container_id: str) -> Path:
    return place / "root" / "overlay" / "containers" / container_id


if __name__ == "__main__":
    main(sys.argv[1])
