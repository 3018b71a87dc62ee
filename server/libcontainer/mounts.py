"""Mounts of an OCI config as data: what is to be mounted where, and with which attributes. Nothing is executed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from moorage.server.libcontainer import syscalls
from moorage.server.libcontainer.errors import StartError
from moorage.server.libcontainer.paths import clean
from moorage.server.libcontainer.usernamespaces import IdMaps
from moorage.server.libcontainer.usernamespaces import parse as parse_id_maps

_ATTRIBUTES = {
    "ro": syscalls.MOUNT_ATTR_RDONLY,
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
    "noatime": syscalls.MOUNT_ATTR_NOATIME,
    "strictatime": syscalls.MOUNT_ATTR_STRICTATIME,
    "nodiratime": syscalls.MOUNT_ATTR_NODIRATIME,
    "nosymfollow": syscalls.MOUNT_ATTR_NOSYMFOLLOW,
    "relatime": 0,
}
_OPPOSITES = {
    "rw": "ro",
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "atime": "noatime",
    "diratime": "nodiratime",
    "symfollow": "nosymfollow",
    "norelatime": "relatime",
    "nostrictatime": "strictatime",
}
_PROPAGATION = {
    "private": syscalls.MS_PRIVATE,
    "slave": syscalls.MS_SLAVE,
    "shared": syscalls.MS_SHARED,
    "unbindable": syscalls.MS_UNBINDABLE,
}
_MEANINGLESS = ("defaults", "async", "nomand", "mand", "silent", "loud", "nolazytime", "z", "Z")

_PROC_FILES = frozenset(
    "/proc/" + name
    for name in (
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/kernel/ns_last_pid",
        "uptime",
    )
)
"""What may be covered by a mount below /proc: files that tell of resources, as LXCFS gives them."""


class MountOptions(NamedTuple):
    """The options of a mount, taken apart.

    `attributes` (MOUNT_ATTR_…) are set on the mount itself, `recursive_attributes` on those below it, too. `propagation` is MS_PRIVATE
    and so on, or 0. `parameters` are for the file system: (key, value), value None for a flag.
    """

    attributes: int = 0
    recursive_attributes: int = 0
    propagation: int = 0
    bind: bool = False
    recursive: bool = False
    parameters: tuple[tuple[str, str | None], ...] = ()


class Mount(NamedTuple):
    """One mount: `kind` is a file system type, `bind`, or `cgroup` (the process's own control groups, read-only or not).

    Two kinds are not OCI's: `tree` attaches the detached mount that is open as descriptor `source`; `image` binds, read-only, the
    directory `sub_path` of what the mounts `layers` show. `id_maps` shifts the owners that a bind mount shows.
    """

    destination: str
    kind: str
    source: str
    options: MountOptions
    id_maps: IdMaps | None = None
    layers: tuple[Mapping[str, Any], ...] = ()
    sub_path: str = ""


def parse_options(options: Iterable[str]) -> MountOptions:
    """Take OCI mount options apart. Later ones override earlier ones, as in fstab."""
    plain: dict[str, int] = {}
    deep: dict[str, int] = {}
    propagation, bind, recursive = 0, False, False
    parameters: list[tuple[str, str | None]] = []
    for option in options:
        if option in ("bind", "rbind"):
            bind, recursive = True, option == "rbind"
        elif option in _PROPAGATION or (option[1:] in _PROPAGATION and option[0] == "r"):
            propagation = _PROPAGATION.get(option) or _PROPAGATION[option[1:]]
        elif _attribute(option, plain) or (option[:1] == "r" and _attribute(option[1:], deep)):
            continue
        elif option not in _MEANINGLESS:
            key, separator, value = option.partition("=")
            parameters.append((key, value if separator else None))
    return MountOptions(_union(plain), _union(deep), propagation, bind, recursive, tuple(parameters))


def _attribute(option: str, into: dict[str, int]) -> bool:
    if option in _ATTRIBUTES:
        into[option] = _ATTRIBUTES[option]
    elif option in _OPPOSITES:
        into.pop(_OPPOSITES[option], None)
    else:
        return False
    return True


def _union(attributes: Mapping[str, int]) -> int:
    result = 0
    for value in attributes.values():
        result |= value
    return result


def plan(mounts: Sequence[Mapping[str, Any]]) -> list[Mount]:
    """The mounts of OCI `config.mounts`, in order. Raises StartError for what is refused."""
    return [_mount(mount) for mount in mounts]


def _mount(mount: Mapping[str, Any]) -> Mount:
    options = parse_options(mount.get("options") or ())
    destination = clean(mount["destination"])
    source = mount.get("source") or ""
    kind = "bind" if options.bind else mount.get("type") or "bind"
    if kind == "cgroup2":
        kind = "cgroup"
    _check(destination, kind, source, options)
    id_maps = parse_id_maps(mount.get("uidMappings") or (), mount.get("gidMappings") or ())
    layers = tuple(mount.get("layers") or ())
    return Mount(destination, kind, source, options, id_maps, layers, mount.get("subPath") or "")


def _check(destination: str, kind: str, source: str, options: MountOptions) -> None:
    if destination == "/":
        raise _refused(destination, "the root directory cannot be mounted over")
    if destination == "/proc" and kind not in ("proc", "bind"):
        raise _refused(destination, f"only proc may be mounted there, not {kind}")
    if destination.startswith("/proc/") and destination not in _PROC_FILES:
        raise _refused(destination, "nothing may be mounted inside /proc")
    if kind == "bind":
        _check_bind(destination, source, options)
    if kind == "tree" and not source.isdecimal():
        raise _refused(destination, f"{source!r} is no descriptor")


def _check_bind(destination: str, source: str, options: MountOptions) -> None:
    if not source.startswith("/"):
        raise _refused(destination, f"source {source!r} is not an absolute path")
    if options.parameters:
        raise _refused(destination, f"unknown option {options.parameters[0][0]!r}")


def _refused(destination: str, why: str) -> StartError:
    return StartError(f"cannot mount at {destination}: {why}", path=destination)
