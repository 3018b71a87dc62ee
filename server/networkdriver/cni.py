"""The driver `cni`: pods join the network of the node's CNI plugins.

What was added with is kept until it has been taken out again, as the configuration may be another by then, and so may the daemon:
it is written before the first plugin is called, and deleted after the last.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from moorage.server.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MoorageError
from moorage.server.model import Endpoint, Network, PodRecord, PortMapping
from moorage.server.networkdriver import cniconfig
from moorage.server.networkdriver.base import Attachment
from moorage.server.networkdriver.cniconfig import Call, Json, NetworkList
from moorage.server.networkdriver.leases import NETWORK, NETWORK_NAME, Store

log = logging.getLogger(__name__)

INTERFACE = "eth0"
JOINED = "cni-attachment"
"""Kind of node in the GraphDB, by the ID of the container or pod."""
POD = "pod"


@dataclass(frozen=True)
class Joined:
    """What a namespace joined: the list, the path of the namespace, CNI_ARGS, `runtimeConfig` and the last result, as JSON."""

    id: str
    network: str
    netns: str
    args: str
    capabilities: str
    result: str = ""


class CniDriver:
    """See `base.NetworkDriver`. There is one network, `cni`; the plugins decide about addresses, links and rules."""

    name = "cni"

    def __init__(self, store: Store, conf_dir: str, bin_dirs: Sequence[str]) -> None:
        self._store = store
        self._conf_dir = conf_dir
        self._bin_dirs = tuple(bin_dirs)

    def create_network(
        self, name: str, *, subnet: str, gateway: str, internal: bool, labels: dict[str, str]
    ) -> Network:
        """Raises AlreadyExists when it is there already, InvalidArgument for another name or for addresses."""
        if name != self.name or subnet or gateway or internal:
            raise InvalidArgument(f'cannot make network "{name}": networks of CNI are made by its configuration files')
        if self._store.lookup(NETWORK_NAME, name):
            raise AlreadyExists(f'network "{name}" exists', reason="NAME_IN_USE", network=name)
        network = Network(secrets.token_hex(32), name, "cni", time.time_ns(), labels=labels)
        with self._store.transaction() as tx:
            tx.link(NETWORK_NAME, name, network.id)
            tx.put(NETWORK, network.id, network)
        return network

    def remove_network(self, network: Network) -> None:
        """Raises FailedPrecondition: it is always there."""
        raise FailedPrecondition(f'cannot remove network "{network.name}": it is built in', network=network.name)

    def attach(
        self,
        network: Network,
        container_id: str,
        netns_pid: Callable[[], int],
        ports: Iterable[PortMapping],
        stage: Callable[[str], None],
    ) -> Attachment:
        """Raises FailedPrecondition (no configuration, no plugin, ports that no plugin takes), Unavailable, Internal (a plugin fails)."""
        wanted = tuple(ports)
        found = cniconfig.load(self._conf_dir)
        if wanted and not found.can("portMappings"):
            raise FailedPrecondition(
                f"cannot publish ports: no plugin of {found.path} has the capability portMappings", path=found.path
            )
        capabilities = {"portMappings": [_port(port) for port in wanted]} if wanted else {}
        netns = f"/proc/{netns_pid()}/ns/net"
        joined = Joined(container_id, found.text(), netns, self._args(container_id), json.dumps(capabilities))
        self._put(joined)
        stage("plugins")
        try:
            result = self._add(found, joined)
        except BaseException:
            # The plugins that were not called must take it that there is nothing to undo.
            with suppress(MoorageError):
                self.detach(network, container_id, None)
            raise
        self._put(replace(joined, result=json.dumps(result)))
        return Attachment(_endpoint(network, result, wanted))

    def detach(self, network: Network, container_id: str, endpoint: Endpoint | None) -> None:
        """Raises what a plugin fails with; then it can be tried again."""
        joined = self._store.get(JOINED, container_id, Joined)
        if joined is None:
            return
        found = NetworkList.parse(joined.network, "of the attachment")
        call = _call(joined)
        previous = json.loads(joined.result) if joined.result else None
        for index in reversed(range(len(found.plugins))):
            cniconfig.run(found, index, "DEL", call, previous, self._bin_dirs)
        with self._store.transaction() as tx:
            tx.delete(JOINED, container_id)

    def reconcile(self, networks: Iterable[Network], live: dict[str, Endpoint]) -> int:
        """Take out those that are not live any more; one that cannot be is tried again at the next start. Then have the plugins collect
        what nobody told them to give back: of a database that was lost, say."""
        ours = {network.id: network for network in networks if network.driver == self.name}
        here = {container for container, endpoint in live.items() if endpoint.network_id in ours}
        released = 0
        for network in ours.values():
            for joined in self._store.all(JOINED, Joined):
                if joined.id not in here:
                    with suppress(MoorageError):
                        self.detach(network, joined.id, None)
                        released += 1
            self._collect()
        return released

    def _collect(self) -> None:
        """GC, where the network's plugins know it. One that fails is no reason not to start."""
        try:
            found = cniconfig.load(self._conf_dir)
        except MoorageError:
            return
        if not (found.collect and found.has_status_and_gc()):
            return
        valid = [
            {"containerID": joined.id, "ifname": INTERFACE}
            for joined in self._store.all(JOINED, Joined)
            if NetworkList.parse(joined.network, "of the attachment").name == found.name
        ]
        for plugin in found.plugins:
            try:
                cniconfig.collect(found, plugin, valid, self._bin_dirs)
            except MoorageError as error:
                log.warning("cannot collect what a CNI plugin keeps", extra={"reason": str(error)})

    def check(self) -> bool:
        """Nothing is kept on the host but by the plugins."""
        return False

    def obstacle(self) -> str:
        """What is missing of the configuration or of the plugins it names, or why one of them is not ready."""
        try:
            found = cniconfig.load(self._conf_dir)
            for plugin in found.plugins:
                cniconfig.find(plugin["type"], self._bin_dirs)
            if found.has_status_and_gc():
                cniconfig.check_status(found, self._bin_dirs)
        except (MoorageError, OSError) as error:
            return str(error)
        return ""

    def destroy(self) -> None:
        """Nothing is kept on the host but by the plugins."""

    def _add(self, found: NetworkList, joined: Joined) -> Json:
        call = _call(joined)
        result: Json | None = None
        for index in range(len(found.plugins)):
            result = cniconfig.run(found, index, "ADD", call, result, self._bin_dirs) or result
        return result or {}

    def _args(self, container_id: str) -> str:
        """What plugins made for Kubernetes ask for."""
        pod = self._store.get(POD, container_id, PodRecord)
        if pod is None:
            return "IgnoreUnknown=1"
        values = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": pod.config.namespace,
            "K8S_POD_NAME": pod.config.name,
            "K8S_POD_INFRA_CONTAINER_ID": pod.id,
            "K8S_POD_UID": pod.config.uid,
        }
        return ";".join(f"{name}={value}" for name, value in values.items())

    def _put(self, joined: Joined) -> None:
        with self._store.transaction() as tx:
            tx.put(JOINED, joined.id, joined)


def _call(joined: Joined) -> Call:
    return Call(joined.id, joined.netns, INTERFACE, joined.args, json.loads(joined.capabilities))


def _port(port: PortMapping) -> Json:
    return {
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol,
        "hostIP": port.host_ip,
    }


def _endpoint(network: Network, result: Json, ports: tuple[PortMapping, ...]) -> Endpoint:
    """What a result (specification, section 5) says of the namespace's interface: its first IPv4 address, or else its first."""
    addresses: list[dict[str, Any]] = sorted(result.get("ips", ()), key=lambda ip: ":" in ip["address"])
    first = addresses[0] if addresses else {}
    links: list[dict[str, Any]] = result.get("interfaces", [])
    inside = next((position for position, link in enumerate(links) if link.get("sandbox")), None)
    # A veth pair's end on the host is told just before the one inside.
    outside = links[inside - 1] if inside else {}
    return Endpoint(
        network=network.name,
        network_id=network.id,
        address=first.get("address", ""),
        gateway=first.get("gateway", ""),
        mac_address=links[inside].get("mac", "") if inside is not None else "",
        host_interface=outside.get("name", ""),
        interface=INTERFACE,
        mtu=links[inside].get("mtu", 0) if inside is not None else 0,
        ports=ports,
    )
