"""Who a process runs as, looked up in the container's own /etc/passwd and /etc/group.

The files are parsed here: the C library's look-ups would load name service modules out of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from moorage.server.libcontainer.errors import NOT_EXECUTABLE, StartError
from moorage.server.libcontainer.paths import read_file

PASSWD = "/etc/passwd"
GROUP = "/etc/group"
MAX_ID = (1 << 31) - 1
MAX_FILE_SIZE = 4 << 20


class PasswdEntry(NamedTuple):
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str


class GroupEntry(NamedTuple):
    """A line of group(5)."""

    name: str
    gid: int
    members: tuple[str, ...]


class User(NamedTuple):
    """What a process's credentials are to be."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def parse_passwd(content: bytes) -> Iterator[PasswdEntry]:
    """The well-formed lines of a passwd file; others are passed over, as the C library does."""
    for fields in _lines(content, 7):
        uid, gid = parse_id(fields[2]), parse_id(fields[3])
        if uid is not None and gid is not None:
            yield PasswdEntry(fields[0], uid, gid, fields[5])


def parse_group(content: bytes) -> Iterator[GroupEntry]:
    """The well-formed lines of a group file."""
    for fields in _lines(content, 4):
        gid = parse_id(fields[2])
        if gid is not None:
            yield GroupEntry(fields[0], gid, tuple(name for name in fields[3].split(",") if name))


def _lines(content: bytes, count: int) -> Iterator[list[str]]:
    for line in content.split(b"\n"):
        fields = line.strip().decode("utf-8", "surrogateescape").split(":")
        if len(fields) >= count and fields[0] and not fields[0].startswith("#"):
            yield fields


def parse_id(text: str) -> int | None:
    """A user or group number; None when `text` is not one. Numbers above 2³¹-1 are not, for setuid(2) may read them as -1."""
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID:
        return int(text)
    return None


def resolve(root: int, user: Mapping[str, Any], *, want_home: bool = True) -> User:
    """The credentials of OCI `process.user`, in the container whose root directory is `root`.

    `username`, if there is one, is `user[:group]`, each a name or a number, and decides; else `uid` and `gid` do.
    `additionalGids` are added. As with Docker a user without `:group` gets its groups from the group file, a number need
    not be known, and the main group is among the supplementary ones. Without `want_home` a
    user given by numbers is not looked up. `groups` is not of OCI: `merge` takes the group file's beside a main group that was named, too,
    `strict` never takes them. Raises StartError.
    """
    username = user.get("username") or ""
    additional = tuple(user.get("additionalGids") or ())
    if username:
        found = resolve_name(username, _Files(root), user.get("groups") or "")
    else:
        uid = _numeric(user.get("uid", 0))
        found = User(uid, _numeric(user.get("gid", 0)), (), _home(root, uid) if want_home else "/")
    groups = dict.fromkeys((found.gid, *found.groups, *(_numeric(gid) for gid in additional)))
    return User(found.uid, found.gid, tuple(groups), found.home)


class _Files:
    """The two files, read when they are wanted."""

    def __init__(self, root: int) -> None:
        self._root = root

    def passwd(self) -> list[PasswdEntry]:
        return list(parse_passwd(self._read(PASSWD)))

    def group(self) -> list[GroupEntry]:
        return list(parse_group(self._read(GROUP)))

    def _read(self, path: str) -> bytes:
        try:
            return read_file(self._root, path, MAX_FILE_SIZE)
        except FileNotFoundError:
            return b""


def resolve_name(username: str, files: _Files, policy: str = "") -> User:
    """`user[:group]` by the files; `policy` is `strict`, `merge` or as Docker has it."""
    name, _, group = username.partition(":")
    number = parse_id(name)
    entry = next((entry for entry in files.passwd() if _names(entry, name, number)), None)
    if entry is None and number is None:
        raise _unknown("user", name, "passwd")
    uid = entry.uid if entry else number or 0
    home = entry.home if entry else ""
    wanted = entry is not None and policy != "strict" and (policy == "merge" or not group)
    groups = tuple(line.gid for line in files.group() if entry.name in line.members) if entry and wanted else ()
    gid = _group_id(group, files) if group else entry.gid if entry else 0
    return User(uid, gid, groups, home or "/")


def _names(entry: PasswdEntry, name: str, number: int | None) -> bool:
    return entry.uid == number if number is not None else entry.name == name


def _group_id(group: str, files: _Files) -> int:
    number = parse_id(group)
    if number is not None:
        return number
    for entry in files.group():
        if entry.name == group:
            return entry.gid
    raise _unknown("group", group, "group")


def _unknown(kind: str, name: str, file: str) -> StartError:
    message = f"unable to find {kind} {name}: no matching entries in {file} file"
    return StartError(message, path=f"/etc/{file}", exit_code=NOT_EXECUTABLE)


def _numeric(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= MAX_ID:
        raise StartError(f"user or group number {value!r} is not between 0 and {MAX_ID}", exit_code=NOT_EXECUTABLE)
    return value


def _home(root: int, uid: int) -> str:
    # Only for the variable HOME: an image whose file is unreadable runs by number all the same.
    try:
        entries = _Files(root).passwd()
    except StartError:
        return "/"
    return next((entry.home for entry in entries if entry.uid == uid), "") or "/"
