"""Pods on a network of CNI plugins: Debian's, as on a node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import RUNTIMES, Cri, refused
from tests.daemon import Daemon
from tests.kernel.conftest import IMAGE
from tests.registry import LoopbackRegistry

pytestmark = pytest.mark.kernel

BRIDGE = "moorage-cnitest"
CACHE = Path("/var/lib/cni")


@pytest.fixture
def node(registry: LoopbackRegistry, tmp_path: Path) -> Iterator[tuple[Daemon, Path]]:
    """A daemon whose pods join a CNI network, and the directory of its configuration."""
    directory = tmp_path / "net.d"
    directory.mkdir()
    settings = f'[network]\npods = "cni"\ncni_conf_dir = "{directory}"\n'
    with Daemon.temporary({"registry.example": registry.url}, settings=settings + RUNTIMES) as daemon:
        daemon.cli("pull", IMAGE)
        yield daemon, directory
    subprocess.run(["ip", "link", "delete", BRIDGE], check=False, stderr=subprocess.DEVNULL)


def configure(directory: Path) -> None:
    ranges = [[{"subnet": "10.213.80.0/24"}]]
    ipam = {
        "type": "host-local",
        "dataDir": str(directory.parent / "ipam"),
        "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugin = {"type": "bridge", "bridge": BRIDGE, "isGateway": True, "ipam": ipam}
    content = {"cniVersion": "1.0.0", "name": "moorage-test", "plugins": [plugin]}
    (directory / "10-test.conflist").write_text(json.dumps(content))


def test_pods_join_the_network_of_the_plugins(node: tuple[Daemon, Path], tmp_path: Path) -> None:
    daemon, directory = node
    cri = Cri(daemon.url, IMAGE, tmp_path / "logs")
    try:
        with refused(StatusCode.FAILED_PRECONDITION, "no network configuration", str(directory)):
            cri.pod()
        assert (
            "no network configuration" in cri.runtime.Status(api.StatusRequest(verbose=True)).info["lastCNILoadStatus"]
        )
        configure(directory)
        assert cri.runtime.Status(api.StatusRequest(verbose=True)).info["lastCNILoadStatus"] == "OK"
        pod, other = cri.pod(), cri.pod()
        assert {pod.ip, other.ip} == {"10.213.80.2", "10.213.80.3"}
        box = pod.run("sleep", "1000")
        assert f"{pod.ip}/24" in box.sh("ip -4 address show dev eth0")
        assert "LOOPBACK,UP" in box.sh("ip link show lo")
        assert "1 packets received" in box.sh(f"ping -c 1 {other.ip}")
        daemon.kill()
        daemon.start()
        assert pod.ip == "10.213.80.2" and "1 packets received" in box.sh(f"ping -c 1 {other.ip}")
        leases = directory.parent / "ipam"
        assert len(list(leases.rglob("10.213.*"))) == 2
    finally:
        cri.clear()
        cri.close()
    assert list(leases.rglob("10.213.*")) == []
