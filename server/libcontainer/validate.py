"""What is wrong with an OCI config, or cannot be had here, said before anything is made."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from moorage.server.libcontainer.errors import StartError

_UNSUPPORTED = (
    "hooks",
    "linux.timeOffsets",
    "linux.intelRdt",
    "linux.personality",
    "linux.mountLabel",
    "linux.netDevices",
)
_UNSUPPORTED_IN_PROCESS = ("scheduler", "ioPriority", "execCPUAffinity")


def validate(config: Mapping[str, Any]) -> None:
    """Check an OCI config. Raises StartError: what would be left out silently is refused."""
    for path in _UNSUPPORTED:
        if _at(config, path):
            raise StartError(f"config: {path} is not supported", stage="config", path=path)
    linux = config.get("linux") or {}
    joined = any(each["type"] == "user" and each.get("path") for each in linux.get("namespaces") or ())
    if linux.get("uidMappings") and not joined:
        raise StartError("config: linux.uidMappings needs a user namespace to join", stage="config")
    for mount in config.get("mounts") or ():
        if mount.get("uidMappings") and not {"bind", "rbind"} & {mount.get("type"), *(mount.get("options") or ())}:
            problem = "config: mounts: only a bind mount can have its IDs mapped"
            raise StartError(problem, stage="config", path=mount["destination"])
        if not posixpath.isabs(mount.get("destination") or ""):
            raise StartError(f"config: mount destination {mount.get('destination')!r} is not absolute", stage="config")
    if not isinstance(config.get("process"), Mapping):
        raise StartError("config: there is no process", stage="config")
    validate_process(config["process"])


def validate_process(process: Mapping[str, Any]) -> None:
    """Check an OCI `process`. Raises StartError."""
    for name in _UNSUPPORTED_IN_PROCESS:
        if process.get(name):
            raise StartError(f"process: {name} is not supported", stage="config", path=name)
    arguments = process.get("args") or ()
    if not arguments or not arguments[0]:
        raise StartError("process: there is no command", stage="config")
    if any("\0" in text for text in (*arguments, *(process.get("env") or ()))):
        raise StartError("process: an argument or variable has a NUL character in it", stage="config")
    if not posixpath.isabs(process.get("cwd") or "/"):
        raise StartError(f"process: working directory {process['cwd']!r} is not absolute", stage="config")


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
