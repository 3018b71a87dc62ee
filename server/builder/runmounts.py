"""What `RUN --mount=…` says, read and checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from moorage.server.builder.source import Place, suggestion

Kind = Literal["bind", "cache", "tmpfs", "secret", "ssh"]

_COMMON = ("type", "target")
_KEYS: dict[str, tuple[str, ...]] = {
    "bind": (*_COMMON, "source", "from", "readonly", "readwrite"),
    "cache": (*_COMMON, "id", "sharing", "mode", "uid", "gid", "readonly", "from", "source"),
    "tmpfs": (*_COMMON, "size"),
    "secret": (*_COMMON, "id", "required", "mode", "uid", "gid", "env"),
    "ssh": (*_COMMON, "id", "required", "mode", "uid", "gid"),
}
_ALIASES = {"dst": "target", "destination": "target", "src": "source", "ro": "readonly", "rw": "readwrite"}
_MODES = {"cache": 0o755, "secret": 0o400, "ssh": 0o600}
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True)
class RunMount:
    """One mount of a RUN. `origin` is a stage, an image or a context (bind, cache), `source` a path in it; `size` in bytes, 0 for no limit.
    What is written to a bind mount that is not `read_only` is lost.

    `target` is empty for a secret that is only a variable, and for an SSH agent that may be anywhere.
    """

    kind: Kind
    target: str = ""
    source: str = ""
    origin: str = ""
    id: str = ""
    sharing: Literal["shared", "private", "locked"] = "shared"
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    read_only: bool = False
    required: bool = False
    variable: str = ""
    """Environment variable that holds a secret."""


def origin_of(text: str) -> str:
    """The `from=` of a mount as written."""
    return next((part[5:] for part in text.split(",") if part.startswith("from=")), "")


def read(text: str, place: Place, expand: Callable[[str], str]) -> RunMount:
    """`type=cache,target=/x,…`. Raises InvalidArgument with the place."""
    values: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        name = _ALIASES.get(name.lower(), name.lower())
        values[name] = (value if name == "from" else expand(value)) if equals else "true"
    kind = values.get("type", "bind")
    if kind not in _KEYS:
        raise place.error(f"RUN --mount=type={kind}: unknown type{suggestion(kind, _KEYS)}")
    for name in values:
        if name not in _KEYS[kind]:
            raise place.error(f"RUN --mount=type={kind},{name}: unknown option{suggestion(name, _KEYS[kind])}")
    return _checked(values, kind, place)


def _checked(values: dict[str, str], kind: str, place: Place) -> RunMount:
    def fail(name: str, why: str) -> Exception:
        return place.error(f"RUN --mount=type={kind},{name}={values[name]}: {why}")

    def number(name: str, base: int, default: int) -> int:
        try:
            return int(values[name], base) if name in values else default
        except ValueError:
            raise fail(name, "not a number") from None

    def flag(name: str) -> bool:
        value = values.get(name, "false").lower()
        if value not in ("true", "false", "1", "0"):
            raise fail(name, "neither true nor false")
        return value in ("true", "1")

    target, sharing = values.get("target", ""), values.get("sharing", "shared")
    if kind == "secret":
        identity = values.get("id") or target.rpartition("/")[2]
        if not identity:
            raise place.error("RUN --mount=type=secret needs an id")
        if not target and "env" not in values:
            target = f"/run/secrets/{identity}"
        values["id"] = identity
    elif kind == "ssh":
        values["id"] = values.get("id") or "default"
    elif not target:
        raise place.error(f"RUN --mount=type={kind} needs a target")
    if sharing not in ("shared", "private", "locked"):
        raise fail("sharing", "shared, private or locked")
    writable = flag("readwrite") or (kind == "bind" and "readonly" in values and not flag("readonly"))
    if kind == "cache" and "source" in values and "from" not in values:
        raise fail("source", "of what? name it with from=")
    size = values.get("size", "0").lower()
    if not size.rstrip("bkmg").isdigit() or size.lstrip("0123456789") not in _SIZES:
        raise fail("size", "not a size")
    return RunMount(
        kind=kind,  # type: ignore[arg-type]
        target=target,
        source=values.get("source", ""),
        origin=values.get("from", ""),
        id=values.get("id") or (target if kind == "cache" else ""),
        sharing=sharing,  # type: ignore[arg-type]
        mode=number("mode", 8, _MODES.get(kind, 0)),
        uid=number("uid", 10, 0),
        gid=number("gid", 10, 0),
        size=int(size.rstrip("bkmg")) * _SIZES[size.lstrip("0123456789")],
        read_only=flag("readonly") if kind != "bind" else not writable,
        required=flag("required"),
        variable=values.get("env", ""),
    )
