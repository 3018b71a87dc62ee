"""A container's root file system, built of detached mounts and entered in a mount namespace of its own.

What it shows of the host is opened and copied in the host's mount namespace, while any propagation can be had; nothing is mounted
there. Then an empty namespace is entered (emptyroom.py), with the root file system for its root, and all that follows can reach the
container's files only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from moorage.server.libcontainer import cgroupfs, devices, emptyroom, syscalls
from moorage.server.libcontainer.errors import StartError, doing
from moorage.server.libcontainer.mounts import Mount, MountOptions, parse_options
from moorage.server.libcontainer.mounts import plan as plan_mounts
from moorage.server.libcontainer.paths import clean, open_directory, open_file, open_in_root
from moorage.server.libcontainer.usernamespaces import IdMaps
from moorage.server.libcontainer.usernamespaces import parse as parse_id_maps

_STAGING = "/sys"
"""Where the root file system is mounted for a moment: any directory that every machine has, for only this namespace sees it covered."""

_MOST_DETACHED = 50
"""Lower directories of an overlay that is made by fsconfig(2), which takes values of 255 bytes: five for each."""

_OVERLAY_DIRECTORIES = ("lowerdir", "upperdir", "workdir")
_IMAGE_ATTRIBUTES = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_ORDINARY_PROPAGATION = syscalls.MS_REC | syscalls.MS_PRIVATE


class Layer(NamedTuple):
    """One of the mounts that make a root file system; `kind` is a file system type or `bind`."""

    kind: str
    source: str
    options: MountOptions


class Plan(NamedTuple):
    """What `enter` and `seal` do, read from a config beforehand: in the parent, for a child pays for each page that it touches first."""

    layers: Sequence[Layer]
    mounts: Sequence[Mount]
    propagation: int
    devices: Sequence[Mapping[str, Any]]
    read_only_paths: Sequence[str]
    masked_paths: Sequence[str]
    read_only: bool
    id_maps: IdMaps | None = None
    """By which the owners of the image's files are shifted."""

    def all_id_maps(self) -> set[IdMaps]:
        """Every mapping that a mount is to be shown by."""
        return {maps for maps in (self.id_maps, *(mount.id_maps for mount in self.mounts)) if maps is not None}


Users = Mapping[IdMaps, int]
"""An open user namespace for each mapping."""

Shift = tuple[IdMaps, int]
"""A mapping with its open user namespace."""


