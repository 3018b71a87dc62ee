"""What people type, as data: sizes, ports, mounts, environment, limits, times.

Every parser takes text, answers a value or a message of `moorage.v1`, and raises ValueError that says what is wrong
with the text. The messages are imported when first needed, so that the command line starts fast.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moorage.v1 import image_pb2, runtime_pb2

INT64_MAX = (1 << 63) - 1

_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([bkmgtpe]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_RLIMITS = frozenset(
    {"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio"}
    | {"rttime", "sigpending", "stack"}
)
_PROPAGATIONS = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})


def size(text: str) -> int:
    """Bytes: `32m`, `1.5g`, `512k`, `1GiB`, `4096`. Units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"malformed size {text!r}: want a number with b, k, m, g, t, p or e, such as 32m")
    value = int(Decimal(match[1]) * (1 << _UNITS[match[2].lower()]))
    if value > INT64_MAX:
        raise ValueError(f"size {text!r} is too large")
    return value


def size_or_unlimited(text: str) -> int:
    """As `size`, or -1 for no limit."""
    return -1 if text.strip() in ("-1", "unlimited") else size(text)


def cpus(text: str) -> int:
    """Billionths of a CPU: `0.5` is 500000000."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"malformed number of CPUs {text!r}: want such as 0.5") from None
    if not value.is_finite() or not 0 < value <= 1 << 20:
        raise ValueError(f"number of CPUs {text!r} is out of range")
    nanos = value.scaleb(9)
    if nanos != nanos.to_integral_value():
        raise ValueError(f"number of CPUs {text!r} is finer than a billionth")
    return int(nanos)


def duration(text: str) -> timedelta:
    """`90s`, `1h30m`, `250ms`, `2d`; a bare number is seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        text += "s"
    if not text or _DURATION.sub("", text):
        raise ValueError(f"malformed duration {text!r}: want such as 90s or 1h30m")
    try:
        return timedelta(seconds=float(sum(Decimal(n) * _SECONDS[unit] for n, unit in _DURATION.findall(text))))
    except OverflowError:
        raise ValueError(f"duration {text!r} is too long") from None


def moment(text: str, now: datetime | None = None) -> datetime:
    """A time: RFC 3339 (`2024-05-01T12:00:00Z`; local time without zone), seconds since 1970, or a duration ago
    (`10m`).
    """
    now = now or datetime.now(UTC)
    try:
        if re.fullmatch(r"\d{9,}(\.\d+)?", text, re.ASCII):
            return datetime.fromtimestamp(float(text), UTC)
        if _DURATION.match(text):
            return now - duration(text)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"malformed time {text!r}: want such as 2024-05-01T12:00:00Z, 1714564800 or 10m") from None


def port(text: str) -> int:
    """A port, 1 to 65535."""
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise ValueError(f"malformed port {text!r}: want a number from 1 to 65535")
    return int(text)


def _port_range(text: str) -> range:
    first, dash, last = text.partition("-")
    ports = range(port(first), port(last if dash else first) + 1)
    if not ports:
        raise ValueError(f"port range {text!r} ends before it begins")
    return ports


def published(text: str) -> list[runtime_pb2.PortMapping]:
    """`[[ip:]host:]container[/proto]`, where host and container may be ranges; without host port a free one is
    chosen.
    """
    from moorage.v1 import runtime_pb2

    address, slash, protocol = text.partition("/")
    if slash and protocol.lower() not in ("tcp", "udp"):
        raise ValueError(f"unknown protocol {protocol!r} in {text!r}: want tcp or udp")
    kind = runtime_pb2.PROTOCOL_UDP if protocol.lower() == "udp" else runtime_pb2.PROTOCOL_TCP
    host_ip, host, container = _split_published(address)
    inner = _port_range(container)
    outer: Iterable[int] = _port_range(host) if host else [0] * len(inner)
    if host and len(_port_range(host)) != len(inner):
        raise ValueError(f"port ranges of {text!r} differ in length")
    return [
        runtime_pb2.PortMapping(host_ip=host_ip, host_port=left, container_port=right, protocol=kind)
        for left, right in zip(outer, inner, strict=True)
    ]


