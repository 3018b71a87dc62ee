"""Addresses and subnets: never given twice, always in range, and used up only when they are."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from moorage.server.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from moorage.server.networkdriver.ipam import (
    DEFAULT_POOLS,
    AddressPool,
    check_free,
    choose_subnet,
    gateway_of,
    parse_subnet,
)

SUBNET = IPv4Network("10.210.0.0/28")
GATEWAY = IPv4Address("10.210.0.1")


class PoolMachine(RuleBasedStateMachine):
    """An address pool beside a model of it: the set of addresses given out."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = AddressPool(SUBNET, [GATEWAY])
        self.usable = set(SUBNET.hosts()) - {GATEWAY}
        self.given: set[IPv4Address] = set()

    @rule()
    def take(self) -> None:
        if self.given == self.usable:
            with pytest.raises(ResourceExhausted):
                self.pool.take()
            return
        address = self.pool.take()
        assert address in self.usable - self.given
        self.given.add(address)

    @rule(number=st.integers(-2, 20))
    def claim(self, number: int) -> None:
        address = SUBNET.network_address + number
        free = address in self.usable - self.given
        assert self.pool.claim(address) is free
        if free:
            self.given.add(address)

    @rule(number=st.integers(0, 15))
    def release(self, number: int) -> None:
        address = SUBNET.network_address + number
        self.pool.release(address)
        self.given.discard(address)

    @invariant()
    def counts(self) -> None:
        assert len(self.pool) == len(self.given)


TestPool = PoolMachine.TestCase


def test_released_address_comes_back_last() -> None:
    pool = AddressPool(SUBNET, [GATEWAY])
    first = pool.take()
    pool.release(first)
    others = [pool.take() for _ in range(12)]
    assert first not in others
    assert pool.take() == first


def test_first_address_follows_the_gateway() -> None:
    assert str(AddressPool(SUBNET, [GATEWAY]).take()) == "10.210.0.2"


subnets = st.builds(
    lambda address, prefix: IPv4Network((address, prefix), strict=False),
    st.integers(int(IPv4Address("10.208.0.0")), int(IPv4Address("10.213.255.255"))),
    st.integers(8, 32),
)


@given(st.lists(subnets, max_size=30))
def test_chosen_subnet_overlaps_nothing(used: list[IPv4Network]) -> None:
    pools = DEFAULT_POOLS[:2]
    try:
        chosen = choose_subnet(used, pools, 20)
    except ResourceExhausted:
        candidates = [piece for pool in pools for piece in pool.subnets(new_prefix=20)]
        assert all(any(piece.overlaps(other) for other in used) for piece in candidates)
        return
    assert chosen.prefixlen == 20 and any(chosen.subnet_of(pool) for pool in pools)
    assert not any(chosen.overlaps(other) for other in used)


def test_pools_give_different_subnets_until_used_up() -> None:
    chosen: list[IPv4Network] = []
    for _ in range(48):
        chosen.append(choose_subnet(chosen, DEFAULT_POOLS, 20))
    assert str(chosen[0]) == "10.210.0.0/20" and len(set(chosen)) == 48
    with pytest.raises(ResourceExhausted, match="no subnet is free"):
        choose_subnet(chosen, DEFAULT_POOLS, 20)


def test_pool_smaller_than_a_piece_is_one_piece() -> None:
    assert choose_subnet([], [IPv4Network("10.9.8.0/24")], 20) == IPv4Network("10.9.8.0/24")


def test_overlap_names_whose_it_is() -> None:
    with pytest.raises(FailedPrecondition, match=r"the host's route to 10\.0\.0\.0/8"):
        check_free(SUBNET, [], [IPv4Network("10.0.0.0/8")])
    with pytest.raises(FailedPrecondition, match="the network of"):
        check_free(SUBNET, [IPv4Network("10.210.0.0/20")], [])
    check_free(SUBNET, [IPv4Network("10.211.0.0/20")], [IPv4Network("192.0.2.0/24")])


@pytest.mark.parametrize(
    "subnet",
    ["", "x", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/30", "10.0.0.0/7", "0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/8",
     "169.254.7.0/24", "240.0.0.0/8", "fd00::/64", "10.0.0.0/24\n", "10.0.0.0/33"],
)  # fmt: skip
def test_subnets_refused(subnet: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_subnet(subnet)


def test_gateway() -> None:
    subnet = parse_subnet("10.9.0.0/24")
    assert str(gateway_of(subnet, "")) == "10.9.0.1/24"
    assert str(gateway_of(subnet, "10.9.0.254")) == "10.9.0.254/24"
    for refused in ("10.9.1.1", "10.9.0.0", "10.9.0.255", "x", "fd00::1"):
        with pytest.raises(InvalidArgument, match="gateway"):
            gateway_of(subnet, refused)
