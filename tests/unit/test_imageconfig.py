"""Image configs: what is taken over, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.errors import InvalidArgument, MoorageError, ResourceExhausted
from moorage.server.graph.imageconfig import MAX_CONFIG, parse
from moorage.server.model import ImageConfig, Platform

DIFF_ID = f"sha256:{'a' * 64}"


def document(config: dict[str, Any] | None = None, **members: Any) -> bytes:
    base: dict[str, Any] = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]}}
    if config is not None:
        base["config"] = config
    return json.dumps(base | members).encode()


def test_all_members() -> None:
    parsed = parse(
        document(
            {
                "User": "1000:www",
                "Env": ["PATH=/bin", "CERT=-----BEGIN\nabc\n", "EMPTY="],
                "Entrypoint": ["/entry"],
                "Cmd": ["a", "b c"],
                "WorkingDir": "/srv",
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000-8010": {}},
                "Volumes": {"/data": {}},
                "StopSignal": "SIGQUIT",
                "Labels": {"a": "b", "moorage.owner": "forged"},
                "Healthcheck": {"Test": ["NONE"]},
            },
            created="2024-05-06T07:08:09.123456789Z",
            variant="v2",
            history=[{"created_by": "x"}],
        )
    )
    assert parsed.config == ImageConfig(
        user="1000:www",
        env=("PATH=/bin", "CERT=-----BEGIN\nabc\n", "EMPTY="),
        entrypoint=("/entry",),
        command=("a", "b c"),
        working_dir="/srv",
        exposed_ports=("80/tcp", "53/udp", "8000-8010"),
        volumes=("/data",),
        stop_signal="SIGQUIT",
        labels={"a": "b"},
    )
    assert parsed.platform == Platform("linux", "amd64", "v2")
    assert parsed.diff_ids == (DIFF_ID,)
    assert parsed.created_ns == 1_714_979_289_123_456_000


@pytest.mark.parametrize(
    "config", [None, {}, dict.fromkeys(("User", "Env", "Entrypoint", "Cmd", "WorkingDir", "Volumes", "Labels"))]
)
def test_nothing_given_is_nothing_set(config: dict[str, Any] | None) -> None:
    parsed = parse(document(config))
    assert parsed.config == ImageConfig()
    assert parsed.created_ns == 0


@pytest.mark.parametrize(
    ("created", "expected"), [("0001-01-01T00:00:00Z", 0), ("1970-01-01T01:00:01+01:00", 10**9), (None, 0)]
)
def test_created(created: str | None, expected: int) -> None:
    assert parse(document(created=created)).created_ns == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"User": "root\nroot"}, "User 'root\\\\nroot' has a control character"),
        ({"User": "4294967296"}, "there is no user or group '4294967296'"),
        ({"User": "0:99999999999"}, "there is no user or group"),
        ({"User": "-1"}, "there is no user or group '-1'"),
        ({"Env": ["A=b\0c"]}, "Env .* has a NUL"),
        ({"Env": ["A\nB=c"]}, "environment variable .* is malformed"),
        ({"Env": ["=c"]}, "environment variable .* is malformed"),
        ({"Env": ["NOVALUE"]}, "environment variable .* is malformed"),
        ({"Env": "A=b"}, r"Expected `array.*`, got `str`.*\$\.config\.Env"),
        ({"Cmd": ["a\0"]}, "Cmd .* has a NUL"),
        ({"Entrypoint": [1]}, r"\$\.config\.Entrypoint"),
        ({"WorkingDir": "/a\n"}, "WorkingDir .* has a control character"),
        ({"ExposedPorts": {"80/tcp\n": {}}}, "exposed port .* is malformed"),
        ({"Volumes": {"../../etc": {}}}, "is not an absolute path"),
        ({"Volumes": {"/a/../../etc": {}}}, "is not an absolute path"),
        ({"StopSignal": "TERM\0"}, "StopSignal .* has a control character"),
        ({"Labels": {"a\nb": "c"}}, "Labels .* has a control character"),
        ({"Labels": {"a": "c\0"}}, "Labels .* has a NUL"),
    ],
)
def test_bad_configs_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        parse(document(config))


@pytest.mark.parametrize(
    "members",
    [
        {"rootfs": {"type": "other", "diff_ids": []}},
        {"rootfs": {"type": "layers", "diff_ids": ["sha256:../x"]}},
        {"rootfs": None},
        {"os": 1},
        {"os": "lin\nux"},
        {"created": "yesterday"},
        {"created": "2024-05-06T07:08:09"},
    ],
)
def test_bad_documents_are_refused(members: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument, match="image config is malformed"):
        parse(document(**members))


def test_a_large_config_is_refused_unread() -> None:
    with pytest.raises(ResourceExhausted, match=f"larger than {MAX_CONFIG}"):
        parse(b"{" * (MAX_CONFIG + 1))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        parse(b'{"x":' + b"[" * 1_000_000)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner)).map(
        lambda value: document(config={"Env": value, "User": value})
    )
)
def test_garbage_is_refused_in_kind(data: bytes) -> None:
    try:
        parse(data)
    except MoorageError as error:
        assert error.message.startswith("image config")
