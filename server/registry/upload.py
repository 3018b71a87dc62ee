"""Sends blobs to a repository (OCI distribution spec, "Pushing blobs"): what is there is skipped, what a sister repository has is
mounted, the rest goes in one request or in chunks, and goes on where a broken connection left it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from enum import Enum
from typing import Protocol

from moorage.server.cancel import CancelToken
from moorage.server.errors import Internal, MoorageError, NotFound
from moorage.server.registry.manifest import ACCEPT, Descriptor
from moorage.server.registry.problems import Subject, TryAgain, shown
from moorage.server.registry.remote import Attempts, Remote
from moorage.server.registry.throttle import Throttle
from moorage.server.registry.transport import Answer

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})", re.ASCII)
_SUBSTANTIAL = 1 << 20
"""Bytes that must get through before earlier failures are forgotten."""
_MOUNTS = 3
"""So many repositories are tried as the source of a mount."""
_DATA = {"Content-Type": "application/octet-stream"}

Moved = Callable[[int], None]
"""Told how many bytes of the blob have gone so far."""


class Readable(Protocol):
    """Where a blob's bytes come from."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, /) -> int: ...


class Sent(Enum):
    """What became of a blob."""

    EXISTS = "exists"
    MOUNTED = "mounted"
    UPLOADED = "uploaded"


class Uploader:
    """Sends blobs to one repository. Thread-safe.

    `chunk` is the most bytes in one request, 0 for no bound: the blob then goes whole.
    """

    def __init__(self, remote: Remote, chunk: int, throttle: Throttle, cancel: CancelToken) -> None:
        self._remote, self._chunk, self._throttle, self._cancel = remote, chunk, throttle, cancel

    def exists(self, digest: str, kind: str = "blobs") -> bool:
        """Whether the repository has a blob (or, of `kind` "manifests", a manifest)."""
        subject = self._remote.subject(f"look for {digest}", "in")
        headers = {"Accept": ACCEPT} if kind == "manifests" else {}
        with self._remote.send("HEAD", f"{kind}/{digest}", headers, subject, self._cancel, expect=(200, 404)) as answer:
            return answer.status == 200

    def put(
        self,
        blob: Descriptor,
        content: Callable[[], AbstractContextManager[Readable]],
        sources: Iterable[str] = (),
        moved: Moved = lambda _: None,
    ) -> Sent:
        """Have `blob` in the repository. `content` is asked for its bytes only when they are needed; `sources` are repositories of the
        same registry that may have it. Raises what `problems` makes of refusals, and what `content` raises."""
        if self.exists(blob.digest):
            return Sent.EXISTS
        session = None
        for source in list(sources)[:_MOUNTS]:
            if session is not None:
                session.drop()
            session = self._mount(blob, source)
            if session is None:
                return Sent.MOUNTED
        with content() as file:
            self._send(blob, file, session, moved)
        return Sent.UPLOADED

    def _mount(self, blob: Descriptor, source: str) -> _Session | None:
        """None when it is mounted; else the upload that the registry began in its place."""
        subject = self._subject(f"mount from {source} blob", blob.digest)
        path = f"blobs/uploads/?mount={blob.digest}&from={source}"
        headers = {"Content-Length": "0"}
        with self._remote.send("POST", path, headers, subject, self._cancel, expect=(201, 202)) as answer:
            return None if answer.status == 201 else self._session(blob, answer)

    def _begin(self, blob: Descriptor) -> _Session:
        subject = self._subject("begin the upload of blob", blob.digest)
        headers = {"Content-Length": "0"}
        with self._remote.send_once(
            "POST", "blobs/uploads/", headers, subject, self._cancel, expect=(202,), body=None
        ) as answer:
            return self._session(blob, answer)

    def _session(self, blob: Descriptor, answer: Answer) -> _Session:
        subject = self._subject("push blob", blob.digest)
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        minimum = int(least) if least.isascii() and least.isdigit() and len(least) < 16 else 0
        chunk = max(self._chunk, minimum) if self._chunk else 0
        return _Session(
            self._remote, subject, self._remote.located(answer, subject), chunk, self._throttle, self._cancel
        )

    def _send(self, blob: Descriptor, file: Readable, session: _Session | None, moved: Moved) -> None:
        attempts = Attempts(self._remote.retries, self._cancel)
        broken, reached = False, 0
        while True:
            try:
                if session is not None and broken and not session.found_again():
                    session = None
                    if self.exists(blob.digest):
                        return
                if session is None:
                    session = self._begin(blob)
                session.send(blob, file, moved)
                return
            except TryAgain as trouble:
                broken = True
                if session is not None and session.offset >= reached + _SUBSTANTIAL:
                    reached = session.offset
                    attempts.progressed()
                attempts.again(trouble)

    def _subject(self, action: str, digest: str) -> Subject:
        return self._remote.subject(f"{action} {digest}", "to")