def _split_published(address: str) -> tuple[str, str, str]:
    """Host address (empty for any), host port(s) (empty for free ones) and container port(s)."""
    head, _, container = address.rpartition(":")
    host_ip, colon, host = head.rpartition(":")
    if not colon:
        return "", host, container
    if host_ip.startswith("[") and host_ip.endswith("]"):
        host_ip = host_ip[1:-1]
    try:
        return str(ipaddress.ip_address(host_ip)), host, container
    except ValueError:
        raise ValueError(f"malformed address {host_ip!r} in {address!r}") from None


def container_port(text: str) -> tuple[int, str]:
    """`80` or `53/udp`: the port and its protocol."""
    number, slash, protocol = text.partition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise ValueError(f"unknown protocol {protocol!r}: want tcp or udp")
    return port(number), protocol or "tcp"


def volume(text: str) -> runtime_pb2.Mount:
    """`host:container[:options]`, options being `ro`, `rw` or a propagation such as `rslave`.

    `./x` is below this directory.
    """
    from moorage.v1 import runtime_pb2

    source, colon, rest = text.partition(":")
    target, _, options = rest.partition(":")
    if not colon or not target.startswith("/"):
        raise ValueError(f"malformed volume {text!r}: want /host/path:/container/path[:ro]")
    if source.startswith("."):
        source = str(Path(source).absolute())
    if not source.startswith("/"):
        raise ValueError(f"volume source {source!r} is not a path: want /absolute or ./relative")
    mount = runtime_pb2.Mount(kind=runtime_pb2.Mount.KIND_BIND, source=source, target=target)
    for option in filter(None, options.split(",")):
        if option in _PROPAGATIONS:
            mount.propagation = option
        elif option in ("ro", "rw"):
            mount.read_only = option == "ro"
        else:
            raise ValueError(f"unknown option {option!r} in volume {text!r}: want ro, rw or a propagation")
    return mount


def tmpfs(text: str) -> runtime_pb2.Mount:
    """`/path[:size=64m,ro]`."""
    from moorage.v1 import runtime_pb2

    target, _, options = text.partition(":")
    if not target.startswith("/"):
        raise ValueError(f"malformed tmpfs {text!r}: want /path[:size=64m]")
    mount = runtime_pb2.Mount(kind=runtime_pb2.Mount.KIND_TMPFS, target=target)
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key == "size":
            mount.size_bytes = size(value)
        elif option in ("ro", "rw"):
            mount.read_only = option == "ro"
        else:
            raise ValueError(f"unknown option {option!r} in tmpfs {text!r}: want size=BYTES, ro or rw")
    return mount


def ulimit(text: str) -> runtime_pb2.Rlimit:
    """`nofile=1024[:2048]`: soft and hard limit; -1 or `unlimited` for none."""
    from moorage.v1 import runtime_pb2

    name, equals, limits = text.partition("=")
    if name not in _RLIMITS or not equals:
        raise ValueError(f"malformed ulimit {text!r}: want name=soft[:hard], such as nofile=1024:2048")
    soft, colon, hard = limits.partition(":")
    rlimit = runtime_pb2.Rlimit(name=name, soft=_limit(soft), hard=_limit(hard if colon else soft))
    if rlimit.hard != -1 and (rlimit.soft == -1 or rlimit.soft > rlimit.hard):
        raise ValueError(f"soft limit of {text!r} is above the hard limit")
    return rlimit


def _limit(text: str) -> int:
    if text in ("-1", "unlimited"):
        return -1
    if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) > INT64_MAX:
        raise ValueError(f"malformed limit {text!r}: want a number, -1 or unlimited")
    return int(text)


