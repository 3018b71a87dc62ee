"""The bridge driver: a bridge per network, a veth pair per container, an address lease, and published ports in nftables.

    attach:  lease (one GraphDB transaction) → link (one netlink message) → firewall (one nft transaction, when ports are published)
    detach:  firewall → lease → link (in the background: it mostly dies with its namespace)

IPv4 only so far. For IPv6 the table is of the `inet` family already; what is to come is a second pool, second maps and a second address
in `InterfaceConfig`.
"""

from __future__ import annotations

import errno
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from moorage.server.errors import AlreadyExists, FailedPrecondition, Internal, MoorageError
from moorage.server.model import Endpoint, Network, PortMapping
from moorage.server.networkdriver import ipam, links
from moorage.server.networkdriver.base import Attachment, InterfaceConfig
from moorage.server.networkdriver.conntrack import Conntrack
from moorage.server.networkdriver.firewall import Firewall
from moorage.server.networkdriver.leases import NETWORK, NETWORK_NAME, Lease, Leases, Store
from moorage.server.networkdriver.netlink import Netlink
from moorage.server.networkdriver.nftables import LibNftables
from moorage.server.networkdriver.ports import ANY
from moorage.server.networkdriver.reaper import LinkReaper
from moorage.server.networkdriver.rules import Forwarding, NetworkRules
from moorage.server.networkdriver.segments import SUBNET_LOCK, Segment, Segments

INTERFACE = "eth0"
LINK_PREFIX = "mveth"


