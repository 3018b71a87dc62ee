"""A layer's plain tar, read in one pass out of its compressed blob: kept, hashed, decompressed and measured on the way.

The reader of the tar drives everything: each `read` takes what it needs from the source. There is no thread and no queue, and a slow
unpacker slows the connection and nothing else. The end of the stream is told only after the source's `finish` has verified the blob.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, Literal, Protocol, cast

import zstandard
from isal import igzip_lib

from moorage.server.errors import DataLoss, MoorageError, ResourceExhausted, Unimplemented
from moorage.server.registry.problems import shown

Compression = Literal["gzip", "zstd", "none"]

CHUNK = 1 << 20
SMALL = 64 << 20
"""Below this many bytes nothing is called a bomb."""
_MAX_WINDOW = 128 << 20
_MAGIC: dict[Compression, tuple[bytes, ...]] = {
    "gzip": (b"\x1f\x8b",),
    "zstd": (b"\x28\xb5\x2f\xfd", *(bytes((low, 0x2A, 0x4D, 0x18)) for low in range(0x50, 0x60))),
}
# isal's stubs declare an instance where the class is.
_IsalError = cast(type[Exception], igzip_lib.IsalError)


class Source(Protocol):
    """Where compressed bytes come from."""

    def chunk(self) -> bytes:
        """The next bytes; empty at the end."""
        ...

    def finish(self) -> None:
        """All was read: verify it."""
        ...

    def discard(self) -> None:
        """The bytes are of no use: drop them, however many came."""
        ...


def compression_of(media_type: str) -> Compression:
    """What a layer's media type says. Raises Unimplemented for what cannot be read, as encrypted layers."""
    for suffix, compression in _SUFFIXES.items():
        if media_type.endswith(suffix):
            return compression
    raise Unimplemented(f"cannot unpack a layer of media type {shown(media_type)}", reason="LAYER_TYPE")


_SUFFIXES: dict[str, Compression] = {
    ".tar": "none",
    ".tar+gzip": "gzip",
    ".tar.gzip": "gzip",
    ".tar+zstd": "zstd",
    ".tar.zstd": "zstd",
}


class LayerStream(io.RawIOBase):
    """The plain tar of the layer `digest`, whose blob has `size` bytes.

    `begun` says that bytes were taken from the source; `failure` is the error that ended the stream, if one did: the
    source's, or Undecodable or TooLarge.
    """

    def __init__(
        self, source: Source, digest: str, size: int, compression: Compression, max_size: int, max_ratio: int
    ) -> None:
        super().__init__()
        self._source, self._digest = source, digest
        self._limit = min(max_size, max(SMALL, size * max_ratio))
        self._produced = 0
        self._finished = False
        self.begun = False
        self.failure: BaseException | None = None
        self._decoder = _Checked(source, compression, digest)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes (one chunk's worth when negative or large); empty at the end, once the blob is verified."""
        if self.failure is not None:
            raise self.failure
        if self._finished or size == 0:
            return b""
        self.begun = True
        try:
            data = self._decoder.read(CHUNK if size < 0 else min(size, CHUNK))
            self._count(data)
            if not data:
                self.drain()
        except Undecodable as error:
            # Damaged on the way, or made so? Only the whole blob's digest can tell, and a mismatch is the better message.
            self.failure = error
            self.drain()
            raise
        except BaseException as error:
            self.failure = error
            raise
        return data

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def drain(self) -> None:
        """Take what is left of the blob behind the tar, and verify the blob."""
        if self._finished:
            return
        try:
            while self._source.chunk():
                continue
            self._source.finish()
        except BaseException as error:
            self.failure = error
            raise
        self._finished = True

    def _count(self, data: bytes) -> None:
        self._produced += len(data)
        if self._produced > self._limit:
            message = f"layer {self._digest} unpacks to more than {self._limit} bytes"
            hint = "it looks like a decompression bomb; the limits are max_ratio and max_layer_size of [registry]"
            raise TooLarge(message, reason="LAYER_TOO_LARGE", hint=hint, layer=self._digest)


class Undecodable(DataLoss):
    """The bytes came, and are not what they are called."""


class TooLarge(ResourceExhausted):
    """It unpacks to more than is allowed."""


class _Checked:
    """Decompresses after a look at the first bytes; the library's errors become ours."""

    def __init__(self, source: Source, compression: Compression, digest: str) -> None:
        self._source, self._compression, self._digest = source, compression, digest
        self._read: Callable[[int], bytes] | None = None

    def read(self, size: int) -> bytes:
        if self._read is None:
            self._read = self._begin()
        try:
            return self._read(size)
        except MoorageError:
            raise
        except (_IsalError, zstandard.ZstdError, EOFError) as error:
            raise self._broken(error) from error

    def _begin(self) -> Callable[[int], bytes]:
        first = b""
        while len(first) < 4 and (more := self._source.chunk()):
            first += more
        actual = next((name for name, magics in _MAGIC.items() if first.startswith(magics)), "none")
        if actual != self._compression:
            message = f"layer {self._digest} is called {self._compression} by its manifest, but begins like {actual}"
            raise Undecodable(message.replace("none", "a plain tar"), reason="LAYER_TYPE", layer=self._digest)
        replayed = _Replayed(first, self._source)
        match self._compression:
            case "gzip":
                return _Gzip(replayed).read
            case "zstd":
                decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
                reader = decompressor.stream_reader(cast(IO[bytes], replayed), read_size=CHUNK, read_across_frames=True)
                return reader.read
            case _:
                return replayed.read

    def _broken(self, error: Exception) -> MoorageError:
        if "too much memory" in str(error):
            message = f"layer {self._digest} needs a zstd window of more than {_MAX_WINDOW} bytes"
            return TooLarge(message, reason="LAYER_TOO_LARGE", layer=self._digest)
        message = f"layer {self._digest} cannot be decompressed: {shown(str(error))[1:-1]}"
        return Undecodable(message, reason="LAYER_CONTENT", layer=self._digest)


class _Replayed:
    """A source whose first bytes were looked at already."""

    def __init__(self, first: bytes, source: Source) -> None:
        self._rest, self._source = memoryview(first), source

    def read(self, size: int) -> bytes:
        if not self._rest:
            data = self._source.chunk()
            if len(data) <= size:
                return data
            self._rest = memoryview(data)
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data


class _Gzip:
    """Members of a gzip file one after the other, a bounded piece at a time. Zeros may pad the end."""

    def __init__(self, source: _Replayed) -> None:
        self._source = source
        self._member, self._pending = _member(), b""
        self._ended = False

    def read(self, size: int) -> bytes:
        while not self._ended:
            if self._member.eof:
                self._next_member()
                continue
            data = self._input() if self._member.needs_input else b""
            if output := self._member.decompress(data, size):
                return bytes(output)
        return b""

    def _input(self) -> bytes:
        data, self._pending = self._pending or self._source.read(CHUNK), b""
        if not data:
            raise EOFError("the compressed stream ends early")
        return data

    def _next_member(self) -> None:
        rest = self._member.unused_data
        while not (rest := rest.lstrip(b"\0")):
            if not (rest := self._source.read(CHUNK)):
                self._ended = True
                return
        self._member, self._pending = _member(), rest


def _member() -> igzip_lib.IgzipDecompressor:
    return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
