"""A pod's network: addresses, ports of the host, and names."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from grpc import StatusCode

from moorage.cri.v1 import api_pb2 as api
from tests.criclient import Cri, Pod, refused, until

pytestmark = pytest.mark.kernel

SERVE = "echo 'welcome aboard' > /tmp/index.html; httpd -p %s -h /tmp; echo ready; sleep 1000"


def fetch(host: str, port: int) -> str:
    """The body of a page."""
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while data := connection.recv(65536):
            received += data
    return received.decode().rpartition("\r\n\r\n")[2]


def serve(pod: Pod, port: str = "80") -> None:
    box = pod.run("sh", "-c", SERVE % port)
    until(box.log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_pod_is_reached_by_its_address(cri: Cri) -> None:
    pod = cri.pod()
    serve(pod)
    assert fetch(pod.ip, 80) == "welcome aboard\n"
    assert pod.ip in pod.sh("ip -4 address show dev eth0")


def test_containers_of_a_pod_meet_on_loopback_and_pods_by_address(cri: Cri) -> None:
    pod, other = cri.pod(), cri.pod()
    serve(pod)
    assert pod.sh("wget -qO- http://127.0.0.1/") == "welcome aboard\n"
    assert other.sh(f"wget -qO- http://{pod.ip}/") == "welcome aboard\n"


def test_a_host_port_is_reached_through_loopback_until_the_pod_stops(cri: Cri) -> None:
    port = free_port()
    pod = cri.pod(port_mappings=[api.PortMapping(container_port=80, host_port=port)])
    serve(pod)
    assert fetch("127.0.0.1", port) == "welcome aboard\n"
    pod.stop()
    with pytest.raises(OSError, match="refused"):
        fetch("127.0.0.1", port)
    again = cri.pod(port_mappings=[api.PortMapping(container_port=80, host_port=port)])
    serve(again)
    assert fetch("127.0.0.1", port) == "welcome aboard\n"


def test_host_port_0_is_no_mapping(cri: Cri) -> None:
    pod = cri.pod(port_mappings=[api.PortMapping(container_port=80)])
    serve(pod)
    assert fetch(pod.ip, 80) == "welcome aboard\n"


def test_a_host_port_is_taken_once(cri: Cri) -> None:
    port = free_port()
    mapping = api.PortMapping(container_port=80, host_port=port)
    pod = cri.pod(port_mappings=[mapping])
    with pytest.raises(Exception, match=str(port)):
        cri.pod(port_mappings=[mapping])
    pod.stop()
    pod.remove()
    cri.clear()
    cri.pod(port_mappings=[mapping])


def test_dns_is_exactly_what_it_says(cri: Cri) -> None:
    dns = api.DNSConfig(servers=["192.0.2.53", "192.0.2.54"], searches=["a.example", "b.example"], options=["ndots:5"])
    assert sorted(cri.pod(dns_config=dns).sh("cat /etc/resolv.conf").splitlines()) == [
        "nameserver 192.0.2.53",
        "nameserver 192.0.2.54",
        "options ndots:5",
        "search a.example b.example",
    ]


def test_an_empty_dns_config_is_an_empty_file(cri: Cri) -> None:
    assert cri.pod(dns_config=api.DNSConfig()).sh("cat /etc/resolv.conf") == ""


def test_without_a_dns_config_the_hosts_file_is_copied(cri: Cri) -> None:
    assert cri.pod().sh("cat /etc/resolv.conf") == Path("/etc/resolv.conf").read_text()


def test_the_hosts_network_has_no_address_of_its_own_and_no_mappings(cri: Cri) -> None:
    context = api.LinuxSandboxSecurityContext(namespace_options=api.NamespaceOption(network=api.NODE))
    port = free_port()
    pod = cri.pod(
        linux=api.LinuxPodSandboxConfig(security_context=context),
        port_mappings=[api.PortMapping(container_port=80, host_port=port)],
    )
    assert pod.ip == ""
    serve(pod, f"127.0.0.1:{port}")
    assert fetch("127.0.0.1", port) == "welcome aboard\n"


@pytest.mark.parametrize(
    "mapping", [api.PortMapping(container_port=70_000, host_port=1), api.PortMapping(container_port=80, host_port=-1)]
)
def test_ports_that_cannot_be_are_refused(cri: Cri, mapping: api.PortMapping) -> None:
    with refused(StatusCode.INVALID_ARGUMENT, "port"):
        cri.pod(port_mappings=[mapping])
    assert cri.pods() == []