class BridgeDriver:
    """See `base.NetworkDriver`. All sockets are of the network namespace of the thread that makes the driver."""

    name = "bridge"

    def __init__(
        self,
        store: Store,
        instance: str,
        *,
        pools: Sequence[IPv4Network] = ipam.DEFAULT_POOLS,
        prefix: int = ipam.DEFAULT_PREFIX,
        subnet_lock: Path = SUBNET_LOCK,
    ) -> None:
        """`instance` names the nft table and the default bridge: `moorage`, or another for each further root on the host.

        Raises FailedPrecondition where nftables is missing, Internal where the host cannot be made to route.
        """
        self._store = store
        self._pools = pools
        self._prefix = prefix
        self._nft = LibNftables()
        self._sock = Netlink()
        self._conntrack = Conntrack(self._sock)
        self._segments = Segments(self._sock, instance, subnet_lock)
        self._leases = Leases(store)
        self._firewall = Firewall(self._nft, instance)
        self._reaper = LinkReaper(lambda name: links.delete(self._sock, name))
        self._networks_lock = threading.Lock()
        self._known: dict[str, Segment] = {}
        _enable_forwarding()

    def create_network(
        self, name: str, *, subnet: str, gateway: str, internal: bool, labels: dict[str, str]
    ) -> Network:
        """Raises AlreadyExists (name), InvalidArgument, FailedPrecondition (subnet overlaps), ResourceExhausted (pools)."""
        wanted = ipam.parse_subnet(subnet) if subnet else None
        network_id = secrets.token_hex(32)
        bridge = self._segments.name_for(network_id, name)

        def choose(host: list[IPv4Network]) -> IPv4Network:
            others = [IPv4Network(other.subnet) for other in self._store.all(NETWORK, Network) if other.subnet]
            if wanted is None:
                return ipam.choose_subnet([*others, *host], self._pools, self._prefix)
            ipam.check_free(wanted, others, host)
            return wanted

        with self._networks_lock, ExitStack() as undo:
            if self._store.lookup(NETWORK_NAME, name):
                raise AlreadyExists(f'network "{name}" exists', reason="NAME_IN_USE", network=name)
            address = self._segments.create(network_id, bridge, gateway, choose)
            undo.callback(self._segments.remove, bridge)
            network = Network(
                id=network_id,
                name=name,
                driver="bridge",
                created_ns=time.time_ns(),
                subnet=str(address.network),
                gateway=str(address.ip),
                bridge=bridge,
                internal=internal,
                labels=labels,
            )
            undo.callback(self._forget, network)
            self._leases.add_network(network)
            self._known[network_id] = self._segments.find(network)
            self._firewall.add_network(network_id, _rules(network))
            with self._store.transaction() as tx:
                tx.link(NETWORK_NAME, name, network_id)
                tx.put(NETWORK, network_id, network)
            undo.pop_all()
        return network

    def remove_network(self, network: Network) -> None:
        """Raises FailedPrecondition while addresses of it are leased."""
        with self._networks_lock:
            used = self._leases.used(network.id)
            if used:
                raise FailedPrecondition(
                    f'network "{network.name}" is in use by {used} containers', reason="IN_USE", network=network.name
                )
            self._segments.remove(network.bridge)
            self._forget(network)
            with self._store.transaction() as tx:
                if tx.lookup(NETWORK_NAME, network.name) == network.id:
                    tx.unlink(NETWORK_NAME, network.name)
                tx.delete(NETWORK, network.id)

    def attach(
        self,
        network: Network,
        container_id: str,
        netns_pid: Callable[[], int],
        ports: Iterable[PortMapping],
        stage: Callable[[str], None],
    ) -> Attachment:
        """Raises ResourceExhausted (addresses), AlreadyExists (a port is in use), FailedPrecondition (namespace gone, internal network)."""
        wanted = tuple(ports)
        if wanted and network.internal:
            raise FailedPrecondition(
                f'cannot publish ports of a container in network "{network.name}": the network is internal',
                hint="leave the ports out, or use another network",
            )
        with ExitStack() as undo:
            stage("lease")
            segment = self._segment(network)
            lease = self._leases.take(network, container_id, wanted)
            undo.callback(self._leases.release, network.id, container_id)
            endpoint = _endpoint(network, container_id, lease, segment)
            stage("pod")
            pid = netns_pid()
            stage("link")
            self._add_link(segment, endpoint, pid)
            undo.callback(self._reaper.add, endpoint.host_interface)
            stage("firewall")
            self._publish(_forwardings(endpoint))
            undo.pop_all()
        gateway = "" if network.internal else network.gateway
        return Attachment(endpoint, (InterfaceConfig(INTERFACE, endpoint.address, gateway, segment.mtu),))

    def detach(self, network: Network, container_id: str, endpoint: Endpoint | None) -> None:
        """Ports and address are free on return; the link goes within a moment, see `settle`."""
        if endpoint is not None:
            self._withdraw(_forwardings(endpoint))
        else:
            self._withdraw(self._firewall.leading_to(self._leases.addresses(network.id, container_id)))
        self._leases.release(network.id, container_id)
        self._reaper.add(endpoint.host_interface if endpoint else link_name(container_id))

    def reconcile(self, networks: Iterable[Network], live: dict[str, Endpoint]) -> int:
        ours = [network for network in networks if network.driver == self.name]
        ids = {network.id for network in ours}
        here = {container: endpoint for container, endpoint in live.items() if endpoint.network_id in ids}
        with self._networks_lock:
            stale = [name for name, network_id in self._segments.owned().items() if network_id not in ids]
            for bridge in stale:
                self._segments.remove(bridge)
            for network in ours:
                self._known[network.id] = self._segments.ensure(network)
                self._leases.add_network(network)
            ports = [port for endpoint in here.values() for port in _forwardings(endpoint)]
            self._firewall.reset({network.id: _rules(network) for network in ours}, ports)
            released = self._leases.reconcile(ours, here)
            return len(stale) + released + self._reap_orphans({endpoint.host_interface for endpoint in here.values()})

    def check(self) -> bool:
        """Restore the nft table if somebody flushed or changed it; answer whether that was so. Cheap: call it every second."""
        return self._firewall.check()

    def obstacle(self) -> str:
        """Why nothing can be attached now."""
        return self._firewall.obstacle()

    def settle(self, timeout: float) -> bool:
        """Wait for the links of detached containers to be gone; False when some are still there after `timeout` seconds."""
        return self._reaper.settle(timeout)

    def destroy(self) -> None:
        """Remove the nft table and all bridges of this instance from the host; the GraphDB stays as it is."""
        with self._networks_lock:
            self._firewall.delete()
            for bridge in self._segments.owned():
                self._segments.remove(bridge)
            self._known.clear()

    def close(self) -> None:
        """Let go of sockets and threads; containers keep their network."""
        self._reaper.close()
        self._conntrack.close()
        self._sock.close()
        self._nft.close()

    def _publish(self, ports: list[Forwarding]) -> None:
        self._firewall.publish(ports)
        self._conntrack.forget_before(ports)

    def _withdraw(self, ports: list[Forwarding]) -> None:
        self._conntrack.forget_after(self._firewall.withdraw(ports))

    def _forget(self, network: Network) -> None:
        self._firewall.remove_network(network.id)
        self._leases.remove_network(network.id)
        self._known.pop(network.id, None)

    def _segment(self, network: Network) -> Segment:
        segment = self._known.get(network.id)
        if segment is None:
            self._leases.add_network(network)
            segment = self._known[network.id] = self._segments.find(network)
        return segment

    def _add_link(self, segment: Segment, endpoint: Endpoint, pid: int) -> None:
        name, mac = endpoint.host_interface, endpoint.mac_address
        self._reaper.forget(name)
        try:
            try:
                links.add_veth(self._sock, name, segment.index, INTERFACE, pid, mac, segment.mtu)
            except OSError as error:
                # The container's last link, whose namespace is still being torn down.
                if error.errno != errno.EEXIST or not links.delete(self._sock, name):
                    raise
                links.add_veth(self._sock, name, segment.index, INTERFACE, pid, mac, segment.mtu)
        except OSError as error:
            raise _link_error(error, endpoint, segment, pid) from error

    def _reap_orphans(self, live: set[str]) -> int:
        ports = self._segments.ports(segment.index for segment in self._known.values())
        orphans = {name for name in ports if name.startswith(LINK_PREFIX)} - live
        for name in orphans:
            self._reaper.add(name)
        return len(orphans)


