"""What is allowed in an entry of a layer's archive, and the small steps of making one."""

from __future__ import annotations

import errno
import os
import stat

from moorage.server.supervisor import tarstream
from moorage.server.supervisor.failures import Failure
from moorage.server.supervisor.tarstream import Entry, printable

MAX_NAME = 4095
MAX_ID = (1 << 32) - 2
"""The largest user or group ID; the number after it means "no change" to chown(2)."""

SECONDS = (-(1 << 31), (1 << 34) - 1)
"""Times that every file system takes."""

KEPT_XATTRS = (b"user.", b"security.capability")
OPAQUE_XATTRS = {"overlay": "trusted.overlay.opaque", "overlay userxattr": "user.overlay.opaque"}
"""Overlay's mark of a directory that hides what is below, by how whiteouts are to be made."""

FULL = (errno.ENOSPC, errno.EDQUOT)
ARCHIVES_FAULT = (
    errno.EEXIST,
    errno.EFBIG,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.EMLINK,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
)


def refused(entry: Entry, reason: str) -> Failure:
    return Failure("InvalidArgument", f"cannot unpack {entry.describe()}: {reason}", path=printable(entry.name))


def failed(entry: Entry, error: OSError) -> Failure:
    """A system call failed over an entry: whose fault it is depends on how."""
    number = error.errno or 0
    kind = "ResourceExhausted" if number in FULL else "InvalidArgument" if number in ARCHIVES_FAULT else "Internal"
    message = f"cannot unpack {entry.describe()}: {os.strerror(number).lower()}"
    return Failure(kind, message, errno=number, path=printable(entry.name))


def split(name: bytes, entry: Entry) -> list[bytes]:
    """A name's components below the root. Absolute names are taken as relative; `..` and NUL are refused."""
    if b"\0" in name or len(name) > MAX_NAME:
        raise refused(
            entry, "its name has a NUL in it" if b"\0" in name else f"its name is longer than {MAX_NAME} bytes"
        )
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise refused(entry, 'its name has ".." in it')
    return parts


def owner(entry: Entry) -> tuple[int, int]:
    if not (0 <= entry.uid <= MAX_ID and 0 <= entry.gid <= MAX_ID):
        raise refused(entry, f"there is no owner {entry.uid}:{entry.gid}")
    return entry.uid, entry.gid


def timestamp(entry: Entry) -> tuple[int, int]:
    """Access and modification time in nanoseconds, as utimensat(2) takes them."""
    low, high = SECONDS
    time = min(max(entry.mtime_ns, low * 10**9), high * 10**9)
    return time, time


def node(entry: Entry, *, devices: bool) -> tuple[int, int]:
    """Mode and device number for mknod(2)."""
    if entry.kind == tarstream.FIFO:
        return stat.S_IFIFO | entry.mode, 0
    if not devices:
        raise refused(entry, "device nodes are not allowed")
    if (entry.major, entry.minor) == (0, 0):
        raise refused(entry, "device 0:0 is how overlay file systems hide a name")
    if not (0 <= entry.major < 1 << 12 and 0 <= entry.minor < 1 << 20):
        raise refused(entry, f"there is no device {entry.major}:{entry.minor}")
    kind = stat.S_IFCHR if entry.kind == tarstream.CHARACTER else stat.S_IFBLK
    return kind | entry.mode, os.makedev(entry.major, entry.minor)


def set_xattrs(entry: Entry, fd: int) -> None:
    """Set `user.*` and `security.capability`; refuse what would steer the overlay file system; leave out the rest, which is the host's.

    `user.overlay.*` is left out too: other engines leave such marks in their layers, and they would steer an overlay that keeps its own
    there.
    """
    for key, value in entry.xattrs.items():
        if key.startswith(b"trusted.overlay.") or b"\0" in key:
            raise refused(entry, f'extended attribute "{printable(key)}" is not allowed')
        if not key.startswith(KEPT_XATTRS) or key.startswith(b"user.overlay."):
            continue
        try:
            os.setxattr(fd, key, value)
        except OSError as error:
            # A file system may be without user attributes; a program without its capabilities would not work.
            if error.errno != errno.ENOTSUP or not key.startswith(b"user."):
                raise


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is how overlay hides a name: a character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def write(fd: int, data: bytes) -> None:
    while written := os.write(fd, data):
        if written == len(data):
            return
        data = data[written:]
