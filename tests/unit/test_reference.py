"""Image references: the grammar, its normal form, and messages that say where it breaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.errors import InvalidArgument
from moorage.server.registry.reference import Reference, is_digest, parse, parse_digest

SHA = "sha256:" + "a" * 64
SHA512 = "sha512:" + "0f" * 64


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("alpine", "docker.io/library/alpine", "alpine"),
        ("alpine:3.19", "docker.io/library/alpine:3.19", "alpine:3.19"),
        ("team/app", "docker.io/team/app", "team/app"),
        ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("index.docker.io/alpine", "docker.io/library/alpine", "alpine"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("[::1]:5000/app:1", "[::1]:5000/app:1", "[::1]:5000/app:1"),
        ("[2001:db8::1]/app", "[2001:db8::1]/app", "[2001:db8::1]/app"),
        ("127.0.0.1:80/a/b/c", "127.0.0.1:80/a/b/c", "127.0.0.1:80/a/b/c"),
        ("Host/app", "Host/app", "Host/app"),
        (f"app@{SHA}", f"docker.io/library/app@{SHA}", f"app@{SHA}"),
        (f"registry.example/a-b__c.d:T_1@{SHA512}",) + (f"registry.example/a-b__c.d:T_1@{SHA512}",) * 2,
        ("docker.io/foo.bar/baz", "docker.io/foo.bar/baz", "docker.io/foo.bar/baz"),
    ],
)
def test_normal_form(text: str, canonical: str, familiar: str) -> None:
    reference = parse(text)
    assert (str(reference), reference.familiar()) == (canonical, familiar)


def test_parts_and_default_tag() -> None:
    reference = parse("registry.example:5000/team/app")
    assert reference == Reference("registry.example:5000", "team/app", "", "")
    assert (reference.repository, reference.target) == ("registry.example:5000/team/app", "latest")
    assert str(reference.with_default_tag()) == "registry.example:5000/team/app:latest"
    pinned = parse(f"team/app:1@{SHA}")
    assert pinned.with_default_tag() is pinned
    assert pinned.target == SHA


@pytest.mark.parametrize(
    ("text", "cause", "position"),
    [
        ("", "empty", None),
        ("Alpine", "lower case", 1),
        ("team/Ap", "lower case", 6),
        ("a..b", "single", 2),
        ("a//b", "component of the name is empty", 3),
        ("a/", "component of the name is empty", 3),
        ("/a", "component of the name is empty", 1),
        ("-a", "may hold only", 1),
        ("a b", "may hold only", 2),
        ("a\n", "may hold only", 2),
        ("../etc", "not a part of a host name", 1),
        ("a/../b", "may hold only", 3),
        ("http://h/a", "port", 6),
        ("h.x:70000/a", "port", 5),
        ("h.x:/a", "port", 5),
        ("h.x:\u0665/a", "port", 5),
        ("[::g]/a", "not an IPv6 address", 2),
        ("[fe80::1%eth0]/a", "not an IPv6 address", 2),
        ("[::1/a", "not an IPv6 address", 1),
        ("[::1]x/a", "not an IPv6 address", 1),
        ("-h.x/a", "host name", 1),
        ("a:", "tag after ':' is empty", 3),
        ("a:-x", "tag", 3),
        ("a:x y", "tag", 4),
        ("a:" + "x" * 129, "longer than 128", 3),
        ("a@", "neither sha256", 3),
        ("a@md5:00", "neither sha256", 3),
        ("a@sha256:../../etc/passwd", "something else", 10),
        ("a@sha256:" + "A" * 64, "lower-case hex", 10),
        ("a@sha256:abc", "64 hex digits, not 3", 10),
        (f"a@{SHA}@{SHA}", "something else", 74),
        ("b" * 64, "image ID", 1),
        ("a/" + "b" * 254, "longer than 255", 1),
    ],
)
def test_malformed(text: str, cause: str, position: int | None) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert cause in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.metadata.get("position") == (None if position is None else str(position))


def test_message_of_a_long_reference_is_short() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse("A" * 1_000_000)
    assert len(caught.value.message) < 400


def test_digests() -> None:
    assert is_digest(SHA)
    assert is_digest(SHA512)
    assert parse_digest(SHA) == SHA
    for text in ("", "sha256:", "sha256:../", SHA + "\n", SHA[:-1], "sha1:" + "a" * 40, "SHA256:" + "a" * 64):
        assert not is_digest(text)
        with pytest.raises(InvalidArgument):
            parse_digest(text)


_components = st.from_regex(r"[a-z0-9]{1,8}((\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
_paths = st.lists(_components, min_size=1, max_size=4).map("/".join)
_labels = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,6}[A-Za-z0-9])?", fullmatch=True)
_ports = st.one_of(st.just(""), st.integers(1, 65535).map(lambda port: f":{port}"))
_hosts = st.one_of(
    st.lists(_labels, min_size=2, max_size=4).map(".".join),
    st.just("localhost"),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
_domains = st.one_of(st.just("docker.io/"), st.builds(lambda host, port: f"{host}{port}/", _hosts, _ports))
_tags = st.one_of(st.just(""), st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True))
_digests = st.one_of(
    st.just(""),
    st.binary(min_size=32, max_size=32).map(lambda raw: f"@sha256:{raw.hex()}"),
    st.binary(min_size=64, max_size=64).map(lambda raw: f"@sha512:{raw.hex()}"),
)
_references = st.builds(lambda *parts: "".join(parts), _domains, _paths, _tags, _digests)


@given(_references)
def test_round_trips(text: str) -> None:
    reference = parse(text)
    assert parse(str(reference)) == reference
    assert parse(reference.familiar()) == reference


@given(st.text(alphabet=st.sampled_from("aA0.:/@-_[]%\n sha256é"), max_size=40))
def test_anything_else_is_refused_or_stable(text: str) -> None:
    try:
        reference = parse(text)
    except InvalidArgument as error:
        assert error.message.startswith("invalid reference")
    else:
        assert parse(str(reference)) == reference
