"""Handlers for networks, and the look-up of a network with the driver that makes it."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.server.engine import commands, names
from moorage.server.engine.containers import Containers
from moorage.server.engine.job import Job
from moorage.server.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Network, NetworkAttachment, PodConfig
from moorage.server.networkdriver.base import NetworkDriver
from moorage.server.networkdriver.drivers import BUILT_IN, ensure_defaults

KIND = "network"
NAME = "network-name"


class Networks:
    """Networks by name, ID or prefix; `drivers` by `Network.driver`."""

    def __init__(
        self, db: GraphDB, drivers: Mapping[str, NetworkDriver], containers: Containers, pods: str = "bridge"
    ) -> None:
        """`pods` is the network that pods join."""
        self._db = db
        self._drivers = drivers
        self._containers = containers
        self._pods = pods

    def of_pod(self, config: PodConfig) -> Network:
        """The network that a pod joins. Raises NotFound."""
        return self.get("host" if config.network == "host" else config.attachment.network or self._pods)

    def all(self) -> list[Network]:
        """Every network, by name."""
        return sorted(self._db.all(KIND, Network), key=lambda network: network.name)

    def get(self, text: str) -> Network:
        """One network. Raises NotFound or InvalidArgument (ambiguous prefix)."""
        text = text or "bridge"
        found = [self._db.lookup(NAME, text)] if self._db.lookup(NAME, text) else self._db.find(KIND, text)
        if len(found) > 1:
            raise InvalidArgument(f"network ID prefix {text!r} is ambiguous", hint="give more of the ID")
        network = self._db.get(KIND, found[0], Network) if found and found[0] else None
        if network is None:
            raise NotFound(f"no such network: {text}", hint="list networks with `moorage network ls`", network=text)
        return network

    def driver(self, network: Network) -> NetworkDriver:
        """The driver that makes a network."""
        return self._drivers[network.driver]

    def drivers(self) -> Mapping[str, NetworkDriver]:
        """All drivers by name."""
        return self._drivers

    def ensure_defaults(self) -> None:
        """Make the built-in networks that are missing."""
        ensure_defaults(self._db, self._drivers, self._pods)

    def check(self, attachment: NetworkAttachment) -> None:
        """Refuse what cannot work, before anything is made."""
        network = self.get(attachment.network)
        if attachment.ports and network.driver != "bridge":
            raise InvalidArgument(
                f"network {network.name} cannot publish ports: its containers have no address of their own",
                field="config.network.ports",
            )

    def create(self, job: Job, command: commands.CreateNetwork) -> Network:
        """Make a bridge network."""
        names.check(command.name, "network")
        if self._db.lookup(NAME, command.name):
            raise AlreadyExists(
                f"network {command.name} exists", hint="remove it or choose another name", name=command.name
            )
        return self._drivers["bridge"].create_network(
            command.name,
            subnet=command.subnet,
            gateway=command.gateway,
            internal=command.internal,
            labels=command.labels,
        )

    def remove(self, job: Job, command: commands.RemoveNetwork) -> None:
        """Delete a network that nothing uses."""
        network = self.get(command.network)
        if network.name in BUILT_IN:
            raise FailedPrecondition(f"network {network.name} is built in and cannot be removed")
        users = [c.name for c in self._containers.all() if self.get(c.config.network.network).id == network.id]
        if users:
            raise FailedPrecondition(
                f"network {network.name} is used by {', '.join(sorted(users))}", hint="remove those containers first"
            )
        self.driver(network).remove_network(network)

    def list(self, job: Job, command: commands.ListNetworks) -> list[commands.NetworkView]:
        """Every network with its members."""
        return [self._view(network) for network in self.all()]

    def inspect(self, job: Job, command: commands.InspectNetwork) -> commands.NetworkView:
        """One network with its members."""
        return self._view(self.get(command.network))

    def _view(self, network: Network) -> commands.NetworkView:
        members = (c for c in self._containers.all() if c.endpoint is not None and c.endpoint.network_id == network.id)
        return commands.NetworkView(network, tuple(members))
