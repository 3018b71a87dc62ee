"""Host ports: no two containers hold what overlaps, and what a process of the host has is left to it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.errors import AlreadyExists, InvalidArgument, ResourceExhausted
from moorage.server.model import PortMapping
from moorage.server.networkdriver.ports import (
    ANY,
    HostPort,
    PortAllocator,
    PortTable,
    check_mapping,
    dynamic_ports,
    is_bound,
)

LOOPBACK = "127.0.0.1"

host_ports = st.builds(
    HostPort,
    st.sampled_from(["tcp", "udp"]),
    st.sampled_from([ANY, LOOPBACK, "192.0.2.2"]),
    st.integers(1, 3),
)
actions = st.lists(st.tuples(st.booleans(), host_ports, st.sampled_from(["a", "b"])), max_size=40)


def overlap(one: HostPort, other: HostPort) -> bool:
    same = (one.protocol, one.port) == (other.protocol, other.port)
    return same and (one.address == other.address or ANY in (one.address, other.address))


@given(actions)
def test_table_gives_what_does_not_overlap(actions: list[tuple[bool, HostPort, str]]) -> None:
    table, held = PortTable(), dict[HostPort, str]()
    for take, port, owner in actions:
        if not take:
            table.release(port, owner)
            if held.get(port) == owner:
                del held[port]
        elif any(overlap(port, other) for other in held):
            with pytest.raises(AlreadyExists):
                table.take(port, owner)
        else:
            table.take(port, owner)
            held[port] = owner
        for other in held:
            assert table.holder(other) == held[other]


@given(host_ports)
def test_name_reads_back(port: HostPort) -> None:
    assert HostPort.parse(str(port)) == port


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def test_listener_of_the_host_is_seen() -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, 0))
        listener.listen()
        port = listener.getsockname()[1]
        for address in (LOOPBACK, ANY):
            assert is_bound(HostPort("tcp", address, port))
            with pytest.raises(AlreadyExists, match=f"{address}:{port}/tcp is in use by a process of the host"):
                PortAllocator([]).take([PortMapping(80, port, address)], "a")
        assert not is_bound(HostPort("tcp", "127.0.0.2", port))


def test_udp_socket_of_the_host_is_seen() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((LOOPBACK, 0))
        assert is_bound(HostPort("udp", ANY, holder.getsockname()[1]))


def test_connection_in_time_wait_does_not_hold_a_port() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)), listener.accept()[0] as server:
            server.shutdown(socket.SHUT_WR)
    assert not is_bound(HostPort("tcp", ANY, port))


def test_address_of_another_host_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no address of this host"):
        PortAllocator([]).take([PortMapping(80, 8080, "198.51.100.1")], "a")


def test_chosen_ports_differ_and_run_out() -> None:
    free = [free_port() for _ in range(2)]
    allocator = PortAllocator(free)
    chosen = allocator.take([PortMapping(80, host_ip=LOOPBACK), PortMapping(81, host_ip=LOOPBACK)], "a")
    assert [port.host_port for port in chosen] == free
    with pytest.raises(ResourceExhausted, match="all 2 dynamic ports"):
        allocator.take([PortMapping(82, host_ip=LOOPBACK)], "b")
    allocator.release(chosen[:1], "a")
    assert allocator.take([PortMapping(82, host_ip=LOOPBACK)], "b")[0].host_port == free[0]


def test_port_of_the_host_is_not_chosen() -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        free = free_port()
        allocator = PortAllocator([listener.getsockname()[1], free])
        assert allocator.take([PortMapping(80, host_ip=LOOPBACK)], "a")[0].host_port == free


def test_all_ports_or_none() -> None:
    allocator, port = PortAllocator([]), free_port()
    with pytest.raises(AlreadyExists, match="container a"):
        allocator.take([PortMapping(80, port, LOOPBACK), PortMapping(81, port)], "a")
    assert allocator.table.holder(HostPort("tcp", ANY, port)) == ""


def test_port_is_released_by_its_holder_only() -> None:
    allocator, port = PortAllocator([]), free_port()
    taken = allocator.take([PortMapping(80, port, LOOPBACK)], "a")
    allocator.release(taken, "b")
    assert allocator.table.holder(HostPort.of(taken[0])) == "a"


def test_dynamic_ports_begin_outside_the_kernels_range(tmp_path: Path) -> None:
    file = tmp_path / "range"
    file.write_text("32768\t60999\n")
    ports = dynamic_ports(file)
    assert ports[0] == 61000 and ports[-1] == 60999
    assert sorted(ports) == list(range(49153, 65536))


@pytest.mark.parametrize(
    "mapping",
    [
        PortMapping(0, 80),
        PortMapping(65536, 80),
        PortMapping(80, -1),
        PortMapping(80, 65536),
        PortMapping(80, 80, "localhost"),
        PortMapping(80, 80, "::1"),
        PortMapping(80, 80, protocol="sctp"),  # type: ignore[arg-type]
    ],
)
def test_mappings_refused(mapping: PortMapping) -> None:
    with pytest.raises(InvalidArgument):
        check_mapping(mapping)
