"""The firewall as data and text, and when the table is built, changed, checked and restored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.errors import Internal
from moorage.server.networkdriver import rules
from moorage.server.networkdriver.firewall import Firewall
from moorage.server.networkdriver.rules import Chain, Collection, Forwarding, NetworkRules

BRIDGE = NetworkRules("moorage0", "10.210.0.0/20")
INTERNAL = NetworkRules("moor123456", "10.210.16.0/20", internal=True)
EVERYWHERE = Forwarding("tcp", "0.0.0.0", 8080, "10.210.0.2", 80)
LOCAL = Forwarding("udp", "127.0.0.1", 53, "10.210.0.3", 5353)


def elements(name: str) -> set[str]:
    found = {item.name: item for item in rules.collections([BRIDGE, INTERNAL], [EVERYWHERE, LOCAL])}
    return set(found[name].elements)


def test_networks_become_elements() -> None:
    assert elements("bridges") == {'"moorage0"', '"moor123456"'}
    assert elements("internal") == {'"moor123456"'}
    assert elements("same") == {'"moorage0" . "moorage0"', '"moor123456" . "moor123456"'}
    assert elements("translated") == {"10.210.0.0/20"}, "an internal network has no way out"


def test_ports_become_elements() -> None:
    assert elements("published_any") == {"tcp . 8080 : 10.210.0.2 . 80"}
    assert elements("published") == {"127.0.0.1 . udp . 53 : 10.210.0.3 . 5353"}


def test_element_changes() -> None:
    assert rules.add_text("moorage", [EVERYWHERE, LOCAL]) == (
        "add element inet moorage published_any { tcp . 8080 : 10.210.0.2 . 80 }\n"
        "add element inet moorage published { 127.0.0.1 . udp . 53 : 10.210.0.3 . 5353 }\n"
    )
    assert rules.delete_text("moorage", [EVERYWHERE]) == "delete element inet moorage published_any { tcp . 8080 }\n"


def test_table_replaces_only_itself() -> None:
    text = rules.table_text("moorage", [BRIDGE], [EVERYWHERE])
    assert text.startswith("add table inet moorage\ndelete table inet moorage\ntable inet moorage {\n")
    assert "flush" not in text and text.count("delete") == 1


def test_rules_do_not_grow_with_networks_and_ports() -> None:
    def without_sets(networks: list[NetworkRules], ports: list[Forwarding]) -> str:
        return rules.without_elements(rules.table_text("moorage", networks, ports))

    assert without_sets([], []) == without_sets([BRIDGE, INTERNAL], [EVERYWHERE, LOCAL])


def chain(name: str) -> Chain:
    return next(item for item in rules.CHAINS if item.name == name)


def test_internal_networks_are_cut_off_before_published_ports_are_let_in() -> None:
    forward = chain("forward").rules
    assert forward.index("iifname @internal drop") < forward.index("oifname @bridges ct status dnat accept")
    assert forward[-1] == "oifname @bridges drop"


def test_loopback_is_shut_before_connection_tracking() -> None:
    loopback = chain("loopback")
    assert "priority raw" in loopback.hook
    assert 'iifname != "lo" ip daddr 127.0.0.0/8 drop' in loopback.rules


words = st.text("abc0123456789.", min_size=1, max_size=12)


@given(st.dictionaries(words, st.frozensets(words, max_size=5), max_size=5))
def test_listed_elements_are_those_written(sets: dict[str, frozenset[str]]) -> None:
    written = [Collection("set", name, "ipv4_addr", elements=members) for name, members in sets.items()]
    listing = "table inet moorage {\n" + "".join(f"\t{line}\n" for item in written for line in item.text().splitlines())
    assert rules.listed_elements(listing + "}\n") == sets


def test_listed_elements_over_several_lines() -> None:
    listing = "table inet x {\n\tmap m {\n\t\ttype a : b\n\t\telements = { a . 1 : c . 2,\n\t\t\t     d . 3 : e . 4 }\n\t}\n}\n"
    assert rules.listed_elements(listing) == {"m": frozenset({"a . 1 : c . 2", "d . 3 : e . 4"})}


class FakeNft:
    """Holds one table as text; counts generations as the kernel does."""

    def __init__(self) -> None:
        self.table = ""
        self.count = 7
        self.commands: list[str] = []
        self.refuse = ""

    def run(self, commands: str) -> str:
        self.commands.append(commands)
        if commands.startswith("list table"):
            if not self.table:
                raise Internal("cannot change nftables: No such file or directory")
            return self.table
        if self.refuse and self.refuse in commands:
            raise Internal("cannot change nftables: refused")
        self._apply(commands)
        self.count += 1
        return ""

    def _apply(self, commands: str) -> None:
        if commands.startswith("add table"):
            self.table = commands.partition("\n")[2].partition("\n")[2]
            return
        for line in commands.splitlines():
            if not self.table:
                raise Internal("cannot change nftables: No such file or directory")
            _, _, _, _, name, rest = line.split(maxsplit=5)
            self._change(name, rest.strip("{} "), line.startswith("add"))

    def _change(self, name: str, element: str, add: bool) -> None:
        listed = {key: set(value) for key, value in rules.listed_elements(self.table).items()}
        listed[name] = {item for item in listed[name] if item.partition(" : ")[0] != element.partition(" : ")[0]}
        listed[name] |= {element} if add else set()
        ports = [_forwarding(item) for map_ in ("published", "published_any") for item in listed[map_]]
        self.table = rules.table_text("t", [BRIDGE], ports).partition("\n")[2].partition("\n")[2]

    def generation(self) -> int:
        return self.count

    def flush(self) -> None:
        self.table = ""
        self.count += 1


def _forwarding(element: str) -> Forwarding:
    key, _, target = element.partition(" : ")
    *host, protocol, port = key.split(" . ")
    address, container_port = target.split(" . ")
    return Forwarding(protocol, host[0] if host else "0.0.0.0", int(port), address, int(container_port))


@pytest.fixture
def nft() -> FakeNft:
    return FakeNft()


@pytest.fixture
def firewall(nft: FakeNft) -> Firewall:
    made = Firewall(nft, "t")
    made.reset({"id": BRIDGE}, [LOCAL])
    return made


def test_ports_are_added_and_deleted_as_elements(nft: FakeNft, firewall: Firewall) -> None:
    nft.commands.clear()
    firewall.publish([EVERYWHERE])
    assert firewall.withdraw([EVERYWHERE]) == [EVERYWHERE]
    assert nft.commands == [rules.add_text("t", [EVERYWHERE]), rules.delete_text("t", [EVERYWHERE])]
    assert firewall.withdraw([EVERYWHERE]) == [] and firewall.check() is False
    assert len(nft.commands) == 2


def test_port_that_leads_elsewhere_by_now_is_left(firewall: Firewall, nft: FakeNft) -> None:
    firewall.publish([EVERYWHERE])
    assert firewall.withdraw([Forwarding("tcp", "0.0.0.0", 8080, "10.210.0.9", 80)]) == []
    assert EVERYWHERE.element in nft.table


def test_check_looks_only_when_somebody_changed_something(nft: FakeNft, firewall: Firewall) -> None:
    nft.commands.clear()
    assert firewall.check() is False and nft.commands == []
    nft.count += 1
    assert firewall.check() is False and nft.commands == ["list table inet t"]
    assert firewall.check() is False and len(nft.commands) == 1


def test_flush_is_seen_and_undone(nft: FakeNft, firewall: Firewall) -> None:
    firewall.publish([EVERYWHERE])
    before = nft.table
    nft.flush()
    assert firewall.check() is True and nft.table == before
    assert firewall.check() is False


def test_flush_just_before_a_change_of_ours_is_seen(nft: FakeNft, firewall: Firewall) -> None:
    nft.flush()
    firewall.publish([EVERYWHERE])
    assert EVERYWHERE.element in nft.table and LOCAL.element in nft.table
    nft.flush()
    firewall.withdraw([EVERYWHERE])
    assert EVERYWHERE.element not in nft.table and LOCAL.element in nft.table


def test_damage_between_two_checks_is_seen_though_we_changed_something_since(nft: FakeNft, firewall: Firewall) -> None:
    nft.table = nft.table.replace(LOCAL.element, Forwarding("udp", "127.0.0.1", 53, "192.0.2.66", 1).element)
    nft.count += 1
    firewall.publish([EVERYWHERE])
    assert firewall.check() is True and LOCAL.element in nft.table


def test_refused_port_is_not_kept(nft: FakeNft, firewall: Firewall) -> None:
    nft.refuse = EVERYWHERE.element
    with pytest.raises(Internal, match="refused"):
        firewall.publish([EVERYWHERE])
    nft.refuse = ""
    nft.flush()
    assert firewall.check() is True and EVERYWHERE.element not in nft.table


def test_refused_network_is_not_kept(nft: FakeNft, firewall: Firewall) -> None:
    nft.refuse = "moor123456"
    with pytest.raises(Internal, match="refused"):
        firewall.add_network("other", INTERNAL)
    firewall.add_network("id", BRIDGE)
    assert "moor123456" not in nft.table
