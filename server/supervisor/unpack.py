"""Unpacks one image layer, a hostile tar archive, into a directory (OCI image spec, layer.md).

Runs as a task: a process of its own, chrooted into that directory. Names are taken relative to it; symbolic links among a name's parents
are followed inside it, as Docker does (a layer may write through `lib -> usr/lib` of the layer below), those at its end never. What
escapes (a name with `..`), a whiteout of a parent, or an unknown kind of entry refuses the whole layer.

Whiteouts, by the graph driver's choice: "overlay" makes the kernel's own (character device 0:0, `trusted.overlay.opaque`), "overlay
userxattr" those of an overlay that keeps its marks in user attributes (`user.overlay.opaque`), "apply" deletes what they hide. Either
way they hide what is below this layer and nothing in it, in whatever order the entries come.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from moorage.server.supervisor import tarstream
from moorage.server.supervisor.confine import FILE_CAPABILITIES, XATTR_CAPABILITIES, enter, open_directory
from moorage.server.supervisor.failures import Failure
from moorage.server.supervisor.layerentry import (
    OPAQUE_XATTRS,
    failed,
    is_whiteout,
    node,
    owner,
    refused,
    set_xattrs,
    split,
    timestamp,
    write,
)
from moorage.server.supervisor.tarstream import Entry, TarError, TarStream, printable
from moorage.server.supervisor.trees import DIRECTORY_FLAGS, remove_entry

WHITEOUT = b".wh."
WHITEOUT_META = b".wh..wh."
OPAQUE = b".wh..wh..opq"

MAX_ENTRIES = 1_000_000
MAX_BYTES = 256 << 30
MAX_IMPLICIT = 4 << 20
"""Bytes that the names of directories without an entry may have: the answer must fit a message."""
MAX_OPEN = 64
"""Directories kept open, as entries of one directory come together."""

_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Unpack the tar stream fds[1] into the directory fds[0].

    `whiteouts` is "overlay", "overlay userxattr" or "apply"; `devices` false refuses device nodes; `max_entries` and `max_bytes` are caps.
    Answers the `bytes` of file content, the number of `entries`, and but for "apply" the `implicit` directories: those that something lies
    in but that have no entry, "" for the root. Raises Failure InvalidArgument (hostile or damaged archive, naming entry and offset),
    ResourceExhausted (a cap or the disk), Internal.
    """
    root, tar = fds
    overlay = args["whiteouts"] != "apply"
    stream = os.fdopen(tar, "rb", tarstream.CHUNK)
    enter(root, XATTR_CAPABILITIES if overlay else FILE_CAPABILITIES)
    unpacker = Unpacker(root, TarStream(stream), args)
    try:
        unpacker.run()
    except TarError as error:
        raise Failure("InvalidArgument", f"cannot unpack layer: {error}") from None
    implicit = [os.fsdecode(path) for path in sorted(unpacker.implicit)]
    return {"bytes": unpacker.bytes, "entries": unpacker.entries, "implicit": implicit}


