"""The builder's tasks on what mounting leaves in a root file system: empty files and directories to mount on, in directories that have
changed by that.

missing   before a command runs: what is not there and will be made, and what the directories around it are like
sweep     afterwards: what was made goes, and the directories have their times again
trim      directories that overlay has copied up for nothing else go from its upper directory, so that no layer has them
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from typing import Any

from moorage.server.libcontainer.paths import open_in_root
from moorage.server.supervisor.buildtree import ABSENT, enter_root, is_there
from moorage.server.supervisor.confine import XATTR_CAPABILITIES, enter, open_plain_directory
from moorage.server.supervisor.pack import OVERLAY_MARKS

_TELLING = ("opaque", "redirect", "metacopy")
"""Overlay's marks of a directory that is more than a copy of the one below."""


def missing(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Answer which of `paths`, and of the directories that lead to them, are `missing`, the outer before the inner; and what the
    directories `around` them are like, by path."""
    root = enter_root(args["layers"])
    found: dict[str, None] = {}
    around: dict[str, Any] = {}
    for path in args["paths"]:
        parts = posixpath.normpath(path).strip("/").split("/")
        prefixes = ["/" + "/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        lacking = [prefix for prefix in prefixes if not is_there(root, prefix)]
        found |= dict.fromkeys(lacking)
        for prefix in prefixes[: len(prefixes) - len(lacking)] if lacking else []:
            around.setdefault(prefix, _attributes_at(root, prefix))
    return {"missing": list(found), "around": {path: like for path, like in around.items() if like is not None}}


def sweep(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Delete those of `paths` (the outer before the inner) that are an empty directory or an empty file: what mounts left. The
    directories that they were in have the times that they have in `around`."""
    root = enter_root(args["layers"])
    for path in reversed(args["paths"]):
        parent, name = posixpath.split(path)
        try:
            directory = open_in_root(root, parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            continue
        try:
            _remove_if_empty(directory, name)
            if parent in args["around"]:
                changed = args["around"][parent]["mtime_ns"]
                os.utime(directory, ns=(changed, changed))
        finally:
            os.close(directory)
    return {}


def trim(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Delete those directories of `around` from the overlay's upper directory fds[0] that are empty there, and like those below."""
    (upper,) = fds
    enter(upper, XATTR_CAPABILITIES)
    for path in sorted(args["around"], key=len, reverse=True):
        parent, name = posixpath.split(path.strip("/"))
        try:
            directory = open_plain_directory(upper, os.fsencode(parent))
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            continue
        try:
            if _is_a_copy(directory, name, args["around"][path]):
                changed = os.fstat(directory).st_mtime_ns
                os.rmdir(name, dir_fd=directory)
                os.utime(directory, ns=(changed, changed))
        finally:
            os.close(directory)
    return {}


def _is_a_copy(directory: int, name: str, like: dict[str, Any]) -> bool:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return False
    try:
        marks = [key for key in os.listxattr(fd) if key.startswith(OVERLAY_MARKS)]
        return not os.listdir(fd) and not any(key.endswith(_TELLING) for key in marks) and _attributes(fd) == like
    finally:
        os.close(fd)


def _attributes_at(root: int, path: str) -> dict[str, Any] | None:
    """What a directory is like; None where it is something else."""
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return None
    try:
        return _attributes(fd)
    finally:
        os.close(fd)


def _attributes(fd: int) -> dict[str, Any]:
    status = os.fstat(fd)
    keys = sorted(key for key in os.listxattr(fd) if not key.startswith(OVERLAY_MARKS))
    return {
        "mode": status.st_mode,
        "owner": [status.st_uid, status.st_gid],
        "mtime_ns": status.st_mtime_ns,
        "xattrs": {key: os.getxattr(fd, key).hex() for key in keys},
    }


def _remove_if_empty(directory: int, name: str) -> None:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(name, dir_fd=directory)
        elif stat.S_ISREG(status.st_mode) and not status.st_size:
            os.unlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            raise
