"""A blob on its way from a repository into another: read while it is sent, and kept nowhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from moorage.server.cancel import CancelToken
from moorage.server.errors import MoorageError
from moorage.server.registry.blob import BlobReader
from moorage.server.registry.manifest import Descriptor
from moorage.server.registry.reference import Reference


class Unobtainable(Exception):
    """Nobody is known who has a blob."""


class Damaged(Exception):
    """What came is not what its digest says; `origins` are those it came from."""

    def __init__(self, origins: frozenset[Reference]) -> None:
        super().__init__()
        self.origins = origins


class Relay:
    """A file to read from, for an upload. `sources` are origins, each with what opens the blob there at an offset: one that fails is
    followed by the next.

    The last bytes are given out only when the digest is right, so that what is damaged is never sent whole; after a `seek` into the middle
    that is left to the registry that takes it. `read` raises Damaged, Unobtainable, and what the cancel token raises.
    """

    def __init__(
        self,
        blob: Descriptor,
        sources: Iterable[tuple[Reference, Callable[[int], BlobReader]]],
        cancel: CancelToken,
    ) -> None:
        """Reads the first bytes: raises Unobtainable when none of `sources` gives any."""
        self._blob, self._sources, self._cancel = blob, list(sources), cancel
        self._algorithm = blob.digest.partition(":")[0]
        self._reader: BlobReader | None = None
        self._present = 0
        self._rest = memoryview(b"")
        self._used: set[Reference] = set()
        self._place(0)
        self._take()

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end."""
        if not self._rest and self._offset < self._blob.size:
            self._take()
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        self._offset += len(data)
        return data

    def seek(self, offset: int, /) -> int:
        if offset != self._offset:
            self.close()
            self._place(offset)
        return offset

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _place(self, offset: int) -> None:
        self._offset, self._rest = offset, memoryview(b"")
        self._hash = None if offset else hashlib.new(self._algorithm)

    def _take(self) -> None:
        """The next bytes, from the present source or one of those that follow."""
        while not self._rest and self._offset < self._blob.size:
            if self._present == len(self._sources):
                raise Unobtainable(self._blob.digest)
            origin, opened = self._sources[self._present]
            try:
                if self._reader is None:
                    self._reader = opened(self._offset)
                self._rest = memoryview(self._reader.chunk())
            except MoorageError:
                self._cancel.check()
                self.close()
                self._present += 1
            else:
                self._used.add(origin)
        self._check()

    def _check(self) -> None:
        if self._hash is not None:
            self._hash.update(self._rest)
            whole = self._offset + len(self._rest) == self._blob.size
            if whole and f"{self._algorithm}:{self._hash.hexdigest()}" != self._blob.digest:
                raise Damaged(frozenset(self._used))
