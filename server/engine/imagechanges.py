"""Changes of an image's config, as lines of a Dockerfile: what `commit --change` and `import --change` take."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from moorage.server.errors import InvalidArgument

_LINE = re.compile(r"\s*([A-Za-z]+)(?:\s+(.*))?", re.DOTALL)


def apply(config: dict[str, Any], changes: Sequence[str]) -> None:
    """Apply the lines to a config's "config" object. Raises InvalidArgument naming the line (from 1) and what is wrong."""
    for number, line in enumerate(changes, 1):
        matched = _LINE.fullmatch(line)
        name = matched[1].upper() if matched else ""
        rest = (matched[2] or "").strip() if matched else ""
        instruction = _INSTRUCTIONS.get(name)
        if instruction is None:
            known = ", ".join(_INSTRUCTIONS)
            raise _wrong(number, line, f"no such instruction: there are {known}")
        if not rest:
            raise _wrong(number, line, f"{name} needs a value")
        try:
            instruction(config, rest)
        except ValueError as error:
            raise _wrong(number, line, str(error)) from None


def _wrong(number: int, line: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"change {number} ({line[:60]!r}): {why}", reason="INVALID_CHANGE", field="changes")


def _command(text: str) -> list[str]:
    """The exec form, a JSON list of strings, or a line for the shell."""
    if text.startswith("["):
        try:
            return msgspec.json.decode(text, type=list[str])
        except msgspec.MsgspecError:
            raise ValueError(f"{text} is no JSON list of strings") from None
    return ["/bin/sh", "-c", text]


def _list(text: str) -> list[str]:
    return _command(text) if text.startswith("[") else text.split()


def _pairs(text: str) -> list[tuple[str, str]]:
    """`NAME=value …`, or the old `NAME value`."""
    words = shlex.split(text)
    if "=" not in words[0]:
        name, _, value = text.partition(" ")
        if not value:
            raise ValueError(f"{name} has no value: write {name}=value")
        return [(name, value.strip())]
    pairs = [word.partition("=") for word in words]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise ValueError(f"{name!r} is not of the form NAME=value")
    return [(name, value) for name, _, value in pairs]


def _cmd(config: dict[str, Any], text: str) -> None:
    config["Cmd"] = _command(text)


def _entrypoint(config: dict[str, Any], text: str) -> None:
    config["Entrypoint"] = _command(text)


def _env(config: dict[str, Any], text: str) -> None:
    variables = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
    variables |= dict(_pairs(text))
    config["Env"] = [f"{name}={value}" for name, value in variables.items()]


def _label(config: dict[str, Any], text: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **dict(_pairs(text))}


def _expose(config: dict[str, Any], text: str) -> None:
    ports: dict[str, Any] = {port if "/" in port else f"{port}/tcp": {} for port in text.split()}
    config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **ports}


def _volume(config: dict[str, Any], text: str) -> None:
    config["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in _list(text)}}


def _onbuild(config: dict[str, Any], text: str) -> None:
    config["OnBuild"] = [*(config.get("OnBuild") or ()), text]


def _plain(member: str) -> Callable[[dict[str, Any], str], None]:
    def change(config: dict[str, Any], text: str) -> None:
        config[member] = text

    return change


_INSTRUCTIONS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _plain("StopSignal"),
    "USER": _plain("User"),
    "VOLUME": _volume,
    "WORKDIR": _plain("WorkingDir"),
}
