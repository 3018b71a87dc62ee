"""Tasks that answer what only a process with namespaces of its own can find out."""

from __future__ import annotations

import os
from typing import Any

from moorage.server.libcontainer import rootfs, syscalls
from moorage.server.libcontainer.usernamespaces import IdMaps, make

_SOME_IDS = ((0, 1 << 16, 1 << 16),)


def check_directory(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Raise StartError unless `path` is a directory of what the mounts `layers` show."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    with rootfs.shown_directory(rootfs.plan_layers(args["layers"]), args["path"]):
        return {}


def maps_owners(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Answer whether the file system of the directory fds[0] can be `mapped`: shown with the owners of a user namespace."""
    (directory,) = fds
    try:
        users = make(IdMaps(_SOME_IDS, _SOME_IDS))
        syscalls.map_mount(syscalls.open_tree(directory, "", recursive=False), users)
    except OSError as error:
        return {"mapped": False, "why": os.strerror(error.errno or 0)}
    return {"mapped": True}
