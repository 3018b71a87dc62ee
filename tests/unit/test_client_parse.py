"""What people type at the command line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.client import parse
from moorage.v1 import image_pb2, runtime_pb2

PORTS = st.integers(1, 65535)
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":,"), min_size=1, max_size=12)

PARSERS: list[Callable[[str], Any]] = [
    parse.size,
    parse.size_or_unlimited,
    parse.cpus,
    parse.duration,
    parse.moment,
    parse.port,
    parse.published,
    parse.container_port,
    parse.volume,
    parse.tmpfs,
    parse.ulimit,
    parse.host_entry,
    parse.platform,
    parse.detach_keys,
    lambda text: parse.environment([text], {}),
    lambda text: parse.labels([text]),
    lambda text: parse.filters([text]),
    lambda text: parse.security_options([text], runtime_pb2.Security()),
]


@pytest.mark.parametrize("parser", PARSERS)
@given(text=st.one_of(st.text(max_size=30), st.from_regex(r"[-0-9a-z:/.,=\[\]%+]{0,20}", fullmatch=True)))
def test_any_text_is_read_or_refused(parser: Callable[[str], Any], text: str) -> None:
    try:
        parser(text)
    except ValueError as error:
        assert str(error)


@given(st.integers(0, parse.INT64_MAX))
def test_plain_sizes_are_exact(count: int) -> None:
    assert parse.size(str(count)) == parse.size(f"{count}b") == count


@given(st.integers(0, 7), st.sampled_from([("k", 10), ("m", 20), ("g", 30), ("t", 40), ("p", 50), ("e", 60)]))
def test_units_are_powers_of_1024(count: int, unit: tuple[str, int]) -> None:
    name, power = unit
    for spelling in (name, name.upper(), f"{name}b", f"{name.upper()}iB", f" {name}"):
        assert parse.size(f"{count}{spelling}") == count << power


def test_sizes() -> None:
    assert parse.size("1.5g") == 3 << 29
    assert parse.size_or_unlimited("-1") == -1
    for wrong in ("", "m", "-1", "1x", "1mm", "1e3", "0x10", "8192p", "8e", "١m"):
        with pytest.raises(ValueError):
            parse.size(wrong)


@given(st.integers(1, 10**15))
def test_cpus_are_exact_to_the_billionth(nanos: int) -> None:
    assert parse.cpus(f"{nanos // 10**9}.{nanos % 10**9:09}") == nanos


@pytest.mark.parametrize("wrong", ["", "0", "-1", "nan", "inf", "half", "1e-10", "1e30"])
def test_cpus_that_make_no_sense(wrong: str) -> None:
    with pytest.raises(ValueError):
        parse.cpus(wrong)


@given(PORTS, PORTS, st.sampled_from(["", "/tcp", "/udp", "/TCP"]))
def test_a_port_pair(host: int, container: int, protocol: str) -> None:
    kind = runtime_pb2.PROTOCOL_UDP if "udp" in protocol else runtime_pb2.PROTOCOL_TCP
    expected = runtime_pb2.PortMapping(host_port=host, container_port=container, protocol=kind)
    assert parse.published(f"{host}:{container}{protocol}") == [expected]


@given(st.ip_addresses(), PORTS, PORTS)
def test_a_port_at_an_address(address: Any, host: int, container: int) -> None:
    text = f"[{address}]" if address.version == 6 else str(address)
    (mapping,) = parse.published(f"{text}:{host}:{container}")
    assert (mapping.host_ip, mapping.host_port, mapping.container_port) == (str(address), host, container)
    (mapping,) = parse.published(f"{text}::{container}")
    assert (mapping.host_ip, mapping.host_port, mapping.container_port) == (str(address), 0, container)


@given(st.integers(1, 65000), st.integers(1, 65000), st.integers(0, 200))
def test_port_ranges_run_side_by_side(host: int, container: int, more: int) -> None:
    mappings = parse.published(f"{host}-{host + more}:{container}-{container + more}/udp")
    assert [(each.host_port, each.container_port) for each in mappings] == [
        (host + offset, container + offset) for offset in range(more + 1)
    ]


def test_ports_without_host_port() -> None:
    assert [(each.host_port, each.container_port) for each in parse.published("80-81")] == [(0, 80), (0, 81)]


@pytest.mark.parametrize(
    "wrong",
    ["", "0:80", "80:65536", "80:", "1:2:3", "nowhere:1:2", "80-81:80", "81-80:81-80", "80/sctp", "80/", "+1:1"],
)
def test_ports_that_make_no_sense(wrong: str) -> None:
    with pytest.raises(ValueError):
        parse.published(wrong)


def test_container_ports() -> None:
    assert parse.container_port("80") == (80, "tcp")
    assert parse.container_port("53/udp") == (53, "udp")
    with pytest.raises(ValueError):
        parse.container_port("53/")


@given(WORDS, WORDS, st.sampled_from(["", "ro", "rw", "ro,rslave", "private"]))
def test_volumes(source: str, target: str, options: str) -> None:
    suffix = f":{options}" if options else ""
    mount = parse.volume(f"/{source}:/{target}{suffix}")
    assert (mount.kind, mount.source, mount.target) == (runtime_pb2.Mount.KIND_BIND, f"/{source}", f"/{target}")
    assert mount.read_only == ("ro" in options.split(","))
    assert mount.propagation == {"ro,rslave": "rslave", "private": "private"}.get(options, "")


def test_a_relative_volume_is_below_this_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse.volume("./data:/data").source == f"{tmp_path}/data"


@pytest.mark.parametrize("wrong", ["", "/a", "/a:", "/a:b", "name:/b", ":/b", "/a:/b:rx", "/a:/b:ro:z"])
def test_volumes_that_make_no_sense(wrong: str) -> None:
    with pytest.raises(ValueError):
        parse.volume(wrong)


def test_tmpfs() -> None:
    assert parse.tmpfs("/run:size=64k,ro") == runtime_pb2.Mount(
        kind=runtime_pb2.Mount.KIND_TMPFS, target="/run", size_bytes=64 << 10, read_only=True
    )
    for wrong in ("run", "/run:size", "/run:exec"):
        with pytest.raises(ValueError):
            parse.tmpfs(wrong)


@given(st.integers(0, parse.INT64_MAX), st.integers(0, parse.INT64_MAX))
def test_ulimits(one: int, other: int) -> None:
    soft, hard = sorted((one, other))
    assert parse.ulimit(f"nofile={soft}:{hard}") == runtime_pb2.Rlimit(name="nofile", soft=soft, hard=hard)
    if soft != hard:
        with pytest.raises(ValueError):
            parse.ulimit(f"nofile={hard}:{soft}")


def test_ulimits_without_limit() -> None:
    assert parse.ulimit("core=unlimited") == runtime_pb2.Rlimit(name="core", soft=-1, hard=-1)
    assert parse.ulimit("nproc=5:-1") == runtime_pb2.Rlimit(name="nproc", soft=5, hard=-1)
    for wrong in ("nofile", "nofile=", "nofile=1:", "files=1", "nofile=-1:5", "nofile=-2"):
        with pytest.raises(ValueError):
            parse.ulimit(wrong)


@given(st.dictionaries(WORDS.filter(lambda word: "=" not in word), WORDS))
def test_environment_takes_values_from_here(environ: dict[str, str]) -> None:
    entries = [f"{key}={value}" for key, value in environ.items()]
    assert parse.environment(entries, {}) == entries
    assert parse.environment(environ, environ) == entries
    assert parse.environment(environ, {}) == []


def test_env_files(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# no\n\nA=1 # kept\n  B=2\nC\n")
    assert parse.env_file(str(tmp_path / "env")) == ["A=1 # kept", "B=2", "C"]
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for wrong in ("missing", "bytes"):
        with pytest.raises(ValueError, match="cannot read env file"):
            parse.env_file(str(tmp_path / wrong))


def test_labels_and_filters() -> None:
    assert parse.labels(["a=b", "c", "d=e=f"]) == {"a": "b", "c": "", "d": "e=f"}
    assert parse.filters(["label=a=b"]) == [("label", "a=b")]
    for wrong in ("=b", ""):
        with pytest.raises(ValueError):
            parse.labels([wrong])
    with pytest.raises(ValueError):
        parse.filters(["name"])


@given(WORDS, st.ip_addresses())
def test_host_entries(name: str, address: Any) -> None:
    assert parse.host_entry(f"{name}:{address}") == f"{name}:{address}"


def test_platforms() -> None:
    assert parse.platform("linux/arm64/v8") == image_pb2.Platform(os="linux", architecture="arm64", variant="v8")
    for wrong in ("linux", "linux/", "a/b/c/d"):
        with pytest.raises(ValueError):
            parse.platform(wrong)


def test_security_options(tmp_path: Path) -> None:
    security = runtime_pb2.Security()
    parse.security_options(["no-new-privileges:false", "seccomp=unconfined"], security)
    assert security == runtime_pb2.Security(allow_new_privileges=True, seccomp_profile="unconfined")
    parse.security_options(
        ["no-new-privileges", f"seccomp={tmp_path / 'p'}"] if tmp_path.joinpath("p").write_text("{}") else [], security
    )
    assert security == runtime_pb2.Security(seccomp_profile="{}")
    for wrong in ("seccomp", "seccomp=/does/not/exist", "no-new-privileges=maybe", "label=disable"):
        with pytest.raises(ValueError):
            parse.security_options([wrong], security)


@given(st.floats(0.001, 10**6))
def test_durations_in_seconds(seconds: float) -> None:
    assert abs(parse.duration(f"{seconds:.3f}").total_seconds() - seconds) <= 0.001


def test_durations() -> None:
    assert parse.duration("1h30m") == timedelta(minutes=90)
    assert parse.duration("250ms") == timedelta(milliseconds=250)
    assert parse.duration("2d") == timedelta(days=2)
    for wrong in ("", "soon", "1x", "1h 30m", "-1s", "9" * 30):
        with pytest.raises(ValueError):
            parse.duration(wrong)


def test_moments() -> None:
    now = datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert parse.moment("10m", now) == now - timedelta(minutes=10)
    assert parse.moment("0s", now) == now
    assert parse.moment("2024-05-01T12:00:00Z") == parse.moment("2024-05-01T14:00:00+02:00") == now
    assert parse.moment(str(int(now.timestamp()))) == now
    assert parse.moment("2024-05-01T12:00:00").astimezone().replace(tzinfo=None) == datetime(2024, 5, 1, 12)
    for wrong in ("", "yesterday", "2024-13-01", "9" * 40, "99999999999999d"):
        with pytest.raises(ValueError):
            parse.moment(wrong)


def test_detach_keys() -> None:
    assert parse.detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse.detach_keys("ctrl-@,ctrl-[,a,ctrl-_") == b"\x00\x1ba\x1f"
    assert parse.detach_keys("") == b""
    for wrong in ("ctrl-", "ctrl-1", "ab", "é", "a,,b"):
        with pytest.raises(ValueError):
            parse.detach_keys(wrong)


def test_storage_options() -> None:
    assert parse.storage_options([]) == 0
    assert parse.storage_options(["size=10g"]) == 10 << 30
    for wrong in ("inodes=5", "size", "size=much", "=1"):
        with pytest.raises(ValueError, match=r"storage option|malformed size"):
            parse.storage_options([wrong])
