"""The context of a build: the files a client has to offer, as a list; their contents are blobs of the content store.

COPY chooses among them, tells what it chose by one digest (names, modes and contents, no times), and streams that as a tar.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import posixpath
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import RawIOBase
from typing import Any, BinaryIO, Literal, cast

from moorage.server.builder.patterns import named
from moorage.server.builder.trees import Feeder
from moorage.server.cancel import CancelToken
from moorage.server.errors import InvalidArgument, ResourceExhausted
from moorage.server.graph.confined import CHUNK
from moorage.server.graph.content import DIGEST

MAX_ENTRIES = 1_000_000
MAX_NAME = 4095
WHITEOUT = ".wh."
_WILD = set("*?[")


@dataclass(frozen=True)
class ContextEntry:
    """A file, directory or symbolic link of a context. `path` is relative, with slashes; `digest` and `size` are a file's."""

    path: str
    kind: Literal["file", "directory", "link"]
    mode: int = 0o644
    size: int = 0
    mtime_ns: int = 0
    digest: str = ""
    target: str = ""


@dataclass(frozen=True)
class Chosen:
    """Entries under the names they are to have below the target; `single` when one file was named alone."""

    entries: tuple[ContextEntry, ...]
    single: bool

    @property
    def digest(self) -> str:
        """What makes them what they are."""
        told = [[each.path, each.kind, each.mode, each.digest, each.target] for each in self.entries]
        return hashlib.sha256(json.dumps([self.single, told]).encode("utf-8", "surrogateescape")).hexdigest()


class BuildContext:
    """The list, checked: it comes from a client and ends up as names in images."""

    def __init__(self, entries: Iterable[ContextEntry] = ()) -> None:
        self._entries: dict[str, ContextEntry] = {}
        for entry in entries:
            self._add(entry)

    def _add(self, entry: ContextEntry) -> None:
        parts = entry.path.split("/")
        if not entry.path or len(entry.path) > MAX_NAME or {"", ".", ".."} & set(parts) or "\0" in entry.path:
            raise InvalidArgument(f"context file {entry.path[:100]!r} has a malformed name", field="context")
        if any(part.startswith(WHITEOUT) for part in parts):
            raise InvalidArgument(
                f"context file {entry.path!r}: in a layer, names that begin with {WHITEOUT} mean deletions",
                field="context",
                hint="rename it, or leave it out with a .dockerignore file",
            )
        if entry.kind == "file" and not (DIGEST.fullmatch(entry.digest) and entry.size >= 0):
            raise InvalidArgument(f"context file {entry.path!r} has a malformed digest or size", field="context")
        if entry.kind == "link" and (not entry.target or "\0" in entry.target):
            raise InvalidArgument(f"context link {entry.path!r} has a malformed target", field="context")
        if len(self._entries) >= MAX_ENTRIES:
            raise ResourceExhausted(f"the context has more than {MAX_ENTRIES} files", hint="use a .dockerignore file")
        self._entries[entry.path] = replace(entry, mode=entry.mode & 0o7777)

    def files(self) -> dict[str, int]:
        """The size of every content, by its digest."""
        return {each.digest: each.size for each in self._entries.values() if each.kind == "file"}

    def get(self, path: str) -> ContextEntry | None:
        return self._entries.get(path)

    def leads_through_link(self, path: str) -> bool:
        """Whether a symbolic link is among a path's directories."""
        parts = path.split("/")
        found = (self._entries.get("/".join(parts[:depth])) for depth in range(1, len(parts)))
        return any(entry is not None and entry.kind == "link" for entry in found)

    def choose(
        self,
        patterns: Sequence[str],
        fail: Callable[[str], Exception],
        *,
        parents: bool = False,
        exclude: Sequence[str] = (),
    ) -> list[Chosen]:
        """What each pattern names: a directory's contents, or files by their last names.

        With `parents` by their paths, from a `/./` in the pattern on; `**` is for any number of directories then, and finds links as they
        are. `exclude` are regular expressions of names below the target. `fail` makes the error for a pattern that names nothing, which one
        with `*`, `?` or `[…]` may as long as another does.
        """
        excluded = [re.compile(each) for each in exclude]
        found, named_any = [], not patterns
        for pattern in patterns:
            above, pivot, kept = pattern.partition("/./") if parents else ("", "", pattern)
            whole = f"{above}/{kept}" if pivot else pattern
            deep = parents and "**" in whole.split("/")
            matches = self._topmost(whole) if deep else self._matches(whole)
            if not matches and not set(pattern) & _WILD:
                raise fail(pattern)
            named_any = named_any or bool(matches)
            for path in matches:
                chosen = self._one(path, fail, follow=not deep)
                if parents:
                    chosen = self._with_parents(chosen, path, above.count("/") + 1 if pivot else 0)
                entries = tuple(
                    each for each in chosen.entries if not any(one.fullmatch(each.path) for one in excluded)
                )
                if entries or not chosen.single:
                    found.append(replace(chosen, entries=entries))
        if not named_any:
            raise fail(patterns[0])
        return found

    def _with_parents(self, chosen: Chosen, path: str, above: int) -> Chosen:
        """The same below the directories that lead to it, but for the first `above`."""
        parts = path.split("/")[:-1] if chosen.single else path.split("/")
        prefix = "/".join(parts[above:])
        if prefix in ("", "."):
            return replace(chosen, single=False)
        leading = [self._entries.get("/".join(parts[:depth])) for depth in range(above + 1, len(parts) + 1)]
        directories = [
            replace(each, path="/".join(each.path.split("/")[above:]))
            for each in leading
            if each is not None and each.kind == "directory"
        ]
        below = [replace(each, path=f"{prefix}/{each.path}") for each in chosen.entries]
        return Chosen((*directories, *below), single=False)

    def _matches(self, pattern: str) -> list[str]:
        if pattern == ".":
            return ["."]
        if pattern in self._entries:
            return [pattern]
        if not set(pattern) & _WILD:
            resolved = self._resolve(pattern)
            return [resolved] if resolved in self._entries else []
        parts = pattern.split("/")
        wanted = [re.compile(fnmatch.translate(part.replace("[^", "[!"))) for part in parts]
        return sorted(
            path
            for path in self._entries
            if path.count("/") == len(parts) - 1
            and all(one.match(part) for one, part in zip(wanted, path.split("/"), strict=True))
        )

    def _topmost(self, pattern: str) -> list[str]:
        """What a pattern with `**` names, without what is below that."""
        wanted = re.compile(named(pattern))
        found: list[str] = []
        for path in sorted(
            (each for each in self._entries if wanted.fullmatch(each)), key=lambda each: each.split("/")
        ):
            if not found or not path.startswith(f"{found[-1]}/"):
                found.append(path)
        return found

    def _resolve(self, path: str) -> str:
        """A path with the links that lead to it replaced, inside the context."""
        resolved = ""
        for _ in range(40):
            parts = path.split("/")
            for depth in range(1, len(parts) + 1):
                entry = self._entries.get("/".join(parts[:depth]))
                if entry is not None and entry.kind == "link":
                    base = "/" if entry.target.startswith("/") else posixpath.join("/", *parts[: depth - 1])
                    moved = posixpath.normpath(posixpath.join(base, entry.target, *parts[depth:]))
                    path = moved.lstrip("/") or "."
                    break
            else:
                resolved = path
                break
        return resolved

    def _one(self, path: str, fail: Callable[[str], Exception], *, follow: bool) -> Chosen:
        entry = self._entries.get(path)
        name = posixpath.basename(path)
        if entry is not None and entry.kind == "link" and follow:
            real = self._resolve(path)
            entry = self._entries.get(real)
            if entry is None and real != ".":
                raise fail(path)
            path = real
        if path == "." or (entry is not None and entry.kind == "directory"):
            prefix = "" if path == "." else f"{path}/"
            below = [each for each in self._entries.values() if each.path.startswith(prefix)]
            moved = [replace(each, path=each.path[len(prefix) :]) for each in below]
            return Chosen(tuple(sorted(moved, key=lambda each: each.path)), single=False)
        assert entry is not None
        return Chosen((replace(entry, path=name),), single=True)


