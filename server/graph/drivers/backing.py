"""The file system below a driver: what it is, and whether drivers can work on it. What is tried is tried for real, in a directory that goes
again, and without a mount that anybody could see."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moorage.server.graph.drivers import subvolumes
from moorage.server.libcontainer import syscalls

NAMES = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    subvolumes.SUPER_MAGIC: "btrfs",
    0x01021994: "tmpfs",
    0x794C7630: "overlay",
    0x6969: "nfs",
    0x65735546: "fuse",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs",
    0x2011BAB0: "exfat",
    0x4D44: "vfat",
}
"""By the magic number of statfs(2). ext2 and ext3 have the number of ext4."""

OPAQUE_XATTRS = {"trusted": "trusted.overlay.opaque", "user": "user.overlay.opaque"}
"""The mark of a directory that hides all below it, by the kind of attributes that overlay works with."""

_Parameters = tuple[tuple[str, str | None], ...]
_XATTR_PARAMETERS: dict[str, _Parameters] = {"trusted": (), "user": (("userxattr", None),)}


def kind(directory: Path) -> str:
    """The file system of `directory`, or of the nearest directory above that exists; its number where it has no name here."""
    here = next(each for each in (directory, *directory.parents) if each.is_dir())
    fd = os.open(here, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        magic = syscalls.file_system_type(fd)
    finally:
        os.close(fd)
    return NAMES.get(magic & 0xFFFFFFFF, f"{magic & 0xFFFFFFFF:#x}")


@dataclass(frozen=True)
class OverlayFeatures:
    """What of overlay works in a root: `xattrs` are the attributes that it can keep its marks in, `trusted` first."""

    obstacle: str = ""
    xattrs: tuple[str, ...] = ()
    volatile: bool = False
    metacopy: bool = False


def overlay_features(root: Path) -> OverlayFeatures:
    """What the overlay driver can use in `root`. Overlays are made for that, but nowhere attached."""
    if "overlay" not in Path("/proc/filesystems").read_text().split() and not _loadable("overlay"):
        return OverlayFeatures("the kernel has no overlay file system")
    with scratch(root) as directory:
        try:
            return _try_overlays(directory)
        finally:
            for each in directory.iterdir():
                shutil.rmtree(each)


def _try_overlays(directory: Path) -> OverlayFeatures:
    takes = {name: _takes_marks(directory, mark) for name, mark in OPAQUE_XATTRS.items()}
    if all(takes.values()):
        return OverlayFeatures(takes["trusted"])
    # An overlay that is not volatile has its file system synced when it goes.
    volatile = not _mounts(directory, ("volatile", None))
    quick: _Parameters = (("volatile", None),) if volatile else ()
    mounts = {
        name: _mounts(directory, *_XATTR_PARAMETERS[name], *quick) for name, refused in takes.items() if not refused
    }
    if all(mounts.values()):
        return OverlayFeatures(f"an overlay on {kind(directory)} cannot be mounted: {next(iter(mounts.values()))}")
    return OverlayFeatures(
        xattrs=tuple(name for name, refused in mounts.items() if not refused),
        volatile=volatile,
        metacopy=not _mounts(directory, ("metacopy", "on"), ("redirect_dir", "on"), *quick),
    )


def _takes_marks(directory: Path, mark: str) -> str:
    """Why the file system does not take overlay's marks, empty when it does."""
    try:
        os.setxattr(directory, mark, b"y")
        os.removexattr(directory, mark)
        os.mknod(directory / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
        (directory / "whiteout").unlink()
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return f"its file system has no {mark.partition('.')[0]} extended attributes"
        return f"its file system does not take overlay's marks: {os.strerror(error.errno or 0).lower()}"
    return ""


def _mounts(directory: Path, *parameters: tuple[str, str | None]) -> str:
    """Why an overlay with these parameters cannot be mounted, empty when it can."""
    own = directory / secrets.token_hex(4)
    places = [(key, str(own / key)) for key in ("lowerdir", "upperdir", "workdir")]
    own.mkdir()
    for _, path in places:
        Path(path).mkdir()
    try:
        os.close(syscalls.new_mount("overlay", "overlay", [*places, *parameters], 0))
    except OSError as error:
        return os.strerror(error.errno or 0).lower()
    return ""


def _loadable(module: str) -> bool:
    """Whether the kernel can load the module when the file system is first mounted."""
    index = Path("/lib/modules") / os.uname().release / "modules.dep"
    return index.exists() and f"/{module}.ko" in index.read_text()


def btrfs_obstacle(root: Path) -> str:
    """Why the btrfs driver would not work in `root`, empty when it would."""
    found = kind(root)
    if found != "btrfs":
        return f"its file system is {found}"
    with scratch(root) as directory:
        return subvolumes.obstacle(directory)


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A new directory below `root`, which is made if need be; it must be empty again in the end."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = root / f".probe-{secrets.token_hex(4)}"
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        directory.rmdir()
