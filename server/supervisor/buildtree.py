"""The builder's tasks on root file systems: have a directory, put files in, look what is there, take files out. See also buildstubs.py.

Each mounts the root file system (`layers`, as exec drivers take them) in a mount namespace of its own, chroots into it and follows paths
as a process inside would. What is written through an overlay lands in its upper directory, and so in the layer that becomes of it.
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from moorage.server.libcontainer import rootfs, syscalls
from moorage.server.libcontainer.errors import StartError
from moorage.server.libcontainer.paths import open_in_root
from moorage.server.libcontainer.users import resolve
from moorage.server.supervisor import modes, tarstream
from moorage.server.supervisor.confine import XATTR_CAPABILITIES, enter
from moorage.server.supervisor.failures import Failure
from moorage.server.supervisor.layerentry import refused
from moorage.server.supervisor.pack import Packer
from moorage.server.supervisor.tarstream import Entry, TarError, TarStream
from moorage.server.supervisor.tarwriter import TarWriter
from moorage.server.supervisor.unpack import Unpacker

MAX_MATCHES = 100_000
"""Files that one pattern may name."""

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def enter_root(layers: list[dict[str, Any]]) -> int:
    """Mount the root file system and make it the process's whole world; its root directory, readable."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    root = rootfs.mount_root(rootfs.plan_layers(layers))
    enter(root, XATTR_CAPABILITIES)
    os.close(root)
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def have_directory(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Have the directory `path`, made with its parents where it is missing."""
    root = enter_root(args["layers"])
    os.close(make_directories(root, args["path"], 0, 0, "WORKDIR"))
    return {}


def owner(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Answer `uid` and `gid` of `owner`, `name[:group]`."""
    uid, gid = _owner(enter_root(args["layers"]), args["owner"], args["what"])
    return {"uid": uid, "gid": gid}


def put(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Put what the tar stream fds[0] holds at `target`.

    `directory`: the target is one (else the stream's only file gets its name, unless a directory has that already). `owner` is
    `name[:group]` or empty, `mode` a number, changes (see modes.py) or None, for all that is put. `archive` says that the stream is
    somebody's archive, whose directories have their say about those that are there. `max_bytes` and `max_entries` as for `unpack`.
    `what` names it in errors.
    """
    (tar,) = fds
    stream = os.fdopen(tar, "rb", tarstream.CHUNK)
    root = enter_root(args["layers"])
    owner = _owner(root, args["owner"], args["what"]) if args["owner"] else None
    target, directory = args["target"], args["directory"]
    if not directory:
        directory = _is_directory(root, target)
    prefix = target if directory else posixpath.dirname(target)
    os.close(make_directories(root, prefix, *(owner or (0, 0)), args["what"]))
    name = b"" if directory else os.fsencode(posixpath.basename(target))
    entries = PlacedStream(stream, os.fsencode(prefix), name, owner, args["mode"])
    putter = Putter(root, entries, {**args, "whiteouts": "apply"})
    try:
        putter.run()
    except TarError as error:
        raise Failure("InvalidArgument", f"{args['what']}: {error}") from None
    return {"bytes": putter.bytes, "entries": putter.entries}


def take(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Pack what `patterns` name into the descriptor fds[0]: a directory's contents, or a file by its last name.

    With `parents` by its path, from a `/./` in the pattern on, where `**` is for any number of directories. `exclude` are regular
    expressions of names in the archive.
    """
    (out,) = fds
    root = enter_root(args["layers"])
    packer = Taker(root, TarWriter(out), {"form": "plain"}, -1)
    packer.excluded = [re.compile(os.fsencode(each)) for each in args["exclude"]]
    for pattern, path in _named(root, args):
        if args["parents"]:
            packer.take_with_parents(path, _above(pattern), follow=not _is_deep(pattern))
        else:
            packer.take(path)
    packer.finish()
    return {}


def look(args: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Answer how many `files` and `directories` are what `patterns` name, without files that are excluded; see `take`.

    Raises Failure InvalidArgument for a pattern that names nothing.
    """
    root = enter_root(args["layers"])
    found = [path for _, path in _named(root, args)]
    if args["parents"]:
        return {"files": 0, "directories": len(found)}
    excluded = [re.compile(each) for each in args["exclude"]]
    files = [posixpath.basename(path) for path in found if not _is_directory(root, path)]
    wanted = [name for name in files if not any(one.fullmatch(name) for one in excluded)]
    return {"files": len(wanted), "directories": len(found) - len(files)}


def _named(root: int, args: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The patterns, each with every path that it names; one with `*`, `?` or `[…]` may name nothing as long as another does."""
    found = False
    for pattern in args["patterns"]:
        matches = list(expand(root, pattern, deep=args["parents"] and _is_deep(pattern)))
        if not matches and not set(pattern) & set("*?["):
            raise _nothing(args, pattern)
        found = found or bool(matches)
        yield from ((pattern, path) for path in matches)
    if args["patterns"] and not found:
        raise _nothing(args, args["patterns"][0])


def _nothing(args: dict[str, Any], pattern: str) -> Failure:
    return Failure("InvalidArgument", f"{args['what']}: {pattern}: no such file or directory", path=pattern)


def _above(pattern: str) -> int:
    """How many of the directories in a pattern are not kept with `parents`."""
    above, pivot, _ = pattern.partition("/./")
    return above.count("/") + 1 if pivot else 0


def _is_deep(pattern: str) -> bool:
    return "**" in pattern.split("/")


# --- paths inside -----------------------------------------------------------------------------------------------------


def make_directories(root: int, path: str, uid: int, gid: int, what: str) -> int:
    """A directory inside, as O_PATH; those that are made on the way are given to an owner."""
    try:
        return open_in_root(root, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise Failure("InvalidArgument", f"{what}: {path} is not a directory", path=path) from None
    parent = make_directories(root, posixpath.dirname(path), uid, gid, what)
    name = posixpath.basename(path)
    try:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except NotADirectoryError:
        raise Failure("InvalidArgument", f"{what}: {path} is not a directory", path=path) from None
    finally:
        os.close(parent)


def expand(root: int, pattern: str, *, deep: bool = False) -> Iterator[str]:
    """The paths that a pattern with `*`, `?` and `[…]` names, by name; each part matches within one directory.

    With `deep`, `**` matches any number of directories, and what is below a path that is named has no path of its own.
    """
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if deep and parts[-1] == "**":
        parts[-1] = "*"
    found = [""]
    for part in parts:
        step = _directories if deep and part == "**" else functools.partial(_matches, part=part)
        found = list(dict.fromkeys(match for path in found for match in step(root, path)))
        if len(found) > MAX_MATCHES:
            raise Failure("ResourceExhausted", f"{pattern} names more than {MAX_MATCHES} files")
    yield from (path or "/" for path in (_topmost(found) if deep else found))


def _topmost(paths: Sequence[str]) -> list[str]:
    found: list[str] = []
    for path in sorted(paths, key=lambda path: path.split("/")):
        if not found or not path.startswith(f"{found[-1]}/"):
            found.append(path)
    return found


def _directories(root: int, directory: str) -> Iterator[str]:
    """A directory and all that are below it. Links are not followed."""
    pending = [directory]
    while pending:
        path = pending.pop()
        try:
            fd = open_in_root(root, path or "/", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            continue
        try:
            yield path
            with os.scandir(fd) as entries:
                pending += [f"{path}/{each.name}" for each in entries if each.is_dir(follow_symlinks=False)]
        finally:
            os.close(fd)


def _matches(root: int, directory: str, part: str) -> list[str]:
    if not set(part) & set("*?["):
        path = f"{directory}/{part}"
        return [path] if is_there(root, path) else []
    try:
        fd = open_in_root(root, directory or "/", os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return []
    try:
        wanted = re.compile(fnmatch.translate(part.replace("[^", "[!")))
        return [f"{directory}/{name}" for name in sorted(os.listdir(fd)) if wanted.match(name)]
    finally:
        os.close(fd)


def _status(root: int, path: str, *, follow: bool = True) -> os.stat_result | None:
    try:
        fd = open_in_root(root, path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return None
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def is_there(root: int, path: str) -> bool:
    parent, name = posixpath.split(path)
    try:
        directory = open_in_root(root, parent or "/", os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return False
    try:
        os.stat(name or ".", dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    finally:
        os.close(directory)
    return True


def _is_directory(root: int, path: str) -> bool:
    status = _status(root, path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def _owner(root: int, text: str, what: str) -> tuple[int, int]:
    """`name[:group]` by the files of the root file system; a number without a group is its own group."""
    name, _, group = text.partition(":")
    username = text if group or not name.isdecimal() else f"{name}:{name}"
    try:
        user = resolve(root, {"username": username}, want_home=False)
    except StartError as error:
        raise Failure("InvalidArgument", f"{what} --chown={text}: {error.message}", path=error.path) from None
    return user.uid, user.gid


# --- tar streams ------------------------------------------------------------------------------------------------------


class PlacedStream(TarStream):
    """A stream whose entries lie below a directory, the only file under a name of its own where one is given."""

    def __init__(self, stream: BinaryIO, prefix: bytes, name: bytes, owner: tuple[int, int] | None, mode: Any) -> None:
        super().__init__(stream)
        self._prefix = prefix.strip(b"/")
        self._name = name
        self._owner = owner
        self._mode = mode

    def __iter__(self) -> Iterator[Entry]:
        for entry in super().__iter__():
            changed = entry.replace(name=self._placed(entry.name))
            if entry.kind == tarstream.HARDLINK:
                changed.link = self._placed(entry.link)
            if self._owner is not None:
                changed.uid, changed.gid = self._owner
            if self._mode is not None and entry.kind != tarstream.SYMLINK:
                is_directory = entry.kind == tarstream.DIRECTORY
                own = isinstance(self._mode, int)
                changed.mode = self._mode if own else modes.changed(entry.mode, self._mode, directory=is_directory)
            yield changed

    def _placed(self, name: bytes) -> bytes:
        return self._prefix + b"/" + (self._name or name)


class Putter(Unpacker):
    """Unpacks on top of what is there: directories, and links to them, stay; nothing changes its kind."""

    def __init__(self, root: int, stream: TarStream, args: dict[str, Any]) -> None:
        super().__init__(root, stream, args)
        self._archive = args["archive"]

    def _make(self, entry: Entry, parent: bytes, name: bytes) -> None:
        directory = self._directory(parent)
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            super()._make(entry, parent, name)
            return
        if entry.kind == tarstream.DIRECTORY:
            leads_to = _followed(directory, name) if stat.S_ISLNK(status.st_mode) else status
            if leads_to is None or not stat.S_ISDIR(leads_to.st_mode):
                raise refused(entry, "there is a file of that name, which no directory can replace")
            if not self._archive or stat.S_ISLNK(status.st_mode):
                return
        elif stat.S_ISDIR(status.st_mode):
            raise refused(entry, "there is a directory of that name, which no file can replace")
        super()._make(entry, parent, name)


def _followed(directory: int, name: bytes) -> os.stat_result | None:
    # The process is chrooted: a link leads to nowhere outside.
    try:
        return os.stat(name, dir_fd=directory)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return None


class Taker(Packer):
    """Packs single files and the contents of directories, each from the top of the archive, or below the directories that lead to it."""

    excluded: Sequence[re.Pattern[bytes]] = ()
    _prefix = b""

    def take_with_parents(self, path: str, above: int, *, follow: bool) -> None:
        """Pack what is called `path` under its path without the first `above` directories, which have entries too."""
        status = _status(self._tree, path, follow=follow)
        parts = path.strip("/").split("/")
        directories = parts if status is not None and stat.S_ISDIR(status.st_mode) else parts[:-1]
        for depth in range(above + 1, len(directories) + 1):
            self._parent("/".join(directories[:depth]), "/".join(directories[above:depth]))
        kept = "/".join(directories[above:])
        self._prefix = os.fsencode(f"{kept}/") if kept else b""
        self.take(path, follow=follow)
        self._prefix = b""

    def _parent(self, path: str, name: str) -> None:
        fd = open_in_root(self._tree, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _, xattrs = self._xattrs(os.fsencode(path), fd)
            if not self._leaves_out(os.fsencode(name)):
                self._add(self._entry(os.fsencode(name), os.fstat(fd), xattrs))
        finally:
            os.close(fd)

    def _leaves_out(self, name: bytes) -> bool:
        return any(each.fullmatch(self._prefix + name) for each in self.excluded)

    def _directory(self, path: bytes, fd: int) -> list[bytes]:
        return [] if path and self._leaves_out(path) else super()._directory(path, fd)

    def _file(self, path: bytes, name: bytes, status: os.stat_result, fd: int) -> None:
        if not self._leaves_out(path):
            super()._file(path, name, status, fd)

    def take(self, path: str, *, follow: bool = True) -> None:
        """Pack what is called `path`. A link at its end is followed, or packed as it is."""
        status = _status(self._tree, path, follow=follow)
        if status is None:
            raise Failure("InvalidArgument", f"{path} is a symbolic link that leads nowhere", path=path)
        self._links.clear()
        if not stat.S_ISDIR(status.st_mode):
            self._one(path, follow=follow)
            return
        root, self._tree = self._tree, open_in_root(self._tree, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._contents()
        finally:
            os.close(self._tree)
            self._tree = root

    def finish(self) -> None:
        """The archive's end."""
        self._tar.close()

    def _one(self, path: str, *, follow: bool) -> None:
        parent, name = posixpath.split(path)
        directory = open_in_root(self._tree, parent or "/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            final = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISLNK(final.st_mode) and follow:
                # The file that the link leads to, under the link's name.
                if not self._leaves_out(os.fsencode(name)):
                    self._follow(os.fsencode(name), directory)
                return
            self._inside(b"", os.fsencode(name), directory, -1, os.fstat(directory))
        finally:
            os.close(directory)

    def _follow(self, name: bytes, directory: int) -> None:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Failure("InvalidArgument", f"{os.fsdecode(name)} leads to what is not a file")
            entry = self._entry(name, status, {})
            self._add(entry, _read(fd, status.st_size))
        finally:
            os.close(fd)

    def _contents(self) -> None:
        """What is in the directory that is the tree now, without an entry for itself."""
        pending = [b""]
        while pending:
            path = pending.pop()
            fd = open_in_root(self._tree, os.fsdecode(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                found = self._directory(path, fd)
            finally:
                os.close(fd)
            pending += reversed(found)

    def _add(self, entry: Entry, data: Iterator[bytes] | None = None) -> None:
        if entry.name == b"./":
            return
        if self._prefix:
            link = self._prefix + entry.link if entry.kind == tarstream.HARDLINK else entry.link
            entry = entry.replace(name=self._prefix + entry.name, link=link)
        super()._add(entry, data)


def _read(fd: int, size: int) -> Iterator[bytes]:
    while size:
        piece = os.read(fd, min(size, tarstream.CHUNK)) or bytes(min(size, tarstream.CHUNK))
        size -= len(piece)
        yield piece