def tar_feeder(
    entries: Sequence[ContextEntry],
    open_blob: Callable[[str], BinaryIO],
    clamp_seconds: int | None,
    cancel: CancelToken,
) -> Feeder:
    """A feeder of a tar of entries, all of them root's."""

    def feed(pipe: RawIOBase) -> None:
        with tarfile.open(fileobj=cast(Any, Whole(pipe)), mode="w|", bufsize=CHUNK, format=tarfile.PAX_FORMAT) as tar:
            for entry in entries:
                cancel.check()
                info = _info(entry, clamp_seconds)
                if entry.kind == "file":
                    with open_blob(entry.digest) as file:
                        tar.addfile(info, file)
                else:
                    tar.addfile(info)

    return feed


class Whole:
    """Writes to a pipe all that it is given."""

    def __init__(self, pipe: RawIOBase) -> None:
        self._pipe = pipe

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            view = view[self._pipe.write(view) :]
        return len(data)


def _info(entry: ContextEntry, clamp_seconds: int | None) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path)
    seconds = entry.mtime_ns // 10**9
    info.mtime = seconds if clamp_seconds is None else min(seconds, clamp_seconds)
    info.mode = entry.mode
    match entry.kind:
        case "file":
            info.size = entry.size
        case "directory":
            info.type = tarfile.DIRTYPE
        case "link":
            info.type, info.linkname = tarfile.SYMTYPE, entry.target
    return info


def inline_entries(files: Iterable[tuple[str, str, int]]) -> Iterator[ContextEntry]:
    """Entries for files by name, digest and size, as here-documents make them."""
    for name, digest, size in files:
        yield ContextEntry(name, "file", 0o644, size, 0, digest)
