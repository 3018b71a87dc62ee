"""What pulls and pushes need of the image store, as interfaces: `graph/` fulfils them and is not imported here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from moorage.server.cancel import CancelToken
from moorage.server.model import Image, Layer, LayerBlob


class BlobWriter(Protocol):
    """An ingest under way. What was written is kept when the block is left without `commit`, for a later writer to go on."""

    @property
    def offset(self) -> int:
        """Bytes already here."""
        ...

    def write(self, data: bytes) -> object:
        """Append."""
        ...

    def commit(self) -> object:
        """Check size and digest, and give the blob its name; raise DataLoss, and drop what was written, when they are wrong."""
        ...

    def abort(self) -> object:
        """Drop what was written."""
        ...


class ContentStore(Protocol):
    """Blobs by digest."""

    def writer(self, digest: str, expected_size: int, *, durable: bool = True) -> AbstractContextManager[BlobWriter]:
        """Begin or go on. One at a time for a digest; `durable=False` for what may be lost with the machine's power."""
        ...

    def open(self, digest: str) -> BinaryIO: ...

    def exists(self, digest: str) -> bool: ...

    def delete(self, digest: str) -> object: ...


class LayerDriver(Protocol):
    """The graph driver, as far as a pull looks at it."""

    @property
    def independent_layers(self) -> bool: ...


class Graph(Protocol):
    """Images and unpacked layers."""

    @property
    def content(self) -> ContentStore: ...

    @property
    def driver(self) -> LayerDriver: ...

    def lease(self) -> AbstractContextManager[None]:
        """While held, layers that no image reaches yet stay."""
        ...

    def has_layer(self, chain_id: str) -> bool: ...

    def apply_layer(self, chain_id: str, diff_id: str, parent: str, tar: BinaryIO, cancel: CancelToken) -> Layer: ...

    def register(
        self,
        *,
        config: bytes,
        manifest_digest: str,
        tags: tuple[str, ...],
        digests: tuple[str, ...],
        indexes: tuple[str, ...] = (),
    ) -> Image:
        """Make an image of layers that are all applied; its config, manifest and `indexes` are in the content store."""
        ...

    def keep_blob(self, chain_id: str, blob: LayerBlob) -> object:
        """Have a blob stay as long as a layer does."""
        ...

    def discard(self, digests: Sequence[str]) -> object:
        """Delete blobs, but for those that an image or a layer holds."""
        ...

    def list(self) -> Iterable[Image]: ...

    def document(self, image_id: str) -> bytes:
        """An image's config as it is."""
        ...

    def manifests(self, image: Image) -> Sequence[bytes]:
        """The manifests an image came or was made with, those first whose layers' blobs are all here, and indexes it was chosen from."""
        ...

    def pack_layer(self, chain_id: str, cancel: CancelToken) -> LayerBlob:
        """Make a blob of a layer's files; the caller's to delete."""
        ...

    def layer_blobs(self, chain_id: str) -> Sequence[LayerBlob]:
        """The blobs that are kept with a layer."""
        ...

    def add_digest(self, image_id: str, name: str) -> object:
        """Have `repository@digest` lead to an image."""
        ...
