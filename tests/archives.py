"""Layers for tests: archives made with `tarfile`, and what a tree looks like once they are unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from moorage.server.graph.drivers.base import RootfsMount

MS_BIND = 1 << 12
MTIME = "1700000000.123456789"

TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "link": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


class Archive:
    """Collects entries; `bytes` is the archive."""

    def __init__(self, format: int = tarfile.PAX_FORMAT) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=format)

    def add(
        self,
        name: str,
        kind: str = "file",
        *,
        data: bytes = b"",
        mode: int | None = None,
        owner: tuple[int, int] = (0, 0),
        to: str = "",
        device: tuple[int, int] = (0, 0),
        mtime: str = MTIME,
        xattrs: dict[str, bytes] | None = None,
        **pax: str,
    ) -> Archive:
        info = tarfile.TarInfo(name)
        info.type = TYPES[kind]
        info.size = len(data)
        info.mode = mode if mode is not None else 0o755 if kind == "dir" else 0o644
        info.uid, info.gid = owner
        info.linkname = to
        info.devmajor, info.devminor = device
        info.mtime = int(mtime.partition(".")[0])
        if self._tar.format == tarfile.PAX_FORMAT:
            values = {key: value.decode("utf-8", "surrogateescape") for key, value in (xattrs or {}).items()}
            info.pax_headers = {
                "mtime": mtime,
                **{f"SCHILY.xattr.{key}": value for key, value in values.items()},
                **pax,
            }
        self._tar.addfile(info, io.BytesIO(data))
        return self

    @property
    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def diff_id(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sparse_archive(name: str, pieces: dict[int, bytes], size: int, *options: str) -> bytes:
    """A sparse file, as GNU tar archives it (`options`: --format, --sparse-version)."""
    with tempfile.TemporaryDirectory(prefix="moorage-sparse-") as directory:
        with open(Path(directory) / name, "wb") as file:
            for offset, data in pieces.items():
                file.seek(offset)
                file.write(data)
            file.truncate(size)
        command = ["tar", "--sparse", "--owner=0", "--group=0", *options, "-C", directory, "-cf", "-", name]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def describe_tree(root: str) -> dict[str, dict[str, Any]]:
    """Everything below `root` (and itself, as "."), by path."""
    entries: dict[str, dict[str, Any]] = {".": describe_entry(root, {})}
    links: dict[tuple[int, int], str] = {}
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in sorted([*directories, *files]):
            path = os.path.join(directory, name)
            entries[os.path.relpath(path, root)] = describe_entry(path, links)
    return entries


def describe_entry(path: str, links: dict[tuple[int, int], str]) -> dict[str, Any]:
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    entry: dict[str, Any] = {
        "mode": oct(status.st_mode),
        "owner": f"{status.st_uid}:{status.st_gid}",
        "mtime_ns": status.st_mtime_ns,
        "xattrs": {
            key: os.getxattr(path, key, follow_symlinks=False).hex()
            for key in os.listxattr(path, follow_symlinks=False)
            if not key.startswith("trusted.overlay.")
        },
    }
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            entry["data"] = hashlib.sha256(file.read()).hexdigest()
        entry["size"] = status.st_size
        entry["blocks"] = status.st_blocks
    if kind == stat.S_IFLNK:
        entry["to"] = os.readlink(path)
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry["device"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
    if kind != stat.S_IFDIR and status.st_nlink > 1:
        entry["same as"] = links.setdefault((status.st_dev, status.st_ino), os.path.basename(path))
    return entry


def in_rootfs(mounts: Iterable[RootfsMount], target: Path, commands: str = "") -> dict[str, dict[str, Any]]:
    """`raw_in_rootfs` without what drivers may add to an image."""
    return raw_in_rootfs(without_mount_points(mounts), target, commands)


def raw_in_rootfs(mounts: Iterable[RootfsMount], target: Path, commands: str = "") -> dict[str, dict[str, Any]]:
    """Mount a root file system in a process with a mount namespace of its own, run Python `commands` with it as the working directory,
    and answer `describe_tree` of it."""
    target.mkdir(exist_ok=True)
    plan = json.dumps([[mount.type, mount.source, list(mount.options)] for mount in mounts])
    script = "from tests.archives import mount_and_describe; mount_and_describe()"
    result = subprocess.run(
        [sys.executable, "-c", script, plan, str(target), commands],
        check=True,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    tree: dict[str, dict[str, Any]] = json.loads(result.stdout)
    return tree


def without_mount_points(mounts: Iterable[RootfsMount]) -> list[RootfsMount]:
    """The mounts of a root file system that has nothing in it but what is the image's and the container's."""
    return [replace(mount, options=tuple(map(_images_alone, mount.options))) for mount in mounts]


def _images_alone(option: str) -> str:
    key, _, directories = option.partition("=")
    if key != "lowerdir":
        return option
    lower = [path for path in directories.split(":") if not path.endswith("/overlay/mountpoints")]
    return f"lowerdir={':'.join(lower) or directories.replace('mountpoints', 'empty')}"


def mount_and_describe() -> None:
    """The child of `raw_in_rootfs`."""
    from moorage.server.libcontainer import syscalls

    plan, target, commands = sys.argv[1:]
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.set_propagation("/", syscalls.MS_REC | syscalls.MS_PRIVATE)
    for kind, source, options in json.loads(plan):
        if "bind" in options:
            syscalls.mount(source, target, "", MS_BIND, "")
        else:
            syscalls.mount(source, target, kind, 0, ",".join(options))
    os.chdir(target)
    exec(commands, {"os": os})
    json.dump(describe_tree("."), sys.stdout)
