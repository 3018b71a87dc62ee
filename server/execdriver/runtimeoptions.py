"""OCI runtimes beside our own, as the daemon's configuration names them.

[runtimes.runc]                      # a runtime handler of Kubernetes' too, and of `moorage run --runtime`
path = "/usr/sbin/runc"
root = ""                            # where it keeps its state; empty: with the pod's own, gone with it
args = []                            # of its own, in front of every command
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moorage.server.errors import InvalidArgument

NATIVE_RUNTIME = "moorage"
"""What our own way to make a container is called, where OCI runtimes can be chosen too."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class OciRuntime:
    """One of the configuration's `[runtimes.<name>]`."""

    name: str
    path: str
    root: str = ""
    args: tuple[str, ...] = ()

    def message(self, pod: Path) -> dict[str, Any]:
        """As a supervisor is told it, for the pod of that directory."""
        root = self.root or os.fspath(pod / "oci")
        return {"name": self.name, "path": self.path, "root": root, "args": list(self.args)}


def from_toml(table: object) -> tuple[OciRuntime, ...]:
    """The configuration's `[runtimes]`. Raises InvalidArgument."""
    if not isinstance(table, dict):
        raise InvalidArgument("[runtimes] must be a table of tables")
    return tuple(_runtime(name, settings) for name, settings in table.items())


def _runtime(name: str, settings: object) -> OciRuntime:
    where = f"[runtimes.{name}]"
    if not _NAME.fullmatch(name) or name == NATIVE_RUNTIME:
        raise InvalidArgument(f"{where}: no runtime can have that name", hint="letters, digits, - _ and ., not moorage")
    if not isinstance(settings, dict):
        raise InvalidArgument(f"{where} must be a table")
    unknown = settings.keys() - {"path", "root", "args"}
    if unknown:
        raise InvalidArgument(f"{where}: unknown key {sorted(unknown)[0]!r}", hint="known keys: args, path, root")
    path, root, args = settings.get("path"), settings.get("root", ""), settings.get("args", [])
    if not isinstance(path, str) or not path.startswith("/"):
        raise InvalidArgument(f"{where}: path must be the absolute path of the runtime's binary, not {path!r}")
    if not isinstance(root, str) or (root and not root.startswith("/")):
        raise InvalidArgument(f"{where}: root must be an absolute path, not {root!r}")
    if not isinstance(args, list) or not all(isinstance(each, str) for each in args):
        raise InvalidArgument(f"{where}: args must be a list of strings")
    return OciRuntime(name, path, root, tuple(args))