def plan(config: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> Plan:
    """Take the parts of an OCI config that concern the root file system apart. `layers` as in `process.start`. Raises StartError."""
    linux = config.get("linux") or {}
    return Plan(
        layers=plan_layers(layers),
        mounts=plan_mounts(config.get("mounts") or ()),
        propagation=parse_options([linux.get("rootfsPropagation") or "private"]).propagation,
        devices=linux.get("devices") or (),
        read_only_paths=[clean(path) for path in linux.get("readonlyPaths") or ()],
        masked_paths=[clean(path) for path in linux.get("maskedPaths") or ()],
        read_only=bool((config.get("root") or {}).get("readonly")),
        id_maps=parse_id_maps(linux.get("uidMappings") or (), linux.get("gidMappings") or ()),
    )


def plan_layers(layers: Sequence[Mapping[str, Any]]) -> list[Layer]:
    """The mounts of a root file system. Raises StartError when there are none."""
    if not layers:
        raise StartError("there is no root file system to mount")
    planned = []
    for layer in layers:
        options = parse_options(layer.get("options") or ())
        kind = "bind" if options.bind else layer["type"]
        planned.append(Layer(kind, layer.get("source") or kind, options))
    return planned


def enter(plan: Plan, room: int, stack: ExitStack, users: Users) -> int:
    """Build the root file system and enter it, in the empty mount namespace `room`; its root directory as O_PATH.

    Still to be done once the console is there: `seal`. The umask is 0. `stack` closes descriptors. Raises StartError.
    """
    with ExitStack() as sources:
        if not _can_stay_detached(plan):
            with doing("copy the mount namespace"):
                syscalls.unshare(syscalls.CLONE_NEWNS)
        binds = {
            index: clone_bind(mount, sources, users) for index, mount in enumerate(plan.mounts) if mount.kind == "bind"
        }
        cgroups = cgroupfs.clone_trees(sources) if any(mount.kind == "cgroup" for mount in plan.mounts) else {}
        shift = (plan.id_maps, users[plan.id_maps]) if plan.id_maps else None
        for index, mount in enumerate(plan.mounts):
            if mount.kind == "image":
                binds[index] = show_image(mount, shift, sources)
        root = _root_tree(plan.layers, shift, stack)
        _move_in(room, root, plan.propagation)
        for index, mount in enumerate(plan.mounts):
            if index in binds:
                _attach_bind(root, mount, binds[index])
            elif mount.kind == "tree":
                _attach_bind(root, mount, int(mount.source))
            elif mount.kind == "cgroup":
                _attach_cgroups(root, mount, cgroups)
            else:
                _attach_new(root, mount)
    if not any(mount.destination == "/dev" and mount.kind == "bind" for mount in plan.mounts):
        devices.populate(root, plan.devices)
    return root


def _can_stay_detached(plan: Plan) -> bool:
    """Whether nothing has to be mounted on the way."""
    return _is_one_tree(plan.layers) and not any(mount.kind == "image" for mount in plan.mounts)


def _is_one_tree(layers: Sequence[Layer]) -> bool:
    return len(layers) == 1 and _is_detachable(layers[0])


def _root_tree(layers: Sequence[Layer], shift: Shift | None, stack: ExitStack) -> int:
    """The root file system as a detached tree; `stack` closes it."""
    if _is_one_tree(layers):
        return _detached(layers[0], shift, stack)
    root = mount_root(layers, shift)
    stack.callback(os.close, root)
    with doing("copy the mount of the root file system"):
        tree = syscalls.open_tree(root, "", recursive=True)
    stack.callback(os.close, tree)
    return tree


def _move_in(room: int, root: int, propagation: int) -> None:
    with doing("change the root directory"):
        emptyroom.enter(room, root)
    if propagation != syscalls.MS_PRIVATE:
        with doing("set the propagation of", "/"):
            syscalls.mount_setattr(root, 0, propagation=propagation, recursive=True)


def mount_root(layers: Sequence[Layer], shift: Shift | None = None) -> int:
    """Make the caller's mount namespace private and mount a root file system in it; its root directory as O_PATH.

    The namespace is the caller's own: what was at /sys is covered there. With `shift` the files have the owners that the user namespace
    gives them. Raises StartError.
    """
    with ExitStack() as stack:
        trees = [_detached(layer, shift, stack) if _is_detachable(layer) else None for layer in layers]
        with doing("make private", "/"):
            syscalls.set_propagation("/", _ORDINARY_PROPAGATION)
        for layer, tree in zip(layers, trees, strict=True):
            if tree is None:
                _mount_overlay(layer, shift)
            else:
                _attach_layer(layer, tree)
    return os.open(_STAGING, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def show_image(mount: Mount, shift: Shift | None, stack: ExitStack) -> int:
    """A detached mount of a directory of an image. What was mounted for it on the way is gone again."""
    with (
        doing(f"mount at {mount.destination}: cannot show of the image", f"/{mount.sub_path}"),
        shown_directory(plan_layers(mount.layers), mount.sub_path, shift) as directory,
    ):
        tree = syscalls.open_tree(directory, "", recursive=False)
        stack.callback(os.close, tree)
        syscalls.mount_setattr(tree, _IMAGE_ATTRIBUTES, propagation=syscalls.MS_PRIVATE, recursive=False)
    return tree


@contextmanager
def shown_directory(layers: Sequence[Layer], path: str, shift: Shift | None = None) -> Iterator[int]:
    """A directory of what the layers show, as O_PATH; `path` is confined to that. Mounted, as by `mount_root`, until the end.

    Raises StartError, OSError when there is no such directory.
    """
    with ExitStack() as opened:
        root = mount_root(layers, shift)
        opened.callback(os.close, root)
        opened.callback(syscalls.umount, _STAGING, syscalls.MNT_DETACH)
        with doing("open the image's", f"/{path}"):
            directory = open_in_root(root, f"/{path}", os.O_PATH | os.O_DIRECTORY)
        opened.callback(os.close, directory)
        yield directory


def _is_detachable(layer: Layer) -> bool:
    lower = dict(layer.options.parameters).get("lowerdir") if layer.kind == "overlay" else None
    return lower is None or lower.count(":") < _MOST_DETACHED


def _detached(layer: Layer, shift: Shift | None, stack: ExitStack) -> int:
    """A layer as a detached mount; `stack` closes it."""
    with doing(f"mount {layer.kind} as the root file system, from", layer.source), ExitStack() as opened:
        if layer.kind == "bind":
            tree = syscalls.open_tree(syscalls.AT_FDCWD, layer.source, recursive=layer.options.recursive)
            stack.callback(os.close, tree)
            _set_attributes(tree, layer.options)
            if shift is not None:
                syscalls.map_mount(tree, shift[1])
            return tree
        parameters = list(layer.options.parameters)
        if layer.kind == "overlay":
            parameters = _by_number(parameters, shift, opened)
        tree = syscalls.new_mount(layer.kind, layer.source, parameters, layer.options.attributes)
        stack.callback(os.close, tree)
        return tree


def _attach_layer(layer: Layer, tree: int) -> None:
    with doing("mount the root file system", layer.source):
        target = os.open(_STAGING, os.O_PATH | os.O_CLOEXEC)
        syscalls.move_mount(tree, target)
        os.close(target)


def _mount_overlay(layer: Layer, shift: Shift | None) -> None:
    # The first four attributes have the same values as flags of mount(2).
    flags = layer.options.attributes & 0b1111
    with doing("mount the overlay of the root file system"), ExitStack() as opened:
        parameters = _by_number(layer.options.parameters, shift, opened)
        data = ",".join(key if value is None else f"{key}={value}" for key, value in parameters)
        syscalls.mount(layer.source, _STAGING, layer.kind, flags, data)


def _by_number(
    parameters: Sequence[tuple[str, str | None]], shift: Shift | None, opened: ExitStack
) -> list[tuple[str, str | None]]:
    """An overlay's parameters with its directories as the numbers of open descriptors, relative to /proc/self/fd, where the caller is
    until `opened` ends: the data of mount(2) ends after a page, which the paths of many layers exceed, and a value of fsconfig(2) sooner.

    An overlay itself cannot be shifted, its lower directories can. What is new has the right owners by itself.
    """
    numbered: list[tuple[str, str | None]] = []
    for key, value in parameters:
        if key in _OVERLAY_DIRECTORIES and value:
            user = shift[1] if shift and key == "lowerdir" else None
            if shift and key == "upperdir":
                _own(value, shift[0])
            value = ":".join(_number(path, user, opened) for path in value.split(":"))
        numbered.append((key, value))
    os.chdir("/proc/self/fd")
    opened.callback(os.chdir, "/")
    return numbered


def _number(path: str, user: int | None, stack: ExitStack) -> str:
    with doing("open the layer", path):
        if user is None:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            fd = syscalls.open_tree(syscalls.AT_FDCWD, path, recursive=False)
        stack.callback(os.close, fd)
        if user is not None:
            syscalls.map_mount(fd, user)
    return str(fd)


def _own(path: str, maps: IdMaps) -> None:
    """Give the upper directory, whose owner the root directory shows, to who is root inside; once."""
    with doing("change the owner of", path):
        status = os.stat(path, follow_symlinks=False)
        if status.st_uid == 0:
            os.chown(path, *maps.root, follow_symlinks=False)


def clone_bind(mount: Mount, stack: ExitStack, users: Users) -> int:
    """A detached mount of what a bind mount shows, with its attributes; `stack` closes it. Raises StartError."""
    with doing(f"mount at {mount.destination}: cannot copy the mount of", mount.source):
        tree = syscalls.open_tree(syscalls.AT_FDCWD, mount.source, recursive=mount.options.recursive)
        stack.callback(os.close, tree)
        if mount.destination == "/proc" and syscalls.file_system_type(tree) != syscalls.PROC_SUPER_MAGIC:
            raise StartError(f"cannot mount at /proc: {mount.source} is not a procfs", path=mount.source)
        _set_attributes(tree, mount.options)
        if mount.id_maps is not None:
            syscalls.map_mount(tree, users[mount.id_maps])
    return tree


def _set_attributes(tree: int, options: MountOptions) -> None:
    """Attributes on the top of a tree, propagation (private unless asked for) on all of it."""
    propagation = options.propagation or syscalls.MS_PRIVATE
    syscalls.mount_setattr(tree, options.recursive_attributes, propagation=propagation, recursive=True)
    if options.attributes:
        clear = syscalls.MOUNT_ATTR_ATIME if options.attributes & syscalls.MOUNT_ATTR_ATIME else 0
        syscalls.mount_setattr(tree, options.attributes, clear, recursive=False)


def _attach_bind(root: int, mount: Mount, tree: int) -> None:
    with doing("mount at", mount.destination):
        directory = stat.S_ISDIR(os.fstat(tree).st_mode)
        target = (open_directory if directory else open_file)(root, mount.destination)
        try:
            syscalls.move_mount(tree, target)
        finally:
            os.close(target)


def _attach_cgroups(root: int, mount: Mount, trees: Mapping[str, int]) -> None:
    with doing("mount cgroups at", mount.destination):
        target = open_directory(root, mount.destination)
        try:
            cgroupfs.attach(target, trees, mount.options)
        finally:
            os.close(target)


def _attach_new(root: int, mount: Mount) -> None:
    with doing(f"mount {mount.kind} at", mount.destination):
        target = open_directory(root, mount.destination)
        try:
            source = mount.source or mount.kind
            made = syscalls.new_mount(mount.kind, source, list(mount.options.parameters), mount.options.attributes)
            try:
                syscalls.move_mount(made, target)
            finally:
                os.close(made)
        finally:
            os.close(target)


def seal(root: int, plan: Plan) -> None:
    """Cover what is masked, and make read-only what is to be, the root last."""
    for path in plan.read_only_paths:
        _make_read_only(root, path)
    if plan.masked_paths:
        with ExitStack() as stack:
            covers = _Covers(root, stack)
            for path in plan.masked_paths:
                _mask(root, path, covers)
    if plan.read_only:
        with doing("make read-only", "/"):
            syscalls.mount_setattr(root, syscalls.MOUNT_ATTR_RDONLY, recursive=False)


def _make_read_only(root: int, path: str) -> None:
    with doing("make read-only", path):
        target = _open_if_there(root, path)
        if target is None:
            return
        try:
            tree = syscalls.open_tree(target, "", recursive=True)
            syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_RDONLY, recursive=True)
            syscalls.move_mount(tree, target)
            os.close(tree)
        finally:
            os.close(target)


def _mask(root: int, path: str, covers: _Covers) -> None:
    with doing("mask", path):
        target = _open_if_there(root, path)
        if target is None:
            return
        try:
            cover = covers.of(target)
            syscalls.move_mount(cover, target)
            os.close(cover)
        finally:
            os.close(target)


class _Covers:
    """What hides masked paths: an empty directory, the same for all, or the null device, which nobody may change the mode of."""

    def __init__(self, root: int, stack: ExitStack) -> None:
        self._null = devices.open_null(root)
        stack.callback(os.close, self._null)
        self._nothing: int | None = None
        self._stack = stack

    def of(self, target: int) -> int:
        """A detached mount to cover `target` with, before the next one is asked for."""
        if not stat.S_ISDIR(os.fstat(target).st_mode):
            cover = syscalls.open_tree(self._null, "", recursive=False)
            syscalls.mount_setattr(cover, syscalls.MOUNT_ATTR_RDONLY, recursive=False)
            return cover
        if self._nothing is not None:
            # Which is attached by now: what is detached cannot be copied before Linux 6.15.
            return syscalls.open_tree(self._nothing, "", recursive=False)
        self._nothing = emptyroom.nothing(syscalls.MOUNT_ATTR_RDONLY)
        self._stack.callback(os.close, self._nothing)
        return os.dup(self._nothing)


def _open_if_there(root: int, path: str) -> int | None:
    try:
        return open_in_root(root, path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