class _Session:
    """An upload under way. `offset` is how much of it the registry has."""

    def __init__(
        self, remote: Remote, subject: Subject, location: str, chunk: int, throttle: Throttle, cancel: CancelToken
    ) -> None:
        self._remote, self._subject, self._location = remote, subject, location
        self._chunk, self._throttle, self._cancel = chunk, throttle, cancel
        self.offset = 0

    def send(self, blob: Descriptor, file: Readable, moved: Moved) -> None:
        """All from `offset` on, and the end. A blob that goes whole, from its beginning, needs one request."""
        whole = self.offset == 0 and (not self._chunk or blob.size <= self._chunk)
        while not whole and self.offset < blob.size:
            self._patch(min(self._chunk or blob.size, blob.size - self.offset), file, moved)
        file.seek(self.offset)
        length = blob.size - self.offset
        body = _Piece(file, length, self.offset, moved, self._throttle, self._cancel)
        target = f"{self._location}{'&' if '?' in self._location else '?'}digest={blob.digest}"
        headers = {**_DATA, "Content-Length": str(length)}
        with self._request("PUT", target, headers, (201, 204), body if length else None):
            moved(blob.size)

    def found_again(self) -> bool:
        """Ask how far it came; False when the registry has forgotten it, or has nothing of it."""
        try:
            with self._request("GET", self._location, {}, (204, 200, 404)) as answer:
                self.offset = _reached(answer) if answer.status != 404 else 0
                self._move(answer)
        except MoorageError:
            # It does not answer such questions: a new upload will do.
            self._cancel.check()
            return False
        return self.offset > 0

    def drop(self) -> None:
        """Give it up; a registry that will not hear of it forgets it in time."""
        try:
            self._request("DELETE", self._location, {}, (204, 202, 200)).close()
        except (MoorageError, TryAgain):
            self._cancel.check()

    def _patch(self, length: int, file: Readable, moved: Moved) -> None:
        file.seek(self.offset)
        end = self.offset + length
        body = _Piece(file, length, self.offset, moved, self._throttle, self._cancel)
        headers = {**_DATA, "Content-Length": str(length), "Content-Range": f"{self.offset}-{end - 1}"}
        with self._request("PATCH", self._location, headers, (202, 204, 201), body) as answer:
            said = _RANGE.fullmatch(answer.headers.get("Range", ""))
            reached = int(said[1]) + 1 if said else end
            if not self.offset < reached <= end:
                raise self._wrong(f"it has {reached} bytes after {end} were sent")
            self.offset = reached
            self._move(answer)

    def _request(
        self, method: str, url: str, headers: dict[str, str], expect: tuple[int, ...], body: _Piece | None = None
    ) -> Answer:
        accepted = (*expect, 404, 416)
        answer = self._remote.send_once(method, url, headers, self._subject, self._cancel, expect=accepted, body=body)
        if answer.status in (404, 416) and answer.status not in expect:
            # The upload is lost, or not where we think it is: ask, and go on from there.
            answer.close()
            lost = NotFound(
                f"{self._subject}: it has lost the upload, with {answer.status}", **self._subject.metadata()
            )
            raise TryAgain(lost)
        return answer

    def _move(self, answer: Answer) -> None:
        if answer.headers.get("Location"):
            self._location = self._remote.located(answer, self._subject)

    def _wrong(self, why: str) -> Internal:
        return Internal(f"{self._subject}: {why}", reason="REGISTRY_PROTOCOL", **self._subject.metadata())


class _Piece:
    """A part of a file, as the body of a request."""

    def __init__(
        self, file: Readable, length: int, offset: int, moved: Moved, throttle: Throttle, cancel: CancelToken
    ) -> None:
        self._file, self._left, self._offset = file, length, offset
        self._moved, self._throttle, self._cancel = moved, throttle, cancel

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._cancel.check()
        self._throttle.take(len(data), self._cancel)
        self._left -= len(data)
        self._moved(self._offset)
        self._offset += len(data)
        return data


def _reached(answer: Answer) -> int:
    """Bytes that a registry says it has: `0-9` for ten. For none there is no form, and registries say `0-0`."""
    found = _RANGE.fullmatch(answer.headers.get("Range", ""))
    return int(found[1]) + 1 if found and int(found[1]) else 0


def put_document(remote: Remote, raw: bytes, media_type: str, digest: str, target: str, cancel: CancelToken) -> bool:
    """Name a document whose parts are there; answers whether the registry has noted what it refers to. Raises Internal when it says that it
    has something else now."""
    subject = remote.subject(f"push manifest {target}", "to")
    headers = {"Content-Type": media_type, "Content-Length": str(len(raw))}
    with remote.send(
        "PUT", f"manifests/{target}", headers, subject, cancel, expect=(201, 202, 200), body=raw
    ) as answer:
        _check_digest(answer, digest, subject)
        return bool(answer.headers.get("OCI-Subject"))


def _check_digest(answer: Answer, digest: str, subject: Subject) -> None:
    said = answer.headers.get("Docker-Content-Digest", "")
    if said and said.partition(":")[0] == "sha256" and said != digest:
        message = f"{subject}: it says that it has {shown(said)}, where {digest} was sent"
        raise Internal(message, reason="REGISTRY_PROTOCOL", **subject.metadata())
