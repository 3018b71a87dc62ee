"""CNI: network configuration lists, and the calling of plugins. See the CNI specification 1.1.0, sections 1 to 4.

A list is a JSON file of the configuration directory; the first one by name that is one counts, as for every Kubernetes runtime. A plugin
is a program that gets its command in the environment and its configuration on stdin, and answers on stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moorage.server.errors import DeadlineExceeded, FailedPrecondition, Internal, MoorageError, Unavailable

SUFFIXES = (".conflist", ".conf", ".json")
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Oldest first."""
SECONDS = 60.0
"""How long a plugin may take."""
STATUS_SECONDS = 10.0
"""How long it may take to say whether it is ready."""

TRY_AGAIN = 11
INVALID = range(1, 8)
"""Error codes of the specification, section 5: something is not as the plugin needs it."""

Json = dict[str, Any]


@dataclass(frozen=True)
class NetworkList:
    """One network: its plugins in the order in which they add to it."""

    name: str
    version: str
    plugins: tuple[Json, ...]
    path: str = ""
    collect: bool = True
    """Whether GC is allowed: nobody else's attachments are to this network."""

    @classmethod
    def parse(cls, text: str, path: str) -> NetworkList:
        """Of a list's or a single plugin's file. Raises FailedPrecondition."""
        try:
            content = json.loads(text)
            single = "plugins" not in content
            plugins = tuple(dict(plugin) for plugin in ([content] if single else content["plugins"]))
            collect = str(content.get("disableGC", False)).lower() != "true"
            found = cls(str(content["name"]), _version(content), plugins, path, collect)
            wrong = "" if found.plugins and all(plugin.get("type") for plugin in plugins) else "a plugin has no type"
        except (ValueError, KeyError, TypeError) as error:
            raise FailedPrecondition(f"CNI configuration {path} is not valid: {error}", path=path) from error
        if found.version not in VERSIONS:
            wrong = f"version {found.version} is none of {', '.join(VERSIONS)}"
        if wrong:
            raise FailedPrecondition(f"CNI configuration {path} is not valid: {wrong}", path=path)
        return found

    def text(self) -> str:
        """What `parse` takes."""
        return json.dumps({"name": self.name, "cniVersion": self.version, "plugins": self.plugins})

    def has_status_and_gc(self) -> bool:
        """Whether its plugins know these two commands."""
        return VERSIONS.index(self.version) >= VERSIONS.index("1.1.0")

    def can(self, capability: str) -> bool:
        """Whether a plugin takes this part of `runtimeConfig`."""
        return any(plugin.get("capabilities", {}).get(capability) for plugin in self.plugins)


def _version(content: Json) -> str:
    """The newest of those that it offers and we know, or else the one that it names."""
    named = str(content.get("cniVersion", "0.1.0"))
    offered = (named, *content.get("cniVersions", ()))
    return next((version for version in reversed(VERSIONS) if version in offered), named)


def load(directory: str) -> NetworkList:
    """The network that pods join. Raises FailedPrecondition when there is none."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIXES))
    except OSError as error:
        names = []
        why = f"cannot read {directory}: {(error.strerror or str(error)).lower()}"
    else:
        why = f"no network configuration in {directory}"
    if not names:
        hint = "a CNI network plugin puts a .conflist there; [network] cni_conf_dir says where to look"
        raise FailedPrecondition(f"there is no CNI network: {why}", hint=hint, path=directory)
    path = Path(directory, names[0])
    return NetworkList.parse(path.read_text(), str(path))


@dataclass(frozen=True)
class Call:
    """What all plugins of one attachment are told. `netns` is a path, empty when the namespace is gone; `args` is CNI_ARGS."""

    container_id: str
    netns: str
    interface: str
    args: str
    capabilities: Mapping[str, Any]
    """`runtimeConfig` by capability."""


def run(
    network: NetworkList, index: int, command: str, call: Call, previous: Json | None, bin_dirs: Sequence[str]
) -> Json | None:
    """Have plugin `index` of the list do ADD or DEL, and answer its result. Raises FailedPrecondition, Unavailable, Internal."""
    plugin = network.plugins[index]
    wanted = {name: value for name, value in call.capabilities.items() if plugin.get("capabilities", {}).get(name)}
    config: Json = {"runtimeConfig": wanted} if wanted else {}
    if previous is not None:
        config["prevResult"] = previous
    environment = {
        "CNI_CONTAINERID": call.container_id,
        "CNI_NETNS": call.netns,
        "CNI_IFNAME": call.interface,
        "CNI_ARGS": call.args,
    }
    return _execute(network, plugin, command, environment, config, bin_dirs, SECONDS)


def check_status(network: NetworkList, bin_dirs: Sequence[str]) -> None:
    """Ask every plugin whether it is ready for an ADD (STATUS). Raises what the first that is not fails with."""
    for plugin in network.plugins:
        _execute(network, plugin, "STATUS", {}, {}, bin_dirs, STATUS_SECONDS)


def collect(network: NetworkList, plugin: Json, valid: Sequence[Json], bin_dirs: Sequence[str]) -> None:
    """Have a plugin give back what it keeps for any but the `valid` attachments (GC). Raises as `run`."""
    # The specification's own name for them, and the one that its text first had.
    config = {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}
    _execute(network, plugin, "GC", {}, config, bin_dirs, SECONDS)


def _execute(
    network: NetworkList,
    plugin: Json,
    command: str,
    environment: Mapping[str, str],
    config: Json,
    bin_dirs: Sequence[str],
    seconds: float,
) -> Json | None:
    kind = str(plugin["type"])
    program = find(kind, bin_dirs)
    told = {**plugin, "name": network.name, "cniVersion": network.version, **config}
    paths = {"PATH": os.environ.get("PATH", os.defpath), "CNI_PATH": ":".join(bin_dirs)}
    try:
        done = subprocess.run(
            [program],
            env={**paths, "CNI_COMMAND": command, **environment},
            input=json.dumps(told).encode(),
            capture_output=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"CNI plugin {kind} has not answered {command} in {seconds:.0f} s") from error
    except OSError as error:
        raise FailedPrecondition(f"cannot execute CNI plugin {program}: {error.strerror}", path=program) from error
    if done.returncode:
        raise _error(kind, command, done.stdout, done.stderr)
    try:
        return dict(json.loads(done.stdout)) if done.stdout.strip() else None
    except ValueError as error:
        raise Internal(f"CNI plugin {kind} answers {command} with what is not JSON: {error}") from error


def find(kind: str, directories: Sequence[str]) -> str:
    """The path of a plugin. Raises FailedPrecondition when it is in none of the directories."""
    if "/" not in kind:
        for directory in directories:
            if os.access(f"{directory}/{kind}", os.X_OK):
                return f"{directory}/{kind}"
    raise FailedPrecondition(
        f"there is no CNI plugin {kind} in {', '.join(directories)}",
        hint="install it there, or say with [network] cni_bin_dirs where it is",
        plugin=kind,
    )


def _error(kind: str, command: str, stdout: bytes, stderr: bytes) -> MoorageError:
    try:
        answer = json.loads(stdout)
        code, text = int(answer["code"]), ": ".join(filter(None, (answer.get("msg"), answer.get("details"))))
    except (ValueError, KeyError, TypeError):
        code, text = 0, (stderr or stdout).decode(errors="replace").strip()
    message = f"CNI plugin {kind} fails on {command}: {text or 'without a word'}"
    if code == TRY_AGAIN:
        return Unavailable(message, plugin=kind)
    return FailedPrecondition(message, plugin=kind) if code in INVALID else Internal(message, plugin=kind)
