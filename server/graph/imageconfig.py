"""An image's config (OCI image spec, config.md), read strictly: it is input from strangers that becomes part of containers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import msgspec

from moorage.server.errors import InvalidArgument, ResourceExhausted
from moorage.server.graph.content import DIGEST
from moorage.server.model import ImageConfig, Platform

MAX_CONFIG = 4 << 20
MAX_ID = (1 << 32) - 2
RESERVED_LABELS = "moorage."
"""Labels with this prefix are ours to set; an image's are left out."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PORT = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?", re.ASCII)


class _Config(msgspec.Struct, rename="pascal"):
    user: str | None = None
    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str | None = None
    exposed_ports: dict[str, dict[str, str]] | None = None
    volumes: dict[str, dict[str, str]] | None = None
    stop_signal: str | None = None
    labels: dict[str, str] | None = None


class _RootFS(msgspec.Struct):
    type: str
    diff_ids: list[str] | None = None


class _Document(msgspec.Struct):
    architecture: str
    os: str
    rootfs: _RootFS
    created: str | None = None
    variant: str | None = None
    config: _Config | None = None


class ParsedConfig(msgspec.Struct, frozen=True):
    """What the graph keeps of it."""

    created_ns: int
    platform: Platform
    config: ImageConfig
    diff_ids: tuple[str, ...]


def parse(data: bytes) -> ParsedConfig:
    """Read a config. Raises InvalidArgument naming the member that is wrong, ResourceExhausted above 4 MiB."""
    if len(data) > MAX_CONFIG:
        raise ResourceExhausted(f"image config of {len(data)} bytes is larger than {MAX_CONFIG}")
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _wrong(str(error)) from None
    if document.rootfs.type != "layers":
        raise _wrong(f"rootfs.type is {document.rootfs.type[:40]!r}, not layers")
    diff_ids = tuple(document.rootfs.diff_ids or ())
    for diff_id in diff_ids:
        if not DIGEST.fullmatch(diff_id):
            raise _wrong(f"diff ID {diff_id[:100]!r} is malformed")
    platform = Platform(document.os, document.architecture, document.variant or "")
    for name, value in vars(platform).items():
        _plain(name, value)
    return ParsedConfig(created_ns(document.created), platform, _inherited(document.config or _Config()), diff_ids)


def _inherited(config: _Config) -> ImageConfig:
    _no_nul("Entrypoint", config.entrypoint or ())
    _no_nul("Cmd", config.cmd or ())
    ports, volumes = tuple(config.exposed_ports or ()), tuple(config.volumes or ())
    for port in ports:
        if not _PORT.fullmatch(port):
            raise _wrong(f"exposed port {port[:40]!r} is malformed")
    for volume in volumes:
        _plain("Volumes", volume)
        if not volume.startswith("/") or ".." in volume.split("/"):
            raise _wrong(f"volume {volume[:100]!r} is not an absolute path")
    return ImageConfig(
        user=_user(config.user or ""),
        env=_environment(config.env or ()),
        entrypoint=tuple(config.entrypoint or ()),
        command=tuple(config.cmd or ()),
        working_dir=_plain("WorkingDir", config.working_dir or ""),
        exposed_ports=ports,
        volumes=volumes,
        stop_signal=_plain("StopSignal", config.stop_signal or ""),
        labels=_labels(config.labels or {}),
    )


def _user(user: str) -> str:
    """`user[:group]`, names or numbers. A number beyond 32 bits would be another user once cut off."""
    for part in _plain("User", user).split(":"):
        if part.lstrip("+-").isdecimal() and (not part.isdecimal() or int(part) > MAX_ID):
            raise _wrong(f"there is no user or group {part[:40]!r}")
    return user


def _environment(env: Iterable[str]) -> tuple[str, ...]:
    """`NAME=value`. A value may go over several lines, as certificates do; a name may not."""
    variables = tuple(env)
    _no_nul("Env", variables)
    for variable in variables:
        name, equals, _ = variable.partition("=")
        if not name or not equals or _CONTROL.search(name):
            raise _wrong(f"environment variable {variable[:40]!r} is malformed")
    return variables


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key in labels:
        _plain("Labels", key)
    _no_nul("Labels", labels.values())
    return {key: value for key, value in labels.items() if not key.startswith(RESERVED_LABELS)}


def _plain(member: str, text: str) -> str:
    """Text of one line."""
    if _CONTROL.search(text):
        raise _wrong(f"{member} {text[:40]!r} has a control character in it")
    return text


def _no_nul(member: str, texts: Iterable[str]) -> None:
    for text in texts:
        if "\0" in text:
            raise _wrong(f"{member} {text[:40]!r} has a NUL in it")


def created_ns(text: str | None) -> int:
    """RFC 3339 to nanoseconds since the epoch; 0 without, and for Go's year 1."""
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _wrong(f"created {text[:40]!r} is not a time") from None
    if moment.tzinfo is None:
        raise _wrong(f"created {text[:40]!r} has no time zone")
    return max(0, (moment - _EPOCH) // timedelta(microseconds=1) * 1000)


def _wrong(reason: str) -> InvalidArgument:
    return InvalidArgument(f"image config is malformed: {reason}", reason="MALFORMED_CONFIG")