def environment(entries: Iterable[str], environ: Mapping[str, str] | None = None) -> list[str]:
    """`KEY=value` as it is, `KEY` with its value here (left out when it has none)."""
    environ = os.environ if environ is None else environ
    found = []
    for entry in entries:
        key, equals, _ = entry.partition("=")
        if not key or "\0" in entry:
            raise ValueError(f"malformed environment entry {entry!r}: want KEY=value or KEY")
        if equals:
            found.append(entry)
        elif key in environ:
            found.append(f"{key}={environ[key]}")
    return found


def env_file(path: str) -> list[str]:
    """The entries of a file: one a line, `#` begins a comment line, blank lines are nothing."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"cannot read env file {path}: {cause}") from None
    return [line.lstrip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def labels(entries: Iterable[str]) -> dict[str, str]:
    """`key=value`, or `key` for an empty value."""
    return dict(_key_values(entries, "label"))


def annotation_pairs(entries: Iterable[str]) -> dict[str, str]:
    """`key=value`, each with a value, if an empty one."""
    for entry in entries:
        if "=" not in entry:
            raise ValueError(f"malformed annotation {entry!r}: want key=value")
    return dict(_key_values(entries, "annotation"))


def filters(entries: Iterable[str]) -> list[tuple[str, str]]:
    """`key=value`, each with a value."""
    pairs = list(_key_values(entries, "filter"))
    for key, value in pairs:
        if not value:
            raise ValueError(f"malformed filter {key!r}: want key=value")
    return pairs


def _key_values(entries: Iterable[str], what: str) -> Iterator[tuple[str, str]]:
    for entry in entries:
        key, _, value = entry.partition("=")
        if not key:
            raise ValueError(f"malformed {what} {entry!r}: want key=value")
        yield key, value


def host_entry(text: str) -> str:
    """`name:address`, as --add-host takes it."""
    name, _, address = text.partition(":")
    try:
        if name:
            return f"{name}:{ipaddress.ip_address(address.strip('[]'))}"
    except ValueError:
        pass
    raise ValueError(f"malformed host entry {text!r}: want name:address")


def platform(text: str) -> image_pb2.Platform:
    """`linux/amd64` or `linux/arm64/v8`."""
    from moorage.v1 import image_pb2

    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ValueError(f"malformed platform {text!r}: want os/architecture[/variant], such as linux/arm64/v8")
    return image_pb2.Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else "")


def storage_options(entries: Iterable[str]) -> int:
    """The size in bytes that `size=10g` asks for; 0 without one."""
    found = 0
    for key, value in _key_values(entries, "storage option"):
        if key != "size":
            raise ValueError(f"unknown storage option {key!r}: want size=SIZE, such as size=10g")
        found = size(value)
    return found


def security_options(entries: Iterable[str], security: runtime_pb2.Security) -> None:
    """Apply `no-new-privileges[=true|false]` and `seccomp=default|unconfined|FILE` to `security`."""
    for entry in entries:
        key, separator, value = re.fullmatch(r"([a-z-]*)([=:]?)(.*)", entry, re.DOTALL).groups()  # type: ignore[union-attr]
        if key == "no-new-privileges" and value in (("true", "false") if separator else ("",)):
            security.allow_new_privileges = value == "false"
        elif key == "seccomp" and value:
            security.seccomp_profile = value if value in ("default", "unconfined") else _read_profile(value)
        else:
            raise ValueError(
                f"unknown security option {entry!r}: want no-new-privileges[=false] or seccomp=default|unconfined|FILE"
            )


def _read_profile(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"cannot read seccomp profile {path}: {cause}") from None


def detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q`: the bytes that leave an attached terminal; empty for none."""
    return bytes(map(_key, text.split(","))) if text else b""


def _key(text: str) -> int:
    name = text.removeprefix("ctrl-")
    if len(name) == 1 and name.isascii():
        if name == text and name.isprintable():
            return ord(name)
        if name != text and (name.isalpha() or name in "@[\\]^_"):
            return ord(name.upper()) & 0x1F
    raise ValueError(f"malformed detach key {text!r}: want a character or ctrl- and a letter or one of @[\\]^_")
