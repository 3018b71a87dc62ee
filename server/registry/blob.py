"""Reads a blob as it comes, through broken connections and from one endpoint after the other."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from moorage.server.cancel import CancelToken
from moorage.server.errors import DataLoss, MoorageError, Unavailable
from moorage.server.registry.problems import Subject, TryAgain, of_all
from moorage.server.registry.remote import Attempts, Remote
from moorage.server.registry.throttle import Throttle
from moorage.server.registry.transport import CHUNK, Answer

_SUBSTANTIAL = 1 << 20
"""Bytes that must come through before earlier failures are forgotten: a registry that dribbles does not get patience for ever."""


class BlobReader:
    """The bytes of one blob from `offset` on. The length is held to `size`; the digest is the content store's to check."""

    def __init__(
        self,
        remotes: Sequence[Remote],
        digest: str,
        size: int,
        offset: int,
        cancel: CancelToken,
        throttle: Throttle | None = None,
    ) -> None:
        self._remotes = list(remotes)
        self._throttle = throttle
        self._digest, self._size, self._cancel = digest, size, cancel
        self.offset = offset
        self._answer: Answer | None = None
        self._failures: list[tuple[str, MoorageError]] = []
        self._next_remote()

    def chunk(self) -> bytes:
        """The next bytes; empty when all `size` were read. Raises when no endpoint can give the rest."""
        while self.offset < self._size:
            try:
                data = self._open().chunk()
                if not data:
                    raise TryAgain(self._short())
            except TryAgain as trouble:
                self._retry(trouble)
            except MoorageError as error:
                self._give_up(error)
            else:
                return self._taken(data)
        return b""

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _taken(self, data: bytes) -> bytes:
        if self.offset + len(data) > self._size:
            raise self._wrong(f"it sends more than the {self._size} bytes that the manifest says")
        if self._throttle is not None:
            self._throttle.take(len(data), self._cancel)
        before = self.offset
        self.offset += len(data)
        if before // _SUBSTANTIAL != self.offset // _SUBSTANTIAL:
            self._attempts.progressed()
        return data

    def _open(self) -> Answer:
        if self._answer is None:
            headers = {"Range": f"bytes={self.offset}-"} if self.offset else {}
            path = f"blobs/{self._digest}"
            answer = self._remote.get_once(path, headers, self._subject, self._cancel)
            try:
                self._place(answer)
            except BaseException:
                answer.close()
                raise
            self._answer = answer
        return self._answer

    def _place(self, answer: Answer) -> None:
        """Bring the answer's body to `offset`, and check that its length is what is missing."""
        start = 0
        if answer.status == 206:
            start = _range_start(answer.headers.get("Content-Range", ""))
            if start != self.offset:
                raise self._wrong(f"asked for bytes from {self.offset} on, it sends from {start}")
        if answer.length is not None and start + answer.length != self._size:
            raise self._wrong(f"it has {start + answer.length} bytes, not the {self._size} that the manifest says")
        skip = self.offset - start
        while skip > 0:
            data = answer.chunk(min(skip, CHUNK))
            if not data:
                raise TryAgain(self._short())
            skip -= len(data)

    def _retry(self, trouble: TryAgain) -> None:
        self.close()
        try:
            self._attempts.again(trouble)
        except MoorageError as error:
            self._give_up(error)

    def _give_up(self, error: MoorageError) -> None:
        """Go on with the next endpoint; raise when there is none."""
        self.close()
        self._cancel.check()
        self._failures.append((self._remote.host, error))
        if not self._remotes:
            raise of_all(self._failures)
        self._next_remote()

    def _next_remote(self) -> None:
        self._remote = self._remotes.pop(0)
        self._attempts = Attempts(self._remote.retries, self._cancel)
        self._subject = self._remote.subject(f"get blob {self._digest}")

    def _short(self) -> Unavailable:
        message = f"{self._subject}: the connection ended after {self.offset} of {self._size} bytes"
        hint = "what came is kept; the next pull goes on from there"
        return Unavailable(message, reason="REGISTRY_UNREACHABLE", hint=hint, **self._subject.metadata())

    def _wrong(self, why: str) -> DataLoss:
        return wrong_content(self._subject, why)


def wrong_content(subject: Subject, why: str) -> DataLoss:
    """The error for content that is not what was asked for."""
    hint = "the registry, or a proxy before it, serves damaged content"
    return DataLoss(f"{subject}: {why}", reason="REGISTRY_CONTENT", hint=hint, **subject.metadata())


def _range_start(value: str) -> int:
    """The first byte of `bytes 5-9/10`; -1 when it says something else."""
    unit, _, span = value.partition(" ")
    first = span.partition("-")[0]
    return int(first) if unit == "bytes" and len(first) < 19 and first.isascii() and first.isdigit() else -1
