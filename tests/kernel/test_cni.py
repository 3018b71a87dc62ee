"""The CNI driver with Debian's plugins, and with plugins that misbehave."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from moorage.server.errors import FailedPrecondition, Internal, InvalidArgument, MoorageError, Unavailable
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Endpoint, Network, PodConfig, PodRecord, PortMapping
from moorage.server.networkdriver import cniconfig
from moorage.server.networkdriver.base import Attachment
from moorage.server.networkdriver.cni import JOINED, CniDriver, Joined
from tests.netlab import Lab, Namespace, lab

pytestmark = pytest.mark.kernel

ID = "0123456789abcdef" * 4
PLUGINS = "/usr/lib/cni"


class Bench:
    """A driver whose host is a namespace, with a configuration directory, and one for plugins of our own."""

    def __init__(self, directory: Path, net: Lab) -> None:
        self.net = net
        self.conf, self.bin, self.addresses = directory / "net.d", directory / "bin", directory / "ipam"
        self.conf.mkdir()
        self.bin.mkdir()
        self.db: GraphDB = net.database()
        self.driver = CniDriver(self.db, str(self.conf), (str(self.bin), PLUGINS))
        self.network: Network = self.driver.create_network("cni", subnet="", gateway="", internal=False, labels={})
        self.inside: Namespace = net.namespace()

    def bridge(self) -> dict[str, Any]:
        ranges = [[{"subnet": "10.213.64.0/24"}]]
        ipam = {
            "type": "host-local",
            "dataDir": str(self.addresses),
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return {"type": "bridge", "bridge": "moorage-cni", "isGateway": True, "ipam": ipam}

    def configure(self, *plugins: Mapping[str, Any], version: str = "1.0.0", **more: object) -> None:
        content = {"cniVersion": version, "name": "moorage-test", "plugins": plugins, **more}
        (self.conf / "10-test.conflist").write_text(json.dumps(content))

    def plugin(self, name: str, script: str) -> dict[str, Any]:
        """A plugin that is a shell script; it finds its configuration in $config."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\nconfig=$(cat)\necho $CNI_COMMAND {name} >> {self.bin}/calls\n{script}\n")
        path.chmod(0o755)
        return {"type": name}

    def calls(self) -> list[str]:
        return (self.bin / "calls").read_text().splitlines()

    def attach(self, *ports: PortMapping) -> Attachment:
        return self.net.host.run(self.driver.attach, self.network, ID, lambda: self.inside.pid, ports, lambda _: None)

    def detach(self) -> None:
        self.net.host.run(self.driver.detach, self.network, ID, None)

    def leased(self) -> list[str]:
        return sorted(path.name for path in self.addresses.rglob("10.*"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with lab(tmp_path) as net:
        yield Bench(tmp_path, net)


def test_a_namespace_joins_and_leaves(bench: Bench) -> None:
    bench.configure(bench.bridge())
    endpoint = bench.attach().endpoint
    assert (endpoint.address, endpoint.gateway, endpoint.interface) == ("10.213.64.2/24", "10.213.64.1", "eth0")
    assert "10.213.64.2/24" in bench.inside.ip("addr show eth0")
    assert endpoint.mac_address in bench.inside.ip("link show eth0")
    assert endpoint.host_interface in bench.net.host.links()
    assert "default via 10.213.64.1" in bench.inside.ip("route")
    with bench.net.host.serve(7000):
        assert bench.inside.ask("10.213.64.1", 7000) == "10.213.64.2"
    assert bench.leased() == ["10.213.64.2"]
    bench.detach()
    assert bench.leased() == [] and endpoint.host_interface not in bench.net.host.links()
    assert bench.db.all(JOINED, Joined) == []
    bench.detach()


def test_what_was_added_is_taken_out_by_the_list_it_was_added_with(bench: Bench) -> None:
    bench.configure(bench.bridge())
    bench.attach()
    bench.configure(bench.plugin("other", "exit 1"))
    bench.detach()
    assert bench.leased() == []


def test_a_plugin_that_fails_undoes_those_before(bench: Bench) -> None:
    fails = (
        """test $CNI_COMMAND = DEL || { echo '{"code": 7, "msg": "no such thing", "details": "it says"}'; exit 1; }"""
    )
    bench.configure(bench.bridge(), bench.plugin("fails", fails))
    with pytest.raises(FailedPrecondition, match="CNI plugin fails fails on ADD: no such thing: it says"):
        bench.attach()
    assert bench.calls() == ["ADD fails", "DEL fails"]
    assert bench.leased() == [] and bench.db.all(JOINED, Joined) == []


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("""echo '{"code": 11, "msg": "later"}'; exit 1""", Unavailable, "later"),
        ("echo broken >&2; exit 3", Internal, "broken"),
        ("echo '{'", Internal, "not JSON"),
        ("exit 1", Internal, "without a word"),
    ],
)
def test_how_plugins_fail(bench: Bench, script: str, kind: type[MoorageError], message: str) -> None:
    bench.configure(bench.plugin("odd", script))
    with pytest.raises(kind, match=message):
        bench.attach()
    # It could not be taken out either; the next start tries again.
    assert [joined.id for joined in bench.db.all(JOINED, Joined)] == [ID]
    bench.plugin("odd", "exit 0")
    assert bench.net.host.run(bench.driver.reconcile, [bench.network], {}) == 1
    assert bench.db.all(JOINED, Joined) == []


