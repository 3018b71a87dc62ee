"""The mounts and devices of an OCI config: Docker's defaults, and what was asked for on top."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moorage.server.errors import InvalidArgument
from moorage.server.graph.drivers.base import RootfsMount
from moorage.server.model import ContainerConfig, Device, IdMap, Mount, PodConfig

# The container has its own of these.
NOT_HOST_DEVICES = frozenset({"console", "fd", "mqueue", "ptmx", "pts", "shm"})

TTY_GROUP = 5


def build(
    config: ContainerConfig,
    files: Mapping[str, str],
    pod: PodConfig | None,
    images: Sequence[Sequence[RootfsMount]],
) -> list[dict[str, Any]]:
    """The defaults, then what was asked for with the outer before the inner; what was asked for takes a default's place.

    `files` are bound at their targets, read-only if the root file system is, `images` shown by the mounts of that kind, in their order.
    """
    asked = config.mounts
    targets = {os.path.normpath(mount.target) for mount in asked}
    hidden = {*targets, *(each["destination"] for each in DEFAULT_MOUNTS if _is_below(each["destination"], targets))}
    defaults = [
        _default(each, config.security.privileged, pod) for each in DEFAULT_MOUNTS if each["destination"] not in hidden
    ]
    bound = [_file(target, source, config, pod) for target, source in files.items() if target not in targets]
    views = iter(images)
    own = [_image(mount, next(views)) if mount.kind == "image" else _mount(mount, pod is not None) for mount in asked]
    return defaults + sorted(bound + own, key=lambda each: each["destination"].count("/"))


def _is_below(path: str, directories: set[str]) -> bool:
    return any(path.startswith(f"{directory}/") for directory in directories)


def _entry(destination: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source or kind, "options": list(options)}


DEFAULT_MOUNTS = (
    _entry("/proc", "proc", "nosuid", "noexec", "nodev"),
    _entry("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    _entry("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    _entry("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k", source="shm"),
    _entry("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    _entry("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    _entry("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro"),
)


def _default(entry: Mapping[str, Any], privileged: bool, pod: PodConfig | None) -> dict[str, Any]:
    options = [option for option in entry["options"] if not (privileged and option == "ro")]
    destination = entry["destination"]
    if pod is not None and pod.users:
        options = [option for option in options if option != f"gid={TTY_GROUP}"] + _owner(destination, pod)
    if destination == "/dev/shm" and pod is not None and pod.ipc == "host":
        return _bind(destination, destination)
    return {**entry, "options": options}


def _owner(destination: str, pod: PodConfig) -> list[str]:
    """A file system that is mounted from outside a user namespace belongs to nobody inside, unless it is told to."""
    groups = pod.groups_map or pod.users
    if destination == "/dev":
        return [f"uid={host_id(pod.users, 0)}", f"gid={host_id(groups, 0)}"]
    if destination == "/dev/pts":
        return [f"gid={host_id(groups, TTY_GROUP)}"]
    return []


def host_id(maps: Sequence[IdMap], number: int) -> int:
    """What an ID inside a user namespace is outside; that of root where it is not mapped."""
    for each in maps:
        if each.container <= number < each.container + each.length:
            return each.host + number - each.container
    return host_id(maps, 0) if number else 0


def id_mappings(maps: Sequence[IdMap]) -> list[dict[str, int]]:
    """In OCI's shape."""
    return [{"containerID": each.container, "hostID": each.host, "size": each.length} for each in maps]


def _bind(target: str, source: str, *options: str) -> dict[str, Any]:
    return _entry(target, "bind", "rbind", *(options or ("rprivate",)), source=source)


def _file(target: str, source: str, config: ContainerConfig, pod: PodConfig | None) -> dict[str, Any]:
    """One that we made, for the container's root to change unless its root file system is read-only."""
    bound = _bind(target, source, "rprivate", *(["ro"] if config.read_only else []))
    if pod is not None and pod.users:
        bound |= {
            "uidMappings": id_mappings(pod.users),
            "gidMappings": id_mappings(pod.groups_map or pod.users),
        }
    return bound


def _mount(mount: Mount, shared: bool) -> dict[str, Any]:
    """Of a container that shares a pod only the mount itself is read-only, unless more is asked for."""
    target = os.path.normpath(mount.target)
    read_only = ["ro"] if mount.read_only else []
    if mount.kind == "bind":
        # Also what is mounted below the source is read-only then, not only the source.
        deep = ["rro"] if mount.recursive_read_only or (mount.read_only and not shared) else []
        bound = _bind(target, mount.source, mount.propagation or "rprivate", *read_only, *deep)
        if mount.id_map:
            bound["uidMappings"] = bound["gidMappings"] = id_mappings(mount.id_map)
        return bound
    size = [f"size={mount.size}"] if mount.size else []
    return _entry(target, "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", *size, *read_only)


def _image(mount: Mount, view: Sequence[RootfsMount]) -> dict[str, Any]:
    """Not of OCI: `layers` are the mounts that show an image, of which the directory `subPath` is bound."""
    return {
        "destination": os.path.normpath(mount.target),
        "type": "image",
        "layers": mount_tables(view),
        "subPath": mount.sub_path,
    }


def mount_tables(mounts: Iterable[RootfsMount]) -> list[dict[str, Any]]:
    """The mounts of a root file system, as exec drivers take them."""
    return [{"type": each.type, "source": each.source, "options": list(each.options)} for each in mounts]


def devices(asked: Sequence[Device]) -> list[tuple[dict[str, Any], str]]:
    """OCI `linux.devices` for host devices, each with how it may be used; a directory stands for all that are in it.

    Raises InvalidArgument.
    """
    found: list[tuple[dict[str, Any], str]] = []
    for device in asked:
        if os.path.isdir(device.source):
            for each in host_devices(Path(device.source)):
                path = device.target + each["path"].removeprefix(device.source)
                found.append(({**each, "path": path}, device.permissions))
            continue
        try:
            status = os.stat(device.source)
        except OSError as error:
            raise InvalidArgument(f"device {device.source}: {error.strerror}", field="devices") from error
        node = _node(device.target, status)
        if node is None:
            raise InvalidArgument(f"{device.source} is not a device", field="devices")
        found.append((node, device.permissions or "rwm"))
    return found


def host_devices(directory: Path) -> Iterator[dict[str, Any]]:
    """OCI `linux.devices` for every device node below a directory of the host's."""
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.name in NOT_HOST_DEVICES:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from host_devices(directory / entry.name)
        elif (node := _node(entry.path, entry.stat(follow_symlinks=False))) is not None:
            yield node


def _node(path: str, status: os.stat_result) -> dict[str, Any] | None:
    """None for what is no device."""
    kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return {
        "path": path,
        "type": kind,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