class Directories:
    """The directories below the root in use just now, kept open. A descriptor is good for the next few calls only."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: dict[bytes, int] = {}

    def open(self, path: bytes) -> int:
        fd = self._open.pop(path, None)
        if fd is None:
            if len(self._open) >= MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            fd = open_directory(self._root, path)
        self._open[path] = fd
        return fd

    def forget(self, but: int) -> None:
        """Close all but one: a directory or a link that a path led through has gone."""
        for path, fd in list(self._open.items()):
            if fd != but:
                del self._open[path]
                os.close(fd)


class Unpacker:
    """One archive on its way into one directory."""

    def __init__(self, root: int, stream: TarStream, args: dict[str, Any]) -> None:
        self.bytes = 0
        self.entries = 0
        self._overlay = args["whiteouts"] != "apply"
        self._opaque = OPAQUE_XATTRS.get(args["whiteouts"], "")
        self.implicit = {b""} if self._overlay else set()
        self._implicit_bytes = 0
        self._devices = args.get("devices", True)
        self._max_entries = args.get("max_entries", MAX_ENTRIES)
        self._max_bytes = args.get("max_bytes", MAX_BYTES)
        self._root = root
        self._stream = stream
        self._directories = Directories(root)
        self._times: dict[bytes, tuple[int, int]] = {}
        self._own: set[bytes] = set()
        """For "apply": what this layer made, and all directories that lead to it; whiteouts leave those alone."""

    def run(self) -> None:
        for entry in self._stream:
            self.entries += 1
            if self.entries > self._max_entries:
                raise Failure("ResourceExhausted", f"cannot unpack layer: more than {self._max_entries} entries")
            try:
                self._entry(entry)
            except OSError as error:
                raise failed(entry, error) from None
        self._stream.drain(self._max_bytes)
        self._set_directory_times()

    def _entry(self, entry: Entry) -> None:
        parts = split(entry.name, entry)
        if not parts:
            self._top(entry)
            return
        parent, name = b"/".join(parts[:-1]), parts[-1]
        if WHITEOUT in entry.name:
            # Bookkeeping of AUFS, which Docker's layers are written in the manner of.
            if any(part.startswith(WHITEOUT_META) and part != OPAQUE for part in parts):
                return
            if any(part.startswith(WHITEOUT) for part in parts[:-1]):
                raise refused(entry, "a whiteout is no directory")
            if name.startswith(WHITEOUT):
                self._whiteout(entry, parent, name)
                return
        self._make(entry, parent, name)

    def _make(self, entry: Entry, parent: bytes, name: bytes) -> None:
        """Make what the entry says, replacing what is there."""
        directory = self._directory(parent)
        path = join(parent, name)
        if entry.kind == tarstream.REGULAR:
            self._file(entry, directory, name)
        elif entry.kind == tarstream.DIRECTORY:
            self._plain_directory(entry, directory, name, path)
        elif entry.kind == tarstream.HARDLINK:
            self._hard_link(entry, directory, name)
        else:
            self._special(entry, directory, name)
        while not self._overlay and path and path not in self._own:
            self._own.add(path)
            path = path.rpartition(b"/")[0]

    def _file(self, entry: Entry, directory: int, name: bytes) -> None:
        self.bytes += entry.size
        if self.bytes > self._max_bytes or entry.real_size > self._max_bytes:
            message = f"cannot unpack {entry.describe()}: layer is larger than {self._max_bytes} bytes"
            raise Failure("ResourceExhausted", message)
        mode = entry.mode & 0o777
        try:
            fd = os.open(name, _FILE_FLAGS, mode, dir_fd=directory)
        except FileExistsError:
            self._remove(directory, name)
            fd = os.open(name, _FILE_FLAGS, mode, dir_fd=directory)
        try:
            if entry.segments is None:
                for piece in self._stream.data():
                    write(fd, piece)
            else:
                self._sparse(entry, fd)
            os.fchown(fd, *owner(entry))
            # A change of owner, and a write, take the set-user-ID bit away.
            if entry.mode & 0o7000:
                os.fchmod(fd, entry.mode)
            set_xattrs(entry, fd)
            os.utime(fd, ns=timestamp(entry))
        finally:
            os.close(fd)

    def _sparse(self, entry: Entry, fd: int) -> None:
        pieces = self._stream.data()
        piece = b""
        for offset, length in entry.segments or ():
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                piece = piece or next(pieces)
                part, piece = piece[:length], piece[length:]
                write(fd, part)
                length -= len(part)
        os.ftruncate(fd, entry.real_size)

    def _plain_directory(self, entry: Entry, directory: int, name: bytes, path: bytes) -> None:
        self._ensure_directory(directory, name)
        os.chown(name, *owner(entry), dir_fd=directory, follow_symlinks=False)
        # It is a directory and nobody else is here, so that there is no link to follow.
        os.chmod(name, entry.mode, dir_fd=directory)
        if entry.xattrs:
            set_xattrs(entry, self._directories.open(path))
        self._times[path] = timestamp(entry)
        self.implicit.discard(path)

    def _ensure_directory(self, directory: int, name: bytes) -> None:
        """Have a directory called `name`. One that takes a whiteout's place hides what lies below all the same."""
        try:
            os.mkdir(name, 0o755, dir_fd=directory)
        except FileExistsError:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                return
            self._remove(directory, name)
            os.mkdir(name, 0o755, dir_fd=directory)
            if self._overlay and is_whiteout(status):
                self._make_opaque(directory, name)

    def _hard_link(self, entry: Entry, directory: int, name: bytes) -> None:
        parts = split(entry.link, entry)
        if not parts:
            raise refused(entry, "a hard link needs a target")
        source_path, target = b"/".join(parts[:-1]), parts[-1]
        try:
            source = self._directories.open(source_path)
        except (FileNotFoundError, NotADirectoryError):
            raise refused(entry, f'its target "{printable(entry.link)}" is not in this layer') from None
        status, there = self._status(source, target), self._status(directory, name)
        if status is None or is_whiteout(status):
            raise refused(entry, f'its target "{printable(entry.link)}" is not in this layer')
        if there is not None:
            if os.path.samestat(status, there):
                return
            self._remove(directory, name)
            source = self._directories.open(source_path)
        os.link(target, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

    def _special(self, entry: Entry, directory: int, name: bytes) -> None:
        """Symbolic links, devices, fifos."""
        if self._status(directory, name) is not None:
            self._remove(directory, name)
        if entry.kind == tarstream.SYMLINK:
            if b"\0" in entry.link:
                raise refused(entry, "its target has a NUL in it")
            os.symlink(entry.link, name, dir_fd=directory)
        else:
            mode, device = node(entry, devices=self._devices)
            os.mknod(name, mode, device, dir_fd=directory)
        os.chown(name, *owner(entry), dir_fd=directory, follow_symlinks=False)
        if entry.kind != tarstream.SYMLINK and entry.mode & 0o7000:
            os.chmod(name, entry.mode, dir_fd=directory)
        os.utime(name, ns=timestamp(entry), dir_fd=directory, follow_symlinks=False)

    def _top(self, entry: Entry) -> None:
        """The entry of the root directory itself."""
        if entry.kind != tarstream.DIRECTORY:
            raise refused(entry, "the root is a directory")
        os.fchown(self._root, *owner(entry))
        os.fchmod(self._root, entry.mode)
        set_xattrs(entry, self._root)
        self._times[b""] = timestamp(entry)
        self.implicit.discard(b"")

    def _whiteout(self, entry: Entry, parent: bytes, name: bytes) -> None:
        directory = self._directory(parent)
        if name == OPAQUE:
            if self._overlay:
                self._make_opaque(directory, b".")
            else:
                self._remove_below(parent)
            return
        hidden = name[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise refused(entry, "it hides no name of its directory")
        status = self._status(directory, hidden)
        path = join(parent, hidden)
        if status is None:
            if self._overlay:
                os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=directory)
        elif self._overlay or path in self._own:
            # This layer's own directory stays, without what lies below it.
            if stat.S_ISDIR(status.st_mode):
                self._make_opaque(directory, hidden) if self._overlay else self._remove_below(path)
        else:
            self._remove(directory, hidden)

    def _remove_below(self, top: bytes) -> None:
        """Delete from a directory what is not of this layer."""
        pending = [top]
        while pending:
            path = pending.pop()
            for text in os.listdir(self._directories.open(path)):
                name = os.fsencode(text)
                directory = self._directories.open(path)
                if join(path, name) not in self._own:
                    self._remove(directory, name)
                elif stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                    pending.append(join(path, name))

    def _remove(self, directory: int, name: bytes) -> None:
        """Delete whatever is called `name`."""
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        remove_entry(directory, name)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            self._directories.forget(but=directory)

    def _make_opaque(self, directory: int, name: bytes) -> None:
        fd = os.open(name, DIRECTORY_FLAGS, dir_fd=directory)
        try:
            os.setxattr(fd, self._opaque, b"y")
        finally:
            os.close(fd)

    def _directory(self, path: bytes) -> int:
        """The open directory `path`, made with its parents where it is missing."""
        try:
            return self._directories.open(path)
        except (FileNotFoundError, NotADirectoryError):
            parts = path.split(b"/")
        for depth in range(len(parts)):
            parent, at = b"/".join(parts[:depth]), b"/".join(parts[: depth + 1])
            try:
                self._directories.open(at)
            except (FileNotFoundError, NotADirectoryError):
                self._implicit_directory(self._directories.open(parent), parts[depth], at)
        return self._directories.open(path)

    def _implicit_directory(self, directory: int, name: bytes, path: bytes) -> None:
        status = self._status(directory, name)
        if status is not None and not is_whiteout(status):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        self._ensure_directory(directory, name)
        if self._overlay:
            self.implicit.add(path)
            self._implicit_bytes += len(path)
            if self._implicit_bytes > MAX_IMPLICIT:
                raise Failure(
                    "ResourceExhausted", "cannot unpack layer: too many directories have no entry of their own"
                )

    def _set_directory_times(self) -> None:
        # At the end, as the times of a directory change while it is filled.
        for path, times in self._times.items():
            parent, _, name = path.rpartition(b"/")
            try:
                os.utime(name or b".", ns=times, dir_fd=self._directories.open(parent), follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                continue

    def _status(self, directory: int, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None


def join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name
