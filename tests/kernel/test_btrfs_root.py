"""A daemon whose root is on btrfs: images as subvolumes, containers as snapshots, sizes held by quota groups."""

from __future__ import annotations

import fcntl
import json
import struct

import pytest

from moorage.server.graph.drivers import subvolumes
from tests.daemon import Daemon
from tests.filesystems import mounted
from tests.kernel.conftest import IMAGE
from tests.registry import LoopbackRegistry

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

QUOTA_CTL = subvolumes.number(subvolumes.WRITE | subvolumes.READ, 40, 16)
ENABLE_SIMPLE = 4


def test_containers_on_btrfs(registry: LoopbackRegistry) -> None:
    with mounted("btrfs", "commit=1") as place:
        with subvolumes.opened(place) as fd:
            fcntl.ioctl(fd, QUOTA_CTL, bytearray(struct.pack("<QQ", ENABLE_SIMPLE, 0)))
        daemon = Daemon(place, {"registry.example": registry.url}, settings='graph_driver = "btrfs"')
        daemon.start()
        try:
            daemon.cli("pull", IMAGE)
            status = json.loads(daemon.out("info", "--format", "json"))["graph_driver_status"]
            assert (status["backing_file_system"], status["quota"]) == ("btrfs", "simple qgroups")
            fill = "dd if=/dev/zero of=/fill bs=1M count=32 conv=fsync 2>&1; stat -c %s /fill; echo $?"
            small = daemon.out("run", "--rm", "--storage-opt", "size=8m", IMAGE, "sh", "-c", fill)
            assert "Disk quota exceeded" in small
            assert int(small.split()[-2]) <= 8 << 20
            assert str(32 << 20) in daemon.out("run", "--rm", IMAGE, "sh", "-c", fill)
            daemon.cli("run", "--name", "box", IMAGE, "sh", "-c", "echo kept >/note; rm /etc/passwd")
            daemon.cli("commit", "box", "made")
            assert (
                daemon.out("run", "--rm", "--pull", "never", "made", "sh", "-c", "cat /note; ls /etc").split()[0]
                == "kept"
            )
        finally:
            daemon.close()
