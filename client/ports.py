"""Port mappings as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorage.v1 import runtime_pb2


def host_side(port: runtime_pb2.PortMapping) -> str:
    """`0.0.0.0:8080`, `[::1]:8080`."""
    address = port.host_ip or "0.0.0.0"
    return f"[{address}]:{port.host_port}" if ":" in address else f"{address}:{port.host_port}"


def container_side(port: runtime_pb2.PortMapping) -> str:
    """`80/tcp`."""
    from moorage.v1 import runtime_pb2

    return f"{port.container_port}/{'udp' if port.protocol == runtime_pb2.PROTOCOL_UDP else 'tcp'}"


def endpoint_ports(endpoint: runtime_pb2.Endpoint) -> list[str]:
    """`0.0.0.0:8080->80/tcp` for each port, by the container's port."""
    ports = sorted(endpoint.ports, key=lambda port: (port.container_port, port.protocol, port.host_port))
    return [f"{host_side(port)}->{container_side(port)}" for port in ports]
