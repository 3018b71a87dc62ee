"""A /dev/shm for several containers: a tmpfs that is mounted nowhere, of which each gets a mount of its own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from moorage.server.libcontainer import syscalls


def make(size: int) -> int:
    """A file system of up to `size` bytes, as a descriptor; the caller's."""
    attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    return syscalls.new_mount("tmpfs", "shm", [("mode", "1777"), ("size", str(size))], attributes)


def use(config: Mapping[str, Any], memory: int) -> None:
    """Have an OCI config mount `memory` where it has a /dev/shm of its own."""
    for mount in config["mounts"]:
        if mount["destination"] == "/dev/shm" and mount["type"] == "tmpfs" and mount["source"] == "shm":
            # Linux before 6.15 copies no mount that is attached nowhere: each container has its own then.
            with suppress(OSError):
                tree = syscalls.open_tree(memory, "", recursive=False)
                mount.update({"type": "tree", "source": str(tree), "options": []})
