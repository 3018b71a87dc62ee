"""A small network of namespaces: a host of its own, an outside, and containers, each a thread that left for a namespace of its own.

A thread has a network namespace to itself (unshare(2) works on the calling thread), its ID serves where a process ID is asked for, and
what it starts or opens is of that namespace. So the host's own links, routes and firewall stay out of the tests, and a namespace is gone
when its thread is.
"""

from __future__ import annotations

import ctypes
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Endpoint, Network, PortMapping
from moorage.server.networkdriver.base import Attachment
from moorage.server.networkdriver.bridge import BridgeDriver

T = TypeVar("T")
CLONE_NEWNET = 0x40000000

HOST = "192.0.2.2"
OUTSIDE = "192.0.2.1"
PATIENCE = 5.0
IMPATIENCE = 0.3

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace. `run` calls a function in it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.pid = self.run(_unshare)
        self.ip("link set lo up")

    def run(self, function: Callable[..., T], *args: object, **kwargs: object) -> T:
        return self._thread.submit(function, *args, **kwargs).result()

    def ip(self, command: str) -> str:
        """Run `ip`."""
        return self.command("ip", *command.split())

    def command(self, *command: str) -> str:
        done = self.run(subprocess.run, command, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def sysctl(self, name: str, value: str) -> None:
        self.run(Path("/proc/sys", name).write_text, value)

    def links(self) -> set[str]:
        return {line.split(":")[1].split("@")[0].strip() for line in self.ip("-o link").splitlines()}

    def close(self) -> None:
        self._thread.shutdown()

    @contextmanager
    def serve(self, port: int, protocol: str = "tcp", address: str = "0.0.0.0") -> Iterator[None]:
        """Answer every client with the address it is seen with."""
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        server = self.run(socket.socket, socket.AF_INET, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        if protocol == "tcp":
            server.listen()
        thread = threading.Thread(target=_answer_tcp if protocol == "tcp" else _answer_udp, args=(server,))
        thread.start()
        try:
            yield
        finally:
            # Wakes accept and recvfrom, which close does not.
            server.shutdown(socket.SHUT_RDWR) if protocol == "tcp" else _wake(self, server)
            thread.join()
            server.close()

    def ask(
        self, address: str, port: int, protocol: str = "tcp", *, source: str = "", patience: float = PATIENCE
    ) -> str:
        """What a server answers: the address it sees this namespace with. Empty when no answer comes."""
        return self.run(_ask, address, port, protocol, source, patience)


def _unshare() -> int:
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot unshare the network namespace")
    return threading.get_native_id()


def _answer_tcp(server: socket.socket) -> None:
    while True:
        try:
            client, peer = server.accept()
        except OSError:
            return
        with client:
            client.sendall(peer[0].encode())


def _answer_udp(server: socket.socket) -> None:
    while True:
        data, peer = server.recvfrom(100)
        if data == b"stop":
            return
        server.sendto(peer[0].encode(), peer)


def _wake(namespace: Namespace, server: socket.socket) -> None:
    address, port = server.getsockname()
    with namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"stop", ("127.0.0.1" if address == "0.0.0.0" else address, port))


def _ask(address: str, port: int, protocol: str, source: str, patience: float) -> str:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as client:
        client.settimeout(patience)
        if source:
            client.bind((source, 0))
        try:
            client.connect((address, port))
            if protocol == "udp":
                client.send(b"who am I")
            return client.recv(100).decode()
        except OSError:
            return ""


class Container:
    """A namespace attached to a network, with what the supervisor does inside it done."""

    def __init__(
        self, driver: BridgeDriver, network: Network, attachment: Attachment, inside: Namespace, id: str
    ) -> None:
        self.id = id
        self.driver = driver
        self.network = network
        self.inside = inside
        self.endpoint: Endpoint = attachment.endpoint
        self.ip = attachment.endpoint.address.partition("/")[0]
        for interface in attachment.interfaces:
            inside.ip(f"addr add {interface.address} dev {interface.name}")
            inside.ip(f"link set {interface.name} up")
            if interface.gateway:
                inside.ip(f"route add default via {interface.gateway}")


class Lab:
    """A host with an uplink to an outside, drivers on the host, and containers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stack = ExitStack()
        self.host = self.namespace()
        self.outside = self.namespace()
        self.host.ip(f"link add up0 mtu 1450 type veth peer name up1 mtu 1450 netns {self.outside.pid}")
        self.host.ip(f"addr add {HOST}/24 dev up0")
        self.host.ip("link set up0 up")
        self.outside.ip(f"addr add {OUTSIDE}/24 dev up1")
        self.outside.ip("link set up1 up")
        self.host.ip(f"route add default via {OUTSIDE}")

    def namespace(self) -> Namespace:
        namespace = Namespace()
        self.stack.callback(namespace.close)
        return namespace

    def database(self, name: str = "moorage") -> GraphDB:
        db = GraphDB(self.directory / f"{name}.db")
        self.stack.callback(db.close)
        return db

    def driver(self, db: GraphDB, instance: str = "moorage") -> BridgeDriver:
        driver = self.host.run(BridgeDriver, db, instance, subnet_lock=self.directory / "subnets.lock")
        self.stack.callback(self.host.run, driver.close)
        return driver

    def network(
        self, driver: BridgeDriver, name: str = "bridge", *, internal: bool = False, subnet: str = ""
    ) -> Network:
        return self.host.run(driver.create_network, name, subnet=subnet, gateway="", internal=internal, labels={})

    def attach(
        self,
        driver: BridgeDriver,
        network: Network,
        *ports: PortMapping,
        id: str = "",
        inside: Namespace | None = None,
    ) -> Container:
        inside = inside or self.namespace()
        id = id or secrets.token_hex(32)
        attachment = self.host.run(driver.attach, network, id, lambda: inside.pid, ports, lambda _: None)
        return Container(driver, network, attachment, inside, id)

    def detach(self, container: Container) -> None:
        self.host.run(container.driver.detach, container.network, container.id, container.endpoint)

    def nft(self, *command: str) -> str:
        return self.host.command("nft", *command)


@contextmanager
def lab(directory: Path) -> Iterator[Lab]:
    made = Lab(directory)
    with made.stack:
        yield made