def test_a_plugin_says_whether_it_is_ready(bench: Bench) -> None:
    ready = f"""test -e {bench.bin}/ready || {{ echo '{{"code": 50, "msg": "no agent", "details": "start it"}}'; exit 1; }}"""
    plugins = bench.plugin("first", "exit 0"), bench.plugin("second", ready)
    bench.configure(*plugins)
    assert bench.driver.obstacle() == ""
    bench.configure(*plugins, version="1.1.0")
    assert "CNI plugin second fails on STATUS: no agent: start it" in bench.driver.obstacle()
    (bench.bin / "ready").touch()
    assert bench.driver.obstacle() == ""
    assert bench.calls() == ["STATUS first", "STATUS second"] * 2


def test_plugins_collect_at_start_what_nobody_holds(bench: Bench) -> None:
    keep = f"""test $CNI_COMMAND != GC || echo "$config" > {bench.bin}/collected; echo '{{}}'"""
    fails = "test $CNI_COMMAND != GC || exit 1; echo '{}'"
    plugins = bench.plugin("fails", fails), bench.plugin("keeps", keep)
    bench.configure(*plugins, version="1.1.0")
    endpoint = bench.attach().endpoint

    def start(live: Mapping[str, Endpoint]) -> list[str]:
        """What plugins are called with at a start."""
        before = len(bench.calls())
        bench.net.host.run(bench.driver.reconcile, [bench.network], live)
        return bench.calls()[before:]

    def collected() -> object:
        return json.loads((bench.bin / "collected").read_text())["cni.dev/valid-attachments"]

    assert start({ID: endpoint}) == ["GC fails", "GC keeps"]
    assert collected() == [{"containerID": ID, "ifname": "eth0"}]
    assert start({}) == ["DEL keeps", "DEL fails", "GC fails", "GC keeps"]
    assert collected() == []
    bench.configure(*plugins, version="1.1.0", disableGC=True)
    assert start({}) == []
    bench.configure(*plugins)
    assert start({}) == []


def test_the_newest_version_that_both_know_counts(bench: Bench) -> None:
    bench.configure(bench.plugin("plain", "exit 0"), version="0.4.0", cniVersions=["1.1.0", "9.0.0", "1.0.0"])
    assert cniconfig.load(str(bench.conf)).version == "1.1.0"


def test_reconcile_keeps_the_living(bench: Bench) -> None:
    bench.configure(bench.bridge())
    endpoint = bench.attach().endpoint
    assert bench.net.host.run(bench.driver.reconcile, [bench.network], {ID: endpoint}) == 0
    assert bench.leased() == ["10.213.64.2"]
    assert bench.net.host.run(bench.driver.reconcile, [bench.network], {}) == 1
    assert bench.leased() == []


def test_ports_are_for_plugins_that_take_them(bench: Bench) -> None:
    bench.configure(bench.plugin("plain", "echo '{}'"))
    port = PortMapping(80, 8080, protocol="tcp", host_ip="192.0.2.1")
    with pytest.raises(FailedPrecondition, match="portMappings"):
        bench.attach(port)
    keep = f"""echo "$config" > {bench.bin}/config; echo "$CNI_ARGS" > {bench.bin}/args; echo '{{}}'"""
    bench.configure({**bench.plugin("mapper", keep), "capabilities": {"portMappings": True}})
    pod = PodRecord(ID, PodConfig("web", "default", "u1"), "starting", 1)
    with bench.db.transaction() as tx:
        tx.put("pod", ID, pod)
    assert bench.attach(port).endpoint.ports == (port,)
    told = json.loads((bench.bin / "config").read_text())
    assert told["name"] == "moorage-test" and told["runtimeConfig"] == {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"}]
    }
    assert "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;" in (bench.bin / "args").read_text()
    bench.detach()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no network configuration"),
        ("{", "not valid"),
        ('{"name": "x", "cniVersion": "9.9.9", "plugins": [{"type": "bridge"}]}', "version 9.9.9"),
        ('{"name": "x", "cniVersion": "1.0.0", "plugins": [{}]}', "no type"),
        ('{"name": "x", "cniVersion": "1.0.0", "plugins": []}', "not valid"),
        ('{"name": "x", "cniVersion": "1.0.0", "type": "nosuch"}', "no CNI plugin nosuch"),
        ('{"name": "x", "cniVersion": "1.0.0", "type": "../../bin/true"}', "no CNI plugin"),
    ],
)
def test_configurations_that_cannot_be_used(bench: Bench, content: str | None, message: str) -> None:
    if content is not None:
        (bench.conf / "10-test.conf").write_text(content)
    with pytest.raises(FailedPrecondition, match=message):
        bench.attach()


def test_there_is_one_network(bench: Bench) -> None:
    with pytest.raises(InvalidArgument):
        bench.driver.create_network("other", subnet="", gateway="", internal=False, labels={})
    with pytest.raises(FailedPrecondition):
        bench.driver.remove_network(bench.network)
