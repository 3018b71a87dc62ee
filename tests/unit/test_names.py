"""The files by which a container knows names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.errors import Internal, InvalidArgument
from moorage.server.model import NetworkAttachment
from moorage.server.networkdriver import names
from moorage.server.networkdriver.names import Resolver, check, make_files, parse_resolv, write_files

NOTHING = NetworkAttachment()


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's files, for the test to fill."""
    directory = tmp_path / "host"
    directory.mkdir()
    monkeypatch.setattr(names, "HOST_HOSTS", directory / "hosts")
    monkeypatch.setattr(names, "HOST_RESOLV", (directory / "resolv.conf", directory / "upstream"))
    (directory / "resolv.conf").write_text("nameserver 192.0.2.53\nsearch example.org\noptions ndots:2\n")
    return directory


def write(tmp_path: Path, attachment: NetworkAttachment = NOTHING, *, host_network: bool = False) -> dict[str, str]:
    write_files(
        tmp_path,
        hostname="web",
        address="" if host_network else "10.210.0.2/20",
        attachment=attachment,
        host_network=host_network,
    )
    return {name: (tmp_path / name).read_text() for name in ("hosts", "resolv.conf", "hostname")}


def test_files(tmp_path: Path) -> None:
    files = write(tmp_path)
    assert files["hostname"] == "web\n"
    assert files["hosts"].startswith("127.0.0.1\tlocalhost\n") and files["hosts"].endswith("\n10.210.0.2\tweb\n")
    assert files["resolv.conf"] == "nameserver 192.0.2.53\nsearch example.org\noptions ndots:2\n"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.is_file()} == {0o644}
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["hostname", "hosts", "resolv.conf"]


def test_mode_does_not_depend_on_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "hosts").stat().st_mode & 0o777 == 0o644


def test_written_in_the_place_of_what_is_there(tmp_path: Path) -> None:
    """The container may have it mounted by then."""
    make_files(tmp_path)
    hosts = tmp_path / "hosts"
    hosts.write_text("left by an earlier run\n" * 100)
    before = hosts.stat().st_ino
    assert "earlier" not in write(tmp_path)["hosts"]
    assert hosts.stat().st_ino == before


def test_links_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "hosts").symlink_to(victim)
    for make in (make_files, write):
        with pytest.raises(Internal, match="symbolic links"):
            make(tmp_path)
    assert victim.read_text() == "untouched"


def test_given_servers_are_taken_exactly(tmp_path: Path) -> None:
    attachment = NetworkAttachment(
        dns_servers=("127.0.0.1", "2001:db8::1"), dns_searches=("a.test", "b.test"), dns_options=("rotate", "ndots:0")
    )
    assert write(tmp_path, attachment)["resolv.conf"] == (
        "nameserver 127.0.0.1\nnameserver 2001:db8::1\nsearch a.test b.test\noptions rotate ndots:0\n"
    )


def test_no_search_domain(tmp_path: Path) -> None:
    assert "search" not in write(tmp_path, NetworkAttachment(dns_searches=(".",)))["resolv.conf"]


def test_servers_on_loopback_are_left_out(tmp_path: Path, host: Path) -> None:
    (host / "resolv.conf").write_text("nameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\nnameserver x\n")
    assert write(tmp_path)["resolv.conf"] == "nameserver 192.0.2.1\n"


def test_servers_of_the_stub_are_found_behind_it(tmp_path: Path, host: Path) -> None:
    (host / "resolv.conf").write_text("nameserver 127.0.0.53\nsearch example.org\n")
    (host / "upstream").write_text("nameserver 192.0.2.7\nsearch other.org\n")
    assert write(tmp_path)["resolv.conf"] == "nameserver 192.0.2.7\nsearch example.org\n"


def test_no_server_remains(tmp_path: Path, host: Path) -> None:
    (host / "resolv.conf").write_text("nameserver 127.0.0.53\noptions edns0\n")
    assert write(tmp_path)["resolv.conf"] == "options edns0\n"
    (host / "resolv.conf").unlink()
    assert write(tmp_path)["resolv.conf"] == ""


def test_host_network_keeps_the_hosts_names(tmp_path: Path, host: Path) -> None:
    (host / "resolv.conf").write_text("nameserver 127.0.0.53\n")
    (host / "hosts").write_text("127.0.0.1 localhost\n192.0.2.9 neighbour")
    files = write(tmp_path, NetworkAttachment(extra_hosts=("db:10.0.0.5",)), host_network=True)
    assert files["resolv.conf"] == "nameserver 127.0.0.53\n"
    assert files["hosts"] == "127.0.0.1 localhost\n192.0.2.9 neighbour\n10.0.0.5\tdb\n"


def test_extra_hosts(tmp_path: Path) -> None:
    attachment = NetworkAttachment(extra_hosts=("db:10.0.0.5", "six.test:2001:db8::5"))
    hosts = write(tmp_path, attachment)["hosts"]
    assert "\n10.0.0.5\tdb\n" in hosts and "\n2001:db8::5\tsix.test\n" in hosts


@pytest.mark.parametrize(
    "attachment",
    [
        NetworkAttachment(dns_servers=("192.0.2.1\nnameserver 192.0.2.2",)),
        NetworkAttachment(dns_servers=("fe80::1%a\nnameserver 192.0.2.2",)),
        NetworkAttachment(dns_servers=("ns.example.org",)),
        NetworkAttachment(dns_searches=("a b",)),
        NetworkAttachment(dns_searches=("a\n",)),
        NetworkAttachment(dns_searches=("a..b",)),
        NetworkAttachment(dns_options=("rotate\nnameserver 192.0.2.2",)),
        NetworkAttachment(dns_options=("rotate ",)),
        NetworkAttachment(extra_hosts=("db",)),
        NetworkAttachment(extra_hosts=("db:host",)),
        NetworkAttachment(extra_hosts=("d b:10.0.0.1",)),
        NetworkAttachment(extra_hosts=("db:10.0.0.1\n10.0.0.2 bank.example",)),
        NetworkAttachment(extra_hosts=("\n:10.0.0.1",)),
    ],
)
def test_hostile_entries_are_refused(tmp_path: Path, attachment: NetworkAttachment) -> None:
    with pytest.raises(InvalidArgument):
        write(tmp_path, attachment)
    assert not (tmp_path / "hosts").exists()


@given(st.text(max_size=20))
def test_hostname_stays_on_its_line(hostname: str) -> None:
    try:
        check(hostname, NOTHING)
    except InvalidArgument:
        return
    assert len(f"{hostname}\n".splitlines()) == 1 and not set(hostname) & set(" \t\0#")


@given(st.text("nameserver search options 127.0.0.53\n\t#", max_size=200))
def test_what_is_read_reads_the_same_again(text: str) -> None:
    once = parse_resolv(text)
    again = parse_resolv(once.text())
    assert again == Resolver(once.servers, once.searches, once.options)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(Internal, match="cannot write name files"):
        write(tmp_path / "missing")
