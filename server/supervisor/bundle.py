"""The bundle that an OCI runtime makes a container from: a directory of the pod's own,

    <container>.bundle/config.json   the config, with nothing in it that only our own libcontainer knows
                       rootfs        the root file system
                       mounts/N      what the config's mount N shows of the host, of an image, or of the pod
                       log, pid      the runtime's

All that is mounted here is mounted in the mount namespace of the process that starts the container, and ends with it: the host sees empty
directories. What the runtime is to bind it finds with its attributes set, so that read-only through and through, shifted owners
and images are what they are without any word of the runtime's.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from moorage.server.libcontainer import capabilities, rlimits, rootfs, syscalls, usernamespaces, users
from moorage.server.libcontainer.channel import Credentials
from moorage.server.libcontainer.command import environment_of
from moorage.server.libcontainer.errors import StartError, doing
from moorage.server.libcontainer.mounts import Mount
from moorage.server.libcontainer.usernamespaces import IdMaps
from moorage.server.libcontainer.validate import validate
from moorage.server.supervisor import ocimounts

SUFFIX = ".bundle"
CONFIG = "config.json"
VERSION = "1.0.2"
"""Of the runtime-spec: a bundle has nothing that is newer, and some runtimes refuse a newer one."""
ROOT = "rootfs"
MOUNTS = "mounts"


def make(
    directory: str, config: dict[str, Any], layers: Sequence[Mapping[str, Any]], pod: int, needed: Sequence[str]
) -> dict[str, Any]:
    """Make the bundle `directory`, with `layers` for its root file system, in a new mount namespace of the caller's.

    Answers its `process`, resolved. `config` is one of ours; the namespaces that the container shares are those of process
    `pod`; `needed` is what else the runtime is going to look for, by absolute paths. Raises StartError.
    """
    validate(config)
    plan = rootfs.plan(config, layers)
    with doing("make the bundle", directory):
        for path in (directory, f"{directory}/{ROOT}", f"{directory}/{MOUNTS}"):
            os.mkdir(path, 0o700)
        syscalls.unshare(syscalls.CLONE_NEWNS)
    with ExitStack() as stack:
        maps = ocimounts.user_namespaces(plan, stack)
        shift = (plan.id_maps, maps[plan.id_maps]) if plan.id_maps else None
        trees = ocimounts.show(plan, maps, shift, stack)
        # It makes the namespace private, so that what is attached from now on spreads nowhere.
        root = rootfs.mount_root(plan.layers, shift)
        stack.callback(os.close, root)
        if plan.id_maps:
            # A runtime makes the mounts from inside the user namespace, whose root is nobody outside.
            ocimounts.open_way((f"{directory}/{ROOT}", f"{directory}/{MOUNTS}"), needed)
        ocimounts.attach(root, f"{directory}/{ROOT}")
        for index, tree in trees.items():
            ocimounts.attach_anew(tree, f"{directory}/{MOUNTS}/{index}")
        process = resolved(config["process"], root)
    config = {
        **config,
        "ociVersion": VERSION,
        "process": process,
        "root": {**(config.get("root") or {}), "path": f"{directory}/{ROOT}"},
        "mounts": list(_mounts(directory, config.get("mounts") or (), plan)),
        "linux": _linux(config["linux"], plan.mounts, pod),
    }
    fd = os.open(f"{directory}/{CONFIG}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        json.dump(config, file)
    return process


def credentials(process: Mapping[str, Any]) -> Credentials:
    """Whom an OCI `process` runs as, whose user is numbers."""
    user = process["user"]
    return user["uid"], user["gid"], tuple(user["additionalGids"])


def stream_owner(process: Mapping[str, Any], linux: Mapping[str, Any]) -> int | None:
    """Whom a resolved process's pipes must belong to, or it could not open /dev/stdout again; None where the runtime sees to that, as it
    can unless it is inside a user namespace. Raises StartError.
    """
    maps = usernamespaces.parse(linux.get("uidMappings") or (), linux.get("gidMappings") or ())
    if maps is None:
        return None
    uid = process["user"]["uid"]
    try:
        return usernamespaces.outside(maps.users, uid)
    except ValueError as error:
        raise StartError(f"user {uid} cannot be had in the user namespace: {error}") from error


def remove(directory: str) -> None:
    """Delete a bundle; missing is fine. Only where nothing is mounted in it: it never goes into what could be."""
    with suppress(FileNotFoundError):
        for name in os.listdir(f"{directory}/{MOUNTS}"):
            _remove_entry(f"{directory}/{MOUNTS}/{name}")
    with suppress(FileNotFoundError):
        for name in os.listdir(directory):
            _remove_entry(f"{directory}/{name}")
        os.rmdir(directory)


def _remove_entry(path: str) -> None:
    try:
        os.unlink(path)
    except IsADirectoryError:
        os.rmdir(path)


def resolved(process: Mapping[str, Any], root: int) -> dict[str, Any]:
    """An OCI `process` whose user is numbers, as the files below the directory `root` say, and has a home, and that wants no more than it
    can have. The caller takes its standing with the out-of-memory killer. Raises StartError.
    """
    environment = environment_of(process.get("env") or ())
    user = users.resolve(root, process.get("user") or {}, want_home="HOME" not in environment)
    environment.setdefault("HOME", user.home)
    return {
        **process,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "env": [f"{name}={value}" for name, value in environment.items()],
        "oomScoreAdj": _score(process["oomScoreAdj"]),
        "rlimits": [_allowed(limit) for limit in process.get("rlimits") or ()],
    }


def _score(wanted: int) -> int:
    """What the standing is when it was asked for: a runtime fails where that cannot be had."""
    rlimits.set_oom_score_adj(wanted)
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read())


def _allowed(limit: Mapping[str, Any]) -> dict[str, Any]:
    """A limit as near to the wanted one as we may set. Raises StartError."""
    kind = getattr(resource, limit["type"], None)
    if kind is None:
        raise StartError(f"unknown resource limit {limit['type']!r}")
    soft, hard = limit["soft"], limit["hard"]
    if "CAP_SYS_RESOURCE" not in capabilities.bounding_set():
        _, most = resource.getrlimit(kind)
        soft, hard = rlimits.clamp(soft, hard, most)
    # A runtime reads them as unsigned.
    return {**limit, "soft": soft & _UNSIGNED, "hard": hard & _UNSIGNED}


def _mounts(directory: str, given: Sequence[Mapping[str, Any]], plan: rootfs.Plan) -> Iterator[Mapping[str, Any]]:
    for index, (entry, mount) in enumerate(zip(given, plan.mounts, strict=True)):
        if mount.kind not in ocimounts.SHOWN:
            yield entry if plan.id_maps is None else _inside(entry, plan.id_maps)
            continue
        source = f"{directory}/{MOUNTS}/{index}"
        propagation = _PROPAGATION.get(mount.options.propagation, "rprivate")
        yield {
            "destination": entry["destination"],
            "type": "bind",
            "source": source,
            # Some runtimes set the attributes anew in any case: they are told what is there.
            "options": ["rbind", propagation, *ocimounts.attributes(source)],
        }


def _inside(entry: Mapping[str, Any], maps: IdMaps) -> dict[str, Any]:
    """A mount that is made inside the user namespace, whose options name users and groups as they are outside."""
    return {**entry, "options": [_inside_option(option, maps) for option in entry.get("options") or ()]}


def _inside_option(option: str, maps: IdMaps) -> str:
    key, _, value = option.partition("=")
    if key not in ("uid", "gid"):
        return option
    return f"{key}={usernamespaces.inside(maps.users if key == 'uid' else maps.groups, int(value))}"


_PROPAGATION = {
    syscalls.MS_SHARED: "rshared",
    syscalls.MS_SLAVE: "rslave",
    syscalls.MS_UNBINDABLE: "runbindable",
}


def _linux(linux: Mapping[str, Any], planned: Sequence[Mount], pod: int) -> dict[str, Any]:
    """`linux` with what the container shares, and with limits for its devices only: the others are set already, where it is to run."""
    shared = [{"type": kind, "path": f"/proc/{pod}/ns/{name}"} for kind, name in _SHARED]
    found = {
        **linux,
        "namespaces": [*map(_ours, linux["namespaces"]), *shared],
        "resources": {"devices": (linux.get("resources") or {}).get("devices") or [_ALL_DEVICES]},
    }
    spreads = {mount.options.propagation for mount in planned if mount.kind == "bind"}
    for propagation in (syscalls.MS_SHARED, syscalls.MS_SLAVE):
        if propagation in spreads and not linux.get("rootfsPropagation"):
            # Else a runtime takes all mounts of its namespace out of their peer groups before it binds one.
            return {**found, "rootfsPropagation": _PROPAGATION[propagation]}
    return found


def _ours(space: Mapping[str, Any]) -> Mapping[str, Any]:
    """A namespace that a descriptor of ours is open for, by a path that is not another one in the runtime."""
    path = space.get("path") or ""
    if not path.startswith(_SELF):
        return space
    return {**space, "path": f"/proc/{os.getpid()}/{path.removeprefix(_SELF)}"}


_SELF = "/proc/self/"
_UNSIGNED = (1 << 64) - 1
_SHARED = (("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
_ALL_DEVICES = {"allow": True, "access": "rwm"}
