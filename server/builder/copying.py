"""COPY, ADD and WORKDIR: what is to be copied is chosen first, which gives the cache key; then it is put into a root file system."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

import urllib3

from moorage.server.builder import archives, modes
from moorage.server.builder.context import BuildContext, ContextEntry, Whole, tar_feeder
from moorage.server.builder.fetch import fetch
from moorage.server.builder.gitsource import Git, GitSource
from moorage.server.builder.layout import CopyAction
from moorage.server.builder.source import Place
from moorage.server.builder.trees import Feeder, Placement, Sources, Trees, copied
from moorage.server.cancel import CancelToken
from moorage.server.graph.drivers.base import RootfsMount
from moorage.server.graph.graph import Graph

_NUMBERS = re.compile(r"[0-9]+(:[0-9]+)?")


@dataclass(frozen=True)
class Part:
    """One stream that goes to one place."""

    where: Placement
    feed: Feeder


@dataclass
class Prepared:
    """A COPY that is ready: its parts in their order, and what its cache key is made of."""

    key: dict[str, Any]
    parts: list[Part] = field(default_factory=list)


class Copier:
    """Blocking. One for a build; `clamp` is the latest time of a file, in seconds since the epoch."""

    def __init__(
        self,
        graph: Graph,
        trees: Trees,
        scratch: Path,
        clamp: int | None,
        cancel: CancelToken,
    ) -> None:
        self._graph = graph
        self._trees = trees
        self._clamp = clamp
        self._cancel = cancel
        self._git = Git(scratch, clamp, cancel)
        self._http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=30, read=60), retries=urllib3.Retry(3))

    def close(self) -> None:
        self._http.clear()

    def prepare(self, action: CopyAction, place: Place, origin: str | BuildContext) -> Prepared:
        """Choose. `origin` is a chain ID or image, or files that a client listed."""
        key = {
            "copy": action.target,
            "owner": action.owner,
            "mode": action.mode,
            "unpack": action.unpack,
            **({"link": True} if action.link else {}),
        }
        if isinstance(origin, str):
            return self._from_tree(action, place, origin, key)
        return self._from_context(action, place, origin, key)

    def with_numbers(self, action: CopyAction, place: Place, chain_id: str) -> CopyAction:
        """A copy whose owner is numbers, looked up in the files of a chain: so that it needs no more of them."""
        if not action.owner or _NUMBERS.fullmatch(action.owner):
            return action
        view, what = self._graph.driver.view(chain_id), f"{place}: {action.keyword}"
        return replace(action, owner=self._trees.owner(view, action.owner, what))

    def put(self, rootfs: tuple[RootfsMount, ...], prepared: Prepared) -> None:
        """Put it into a root file system."""
        for part in prepared.parts:
            self._trees.put(rootfs, part.where, part.feed, self._cancel)

    def _from_tree(self, action: CopyAction, place: Place, origin: str, key: dict[str, Any]) -> Prepared:
        what = f"{place}: {action.keyword} --from"
        view = self._graph.view(origin)
        sources = Sources(action.sources, action.parents, action.exclude)
        files, directories = self._trees.look(view, sources, what)
        inline = self._inline(action)
        self._check_count(action, place, files + len(inline))
        where = self._placement(action, place, single=files + len(inline) == 1 and not directories)

        def feed(pipe: RawIOBase) -> None:
            self._trees.take(view, sources, what, Whole(pipe), self._cancel)

        parts = [Part(where, feed)] if action.sources else []
        parts += [self._files(where, inline)] if inline else []
        return Prepared({**key, "origin": origin, "sources": vars(sources), "inline": _told(inline)}, parts)

    def _from_context(self, action: CopyAction, place: Place, context: BuildContext, key: dict[str, Any]) -> Prepared:
        chosen = context.choose(
            action.sources,
            lambda source: self._no_such(action, place, source),
            parents=action.parents,
            exclude=action.exclude,
        )
        singles = [each.entries[0] for each in chosen if each.single]
        fetched = [fetch(url, action.checksum, self._graph.content, self._http, self._cancel) for url in action.urls]
        packed = [each for each in singles if action.unpack and self._is_archive(each)]
        plain = [each for each in singles if each not in packed] + fetched + self._inline(action)
        contents = [entry for each in chosen if not each.single for entry in each.entries]
        directories = any(not each.single for each in chosen)
        self._check_count(action, place, len(plain))
        parts = [self._archive(action, place, each) for each in packed]
        if plain or directories:
            where = self._placement(action, place, single=len(plain) == 1 and not directories and not packed)
            parts.append(self._files(where, contents + plain))
        commits = [self._git.resolve(each, action.checksum) for each in action.repositories]
        parts += [self._repository(action, place, *each) for each in zip(action.repositories, commits, strict=True)]
        digests = [each.digest for each in chosen]
        return Prepared(
            {
                **key,
                "context": digests,
                "fetched": _told(fetched),
                "inline": _told(self._inline(action)),
                "git": [[commit, each.directory] for commit, each in zip(commits, action.repositories, strict=True)],
                "git_options": [action.keep_git_dir, action.exclude, "submodules"] if commits else [],
            },
            parts,
        )

    def _repository(self, action: CopyAction, place: Place, source: GitSource, commit: str) -> Part:
        feed = self._git.feeder(source, commit, keep=action.keep_git_dir, exclude=action.exclude)
        return Part(self._placement(action, place, single=False), feed)

    def _files(self, where: Placement, entries: list[ContextEntry]) -> Part:
        return Part(where, tar_feeder(entries, self._graph.content.open, self._clamp, self._cancel))

    def _archive(self, action: CopyAction, place: Place, entry: ContextEntry) -> Part:
        what = f"{place}: ADD {entry.path}"
        where = self._placement(action, place, single=False, archive=True)

        def feed(pipe: RawIOBase) -> None:
            with self._graph.content.open(entry.digest) as file, archives.plain_tar(file, what) as tar:
                copied(tar, self._cancel)(pipe)

        return Part(where, feed)

    def _is_archive(self, entry: ContextEntry) -> bool:
        with self._graph.content.open(entry.digest) as file:
            return archives.is_archive(file)

    def _placement(self, action: CopyAction, place: Place, *, single: bool, archive: bool = False) -> Placement:
        return Placement(
            what=f"{place}: {action.keyword}",
            target=action.target.rstrip("/") or "/",
            directory=not single or action.target.endswith("/"),
            owner=action.owner,
            mode=modes.parse(action.mode) if action.mode else None,
            archive=archive,
        )

    def _inline(self, action: CopyAction) -> list[ContextEntry]:
        return [
            ContextEntry(each.name, "file", 0o644, len(each.data), 0, self._graph.add_document(each.data))
            for each in action.inline
        ]

    def _check_count(self, action: CopyAction, place: Place, files: int) -> None:
        if files > 1 and not action.target.endswith("/"):
            raise place.error(
                f"{action.keyword} {action.target}: {files} files cannot have one name", "end the target with a slash"
            )

    def _no_such(self, action: CopyAction, place: Place, source: str) -> Exception:
        return place.error(
            f"{action.keyword} {source}: no such file in the context", "look at the .dockerignore file, too"
        )


def _told(entries: list[ContextEntry]) -> list[list[object]]:
    return [[each.path, each.mode, each.digest] for each in entries]