def link_name(container_id: str) -> str:
    """The host's end of a container's veth pair: as many digits of the ID as fit into 15 bytes."""
    return f"{LINK_PREFIX}{container_id[:10]}"


def _endpoint(network: Network, container_id: str, lease: Lease, segment: Segment) -> Endpoint:
    return Endpoint(
        network=network.name,
        network_id=network.id,
        address=str(lease.address),
        gateway=network.gateway,
        mac_address=links.mac_of(lease.address.ip),
        host_interface=link_name(container_id),
        interface=INTERFACE,
        mtu=segment.mtu,
        ports=lease.ports,
    )


def _forwardings(endpoint: Endpoint) -> list[Forwarding]:
    address = str(IPv4Interface(endpoint.address).ip)
    return [
        Forwarding(port.protocol, port.host_ip or ANY, port.host_port, address, port.container_port)
        for port in endpoint.ports
    ]


def _rules(network: Network) -> NetworkRules:
    return NetworkRules(network.bridge, network.subnet, network.internal)


def _link_error(error: OSError, endpoint: Endpoint, segment: Segment, pid: int) -> MoorageError:
    what = f"cannot put {endpoint.host_interface} into the network namespace of process {pid}"
    if error.errno == errno.ESRCH:
        return FailedPrecondition(f"{what}: there is no such process", stage="link", errno=error.errno)
    hint = f"`ip link show {segment.name}` tells whether the bridge is there; a restart of the daemon makes it again"
    return Internal(f"{what}: {error.strerror}", stage="link", errno=error.errno, hint=hint)


def _enable_forwarding() -> None:
    try:
        links.enable_forwarding()
    except OSError as error:
        raise Internal(f"cannot set net.ipv4.ip_forward: {error.strerror}", stage="link", errno=error.errno) from error
