"""ADD of a git repository: `https://host/path.git#ref:directory`, fetched with the host's git as one commit and its files.

The commit that the reference means now is asked for first, and is the cache's key; only when the step has to be done is it fetched. No
working tree is made here: git writes an archive of the commit's tree, which goes to the step's root file system like any other. Submodules
are repositories of their own, of which that of the commit says where they are and which commit is meant.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, cast
from urllib.parse import urlsplit

from moorage.server.builder.context import Whole
from moorage.server.builder.submodules import MODULES, Link, Submodule, address, described, links
from moorage.server.builder.trees import Feeder
from moorage.server.cancel import CancelToken
from moorage.server.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from moorage.server.graph.confined import CHUNK
from moorage.server.registry.problems import shown

COMMIT = re.compile(r"[0-9a-f]{40}")
_REF = re.compile(r"(?!.*(\.\.|@\{|//))[A-Za-z0-9][A-Za-z0-9._/@+-]*")
_ATTRIBUTES = "* -export-ignore -export-subst\n"
"""Every file of the commit, as it is: over what the repository says of archives."""
_SHOWN = 300
MAX_DEPTH = 10
"""How deep submodules may be in each other."""
MAX_SUBMODULES = 1000
"""How many a repository may have, those of its submodules included."""

Add = Callable[[tarfile.TarInfo, IO[bytes] | None], None]
"""Takes a file, directory or link, with its content where it is a file."""


@dataclass(frozen=True)
class GitSource:
    """A repository, a reference in it (`HEAD`, branch, tag or whole commit) and a directory (empty for all of it)."""

    url: str
    ref: str = "HEAD"
    directory: str = ""
    name: str = ""

    @property
    def called(self) -> str:
        """How errors call it."""
        return self.name or f"ADD {self.url}"

    def tree(self, commit: str) -> str:
        """What git calls the directory's tree in a commit."""
        return f"{commit}:{self.directory}" if self.directory else commit


