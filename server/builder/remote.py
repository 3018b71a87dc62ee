"""Contexts that the daemon fetches: git repositories, whose files become contents of the store as if a client had sent them."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from typing import IO

from moorage.server.builder.context import BuildContext, ContextEntry
from moorage.server.builder.gitsource import Git, git_source
from moorage.server.errors import InvalidArgument
from moorage.server.graph.confined import CHUNK
from moorage.server.graph.content import ContentStore


def fetched(url: str, git: Git, content: ContentStore) -> BuildContext:
    """The files of a repository, `https://host/path.git#ref:directory`. Raises InvalidArgument, and what ADD of a repository does."""
    try:
        source = git_source(url)
    except ValueError as error:
        raise InvalidArgument(f"context {url}: {error}", field="context") from None
    if source is None:
        hint = "https://host/path.git#branch:directory"
        raise InvalidArgument(
            f"context {url}: only git repositories over http and https are fetched", field="context", hint=hint
        )
    source = replace(source, name=f"context {url}")
    entries: list[ContextEntry] = []

    def add(member: tarfile.TarInfo, file: IO[bytes] | None) -> None:
        path, mtime_ns = member.name.strip("/"), int(member.mtime) * 10**9
        if member.isdir():
            entries.append(ContextEntry(path, "directory", member.mode, mtime_ns=mtime_ns))
        elif member.issym():
            entries.append(ContextEntry(path, "link", mtime_ns=mtime_ns, target=member.linkname))
        elif file is not None:
            entries.append(ContextEntry(path, "file", member.mode, member.size, mtime_ns, _stored(file, content)))

    git.read(source, git.resolve(source, ""), add)
    return BuildContext(entries)


def _stored(file: IO[bytes], content: ContentStore) -> str:
    """The digest of a file that is in the content store now."""
    with content.draft() as draft:
        while data := file.read(CHUNK):
            draft.write(data)
        return draft.commit()