def git_source(text: str) -> GitSource | None:
    """What a source of ADD means; None when it is no repository. Raises ValueError for a malformed reference or directory."""
    url, _, fragment = text.partition("#")
    if not re.match(r"https?://", url) or not urlsplit(url).path.endswith(".git"):
        return None
    ref, _, directory = fragment.partition(":")
    if ref and not _REF.fullmatch(ref):
        raise ValueError(f"{ref!r} is not a branch, tag or commit")
    parts = [part for part in directory.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in directory:
        raise ValueError(f"{directory!r} is not a directory of the repository")
    return GitSource(url, ref or "HEAD", "/".join(parts))


class Git:
    """Blocking. One for a build; `scratch` is where repositories are while they are read, `clamp` the latest time of a file."""

    def __init__(self, scratch: Path, clamp: int | None, cancel: CancelToken) -> None:
        self._scratch = scratch
        self._clamp = clamp
        self._cancel = cancel

    def resolve(self, source: GitSource, checksum: str) -> str:
        """The commit that is meant now. Raises NotFound, Unavailable, DataLoss (not the checksum), FailedPrecondition without git."""
        commit = source.ref if COMMIT.fullmatch(source.ref) else self._look_up(source)
        if checksum and commit != checksum:
            raise DataLoss(f"{source.called}: {source.ref} is commit {commit}, not {checksum}", url=source.url)
        return commit

    def _look_up(self, source: GitSource) -> str:
        ref = source.ref
        names = [ref] if ref == "HEAD" or ref.startswith("refs/") else [f"refs/tags/{ref}", f"refs/heads/{ref}"]
        names = [name for each in names for name in (f"{each}^{{}}", each)]
        answer = self._git(source, "ls-remote", "--", source.url, *names)
        found = {name: commit for commit, _, name in (line.partition("\t") for line in answer.splitlines())}
        commit = next((found[name] for name in names if name in found), "")
        if not COMMIT.fullmatch(commit):
            raise NotFound(
                f"{source.called}: there is no branch or tag {ref}",
                hint="a commit is named by all of its 40 digits",
                url=source.url,
            )
        return commit

    def feeder(self, source: GitSource, commit: str, *, keep: bool, exclude: Sequence[str]) -> Feeder:
        """A feeder of the commit's files, all of them root's and of the commit's time, and of its submodules'; with `keep` of the
        repository too, as `.git`."""

        def feed(pipe: RawIOBase) -> None:
            with _tar(pipe) as tar:
                packing = _Packing(tar.addfile, [re.compile(each) for each in exclude])
                with self._packed(source, commit, packing) as repository:
                    if keep:
                        self._make_worktree(source, commit, repository)
                        tar.add(repository, ".git", filter=packing.plain)

        return feed

    def read(self, source: GitSource, commit: str, add: Add) -> None:
        """Hand the commit's files to `add`, one after the other."""
        with self._packed(source, commit, _Packing(add, [])):
            pass

    @contextmanager
    def _packed(self, source: GitSource, commit: str, packing: _Packing) -> Iterator[Path]:
        """The repository of a commit whose files have been packed."""
        with self._fetched(source, commit) as repository:
            seconds = int(self._git(source, "log", "-1", "--format=%ct", commit, at=repository))
            packing.time = seconds if self._clamp is None else min(seconds, self._clamp)
            self._pack(source, commit, repository, packing)
            yield repository

    def _pack(
        self, source: GitSource, commit: str, repository: Path, packing: _Packing, prefix: str = "", depth: int = 0
    ) -> None:
        """Pack a commit's files, and those of its submodules, below `prefix`."""
        for member, file in self._files(source, commit, repository):
            member.name = f"{prefix}{member.name}"
            if not packing.leaves_out(member.name):
                packing.add(packing.plain(member), file)
        wanted = [
            each for each in self._links(source, commit, repository) if not packing.leaves_out(prefix + each.path)
        ]
        packing.submodules += len(wanted)
        if packing.submodules > MAX_SUBMODULES or (wanted and depth == MAX_DEPTH):
            raise ResourceExhausted(f"{source.called}: too many submodules", url=source.url)
        for link, module in self._submodules(source, commit, repository, wanted):
            with self._fetched(module, link.commit) as fetched:
                self._pack(module, link.commit, fetched, packing, f"{prefix}{link.path}/", depth + 1)

    def _links(self, source: GitSource, commit: str, repository: Path) -> list[Link]:
        return list(links(self._git(source, "ls-tree", "-r", "-z", source.tree(commit), at=repository)))

    def _submodules(
        self, source: GitSource, commit: str, repository: Path, wanted: Sequence[Link]
    ) -> list[tuple[Link, GitSource]]:
        """Where the submodules are fetched from; all are looked at before the first is. Raises InvalidArgument for one that is not."""
        if not wanted:
            return []
        told = ""
        if self._git(source, "ls-tree", "-z", commit, "--", MODULES, at=repository).startswith("100"):
            blob = f"--blob={commit}:{MODULES}"
            told = self._git(source, "config", "-z", "--no-includes", blob, "--list", at=repository)
        known, found = described(told), []
        for link in wanted:
            path = f"{source.directory}/{link.path}" if source.directory else link.path
            module = known.get(path, Submodule())
            if module.update == "none":
                continue
            name = f"{source.called}: submodule {shown(path)}"
            try:
                found.append((link, GitSource(address(source.url, module.url), link.commit, name=name)))
            except ValueError as error:
                what = f"{name} at {shown(module.url)}" if module.url else name
                hint = "leave it out with --exclude"
                raise InvalidArgument(f"{what}: {error}", hint=hint, url=source.url) from None
        return found

    @contextmanager
    def _fetched(self, source: GitSource, commit: str) -> Iterator[Path]:
        """A bare repository with one commit."""
        with TemporaryDirectory(dir=self._scratch) as directory:
            repository = Path(directory, "repository")
            self._git(source, "init", "-q", "--bare", "--template=", str(repository))
            self._git(source, "fetch", "-q", "--depth=1", "--no-tags", "--", source.url, commit, at=repository)
            (repository / "FETCH_HEAD").unlink(missing_ok=True)
            yield repository

    def _files(
        self, source: GitSource, commit: str, repository: Path
    ) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
        """The entries of the commit's archive, each with its content where it is a file."""
        attributes = repository / "info" / "attributes"
        attributes.parent.mkdir()
        attributes.write_text(_ATTRIBUTES)
        command = ["-c", "tar.umask=0022", "archive", "--format=tar", source.tree(commit)]
        with self._started(source, *command, at=repository) as (process, fail):
            try:
                with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=CHUNK) as archive:
                    for member in archive:
                        self._cancel.check()
                        yield member, archive.extractfile(member) if member.isreg() else None
            except tarfile.ReadError as error:
                fail(str(error))
        attributes.unlink()
        attributes.parent.rmdir()

    def _make_worktree(self, source: GitSource, commit: str, repository: Path) -> None:
        """Have a repository be that of the files beside it."""
        self._git(source, "config", "core.bare", "false", at=repository)
        self._git(source, "remote", "add", "origin", source.url, at=repository)
        self._git(source, "update-ref", "--no-deref", "HEAD", commit, at=repository)
        self._git(source, "read-tree", commit, at=repository)

    # --- the program --------------------------------------------------------------------------------------------------

    def _git(self, source: GitSource, *arguments: str, at: Path | None = None) -> str:
        """Run git to its end; what it printed."""
        with self._started(source, *arguments, at=at) as (process, _):
            assert process.stdout is not None
            return process.stdout.read().decode("utf-8", "surrogateescape")

    @contextmanager
    def _started(
        self, source: GitSource, *arguments: str, at: Path | None = None
    ) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[str], None]]]:
        """git, which must end well after the block; and what raises an error when it did not, or for a reason of one's own."""
        where = ["--git-dir", str(at)] if at is not None else []
        with TemporaryDirectory(dir=self._scratch) as home, open(Path(home, "errors"), "w+b") as errors:
            try:
                process = subprocess.Popen(
                    ["git", *where, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=_environment(home),
                    cwd=home,
                )
            except FileNotFoundError:
                message = f"{source.called}: the daemon's host has no git"
                raise FailedPrecondition(message, reason="GIT_MISSING", hint="install git there") from None

            def fail(why: str) -> None:
                self._cancel.check()
                errors.seek(0)
                lines = errors.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
                said = next(
                    (line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else why
                )
                raise _failure(source, said.partition(": ")[2][:_SHOWN] or said[:_SHOWN])

            with process, self._cancel.on_cancel(process.kill):
                try:
                    yield process, fail
                except BaseException:
                    process.kill()
                    raise
                if process.wait():
                    fail(f"git ended with {process.returncode}")


def _failure(source: GitSource, said: str) -> Exception:
    if "not a tree object" in said or "not a valid object name" in said.lower():
        return NotFound(f"{source.called}: there is no directory {source.directory} in {source.ref}", url=source.url)
    if "not found" in said or "not our ref" in said:
        return NotFound(f"{source.called}: {said}", url=source.url)
    return Unavailable(f"{source.called}: {said}", url=source.url)


def _environment(home: str) -> dict[str, str]:
    """Nothing of the host's or anybody's configuration, no questions, and no way but HTTP; proxies as the daemon has them."""
    passed = {name: value for name, value in os.environ.items() if name == "PATH" or name.lower().endswith("_proxy")}
    return {
        **passed,
        "HOME": home,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "http:https",
    }


@contextmanager
def _tar(pipe: RawIOBase) -> Iterator[tarfile.TarFile]:
    with tarfile.open(fileobj=cast(Any, Whole(pipe)), mode="w|", bufsize=CHUNK, format=tarfile.PAX_FORMAT) as tar:
        yield tar


class _Packing:
    """Where files go: what is left out, and the time of all that is not."""

    def __init__(self, add: Add, excluded: Sequence[re.Pattern[str]]) -> None:
        self.add = add
        self.time = 0
        self.submodules = 0
        self._excluded = excluded

    def leaves_out(self, name: str) -> bool:
        return any(each.fullmatch(name) for each in self._excluded)

    def plain(self, member: tarfile.TarInfo) -> tarfile.TarInfo:
        """A member as root's, and nothing more."""
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = self.time
        member.pax_headers = {}
        return member
