"""Has the layers of one pull: which are here, which to fetch, several at once, and into the graph.

With a driver whose layers are independent, a blob streams through decompression into the graph while it is written to the content
store: one pass. Otherwise, and when an earlier pull left the beginning of a blob, it is completed in the store and unpacked from there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from moorage.server.cancel import CancelToken
from moorage.server.errors import DeadlineExceeded, MoorageError
from moorage.server.model import LayerBlob
from moorage.server.registry.blob import BlobReader
from moorage.server.registry.client import Repository
from moorage.server.registry.config import RegistryConfig
from moorage.server.registry.flights import Flights, Wanted
from moorage.server.registry.imageconfig import LayerPlan
from moorage.server.registry.layerstream import CHUNK, LayerStream, Source, TooLarge, Undecodable, compression_of
from moorage.server.registry.manifest import Descriptor
from moorage.server.registry.progress import PullStage, Reporter
from moorage.server.registry.store import BlobWriter, ContentStore, Graph


@dataclass(frozen=True)
class Shared:
    """What all pulls of the daemon share."""

    graph: Graph
    config: RegistryConfig
    flights: Flights
    wanted: Wanted


class LayerWork:
    """The layers of one pull."""

    def __init__(
        self,
        shared: Shared,
        repository: Repository,
        report: Reporter[PullStage],
        plans: tuple[LayerPlan, ...],
        cancel: CancelToken,
    ) -> None:
        self._shared, self._repository, self._report = shared, repository, report
        self._graph, self._content = shared.graph, shared.graph.content
        self._plans = plans
        self._cancel = cancel
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Return when every layer is in the graph. When one fails the others are stopped, and the first failure is raised."""
        missing = self._missing()
        with self._shared.wanted.held(missing) as used, child_of(self._cancel) as self._cancel:
            with ThreadPoolExecutor(self._shared.config.layers_at_once, "moorage-pull") as pool:
                try:
                    if self._graph.driver.independent_layers:
                        self._in_any_order(pool, missing, used)
                    else:
                        self._in_chain_order(pool, missing, used)
                except BaseException as error:
                    self._fail(error)
            if self._failure is not None:
                raise self._failure
            if self._shared.config.keep_blobs:
                self._keep_blobs()

    def _keep_blobs(self) -> None:
        """Have the blobs that are here stay as long as their layers do."""
        for plan in self._plans:
            blob = plan.blob
            if self._content.exists(blob.digest):
                kept = LayerBlob(blob.digest, blob.media_type, blob.size, plan.diff_id)
                self._graph.keep_blob(plan.chain_id, kept)

    def _missing(self) -> dict[str, list[LayerPlan]]:
        """The layers that the graph lacks, by blob: a blob may occur twice in a chain."""
        missing: dict[str, list[LayerPlan]] = {}
        for plan in self._plans:
            if not self._graph.has_layer(plan.chain_id):
                compression_of(plan.blob.media_type)
                missing.setdefault(plan.blob.digest, []).append(plan)
        for plan in self._plans:
            stage = PullStage.WAITING if plan.blob.digest in missing else PullStage.EXISTS
            self._report(plan.blob.digest, stage, 0, plan.blob.size)
        return missing

    def _in_any_order(
        self, pool: ThreadPoolExecutor, missing: dict[str, list[LayerPlan]], used: Callable[[str], None]
    ) -> None:
        for done in as_completed([pool.submit(self._guarded, self._stream, plans, used) for plans in missing.values()]):
            done.result()

    def _in_chain_order(
        self, pool: ThreadPoolExecutor, missing: dict[str, list[LayerPlan]], used: Callable[[str], None]
    ) -> None:
        fetched = {digest: pool.submit(self._guarded, self._fetch, plans) for digest, plans in missing.items()}
        left = {digest: len(plans) for digest, plans in missing.items()}
        for plan in self._plans:
            digest = plan.blob.digest
            if plan in missing.get(digest, ()):
                fetched[digest].result()
                self._unpack_stored(plan)
                left[digest] -= 1
                if not left[digest]:
                    self._done(plan.blob, used)

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._failure = self._failure or error
        self._cancel.cancel("another layer of the image failed")

    def _stream(self, plans: list[LayerPlan], used: Callable[[str], None]) -> None:
        blob = plans[0].blob
        with self._shared.flights.alone(blob.digest, self._cancel):
            for plan in plans:
                if self._graph.has_layer(plan.chain_id):
                    continue
                if not self._content.exists(blob.digest):
                    self._from_network(plan)
                if not self._graph.has_layer(plan.chain_id):
                    self._unpack_stored(plan)
        self._done(blob, used)

    def _fetch(self, plans: list[LayerPlan]) -> None:
        blob = plans[0].blob
        with self._shared.flights.alone(blob.digest, self._cancel):
            if not self._content.exists(blob.digest):
                with self._writer(blob) as writer:
                    self._complete(blob, writer)

    def _from_network(self, plan: LayerPlan) -> None:
        """Unpack while downloading; but only complete the blob in the store when its beginning is there already."""
        with self._writer(plan.blob) as writer:
            if writer.offset:
                self._complete(plan.blob, writer)
                return
            with self._repository.open_blob(plan.blob, 0, self._cancel) as reader:
                self._unpack(plan, _Tee(plan.blob, reader, writer, self._content, self._report))

    def _writer(self, blob: Descriptor) -> AbstractContextManager[BlobWriter]:
        """A blob that goes once it is unpacked need not survive a power loss."""
        return self._content.writer(blob.digest, blob.size, durable=self._shared.config.keep_blobs)

    def _complete(self, blob: Descriptor, writer: BlobWriter) -> None:
        with self._repository.open_blob(blob, writer.offset, self._cancel) as reader:
            tee = _Tee(blob, reader, writer, self._content, self._report)
            while tee.chunk():
                continue
            tee.finish()

    def _unpack_stored(self, plan: LayerPlan) -> None:
        self._report(plan.blob.digest, PullStage.UNPACKING, plan.blob.size, plan.blob.size)
        with self._content.open(plan.blob.digest) as file:
            self._unpack(plan, _Stored(plan.blob, file, self._content))

    def _unpack(self, plan: LayerPlan, source: Source) -> None:
        config = self._shared.config
        blob = plan.blob
        kind = compression_of(blob.media_type)
        stream = LayerStream(source, blob.digest, blob.size, kind, config.max_layer_size, config.max_ratio)
        try:
            tar = cast(BinaryIO, stream)
            self._graph.apply_layer(plan.chain_id, plan.diff_id, plan.parent, tar, self._cancel)
            if stream.begun:
                stream.drain()
        except BaseException as error:
            self._cancel.check()
            if stream.failure is None or isinstance(stream.failure, TooLarge | Undecodable):
                source.discard()  # it would fail again: only what the network broke off is worth keeping
            raise stream.failure or error from error

    def _done(self, blob: Descriptor, used: Callable[[str], None]) -> None:
        used(blob.digest)
        self._report(blob.digest, PullStage.DONE, blob.size, blob.size)


class _Tee:
    """A blob as it comes from a registry, written to the content store on the way."""

    def __init__(
        self,
        blob: Descriptor,
        reader: BlobReader,
        writer: BlobWriter,
        content: ContentStore,
        report: Reporter[PullStage],
    ) -> None:
        self._blob, self._reader, self._writer = blob, reader, writer
        self._content, self._report = content, report

    def chunk(self) -> bytes:
        data = self._reader.chunk()
        if data:
            self._writer.write(data)
        self._report(self._blob.digest, PullStage.DOWNLOADING, self._reader.offset, self._blob.size)
        return data

    def finish(self) -> None:
        size = self._blob.size
        self._report(self._blob.digest, PullStage.VERIFYING, size, size)
        self._writer.commit()
        self._report(self._blob.digest, PullStage.UNPACKING, size, size)

    def discard(self) -> None:
        self._writer.abort()
        self._content.delete(self._blob.digest)


class _Stored:
    """A blob of the content store, verified when it got its name."""

    def __init__(self, blob: Descriptor, file: BinaryIO, content: ContentStore) -> None:
        self._blob, self._file, self._content = blob, file, content

    def chunk(self) -> bytes:
        return self._file.read(CHUNK)

    def finish(self) -> None:
        """Nothing is left to verify."""

    def discard(self) -> None:
        self._content.delete(self._blob.digest)


@contextmanager
def child_of(parent: CancelToken) -> Iterator[CancelToken]:
    """A token that is set with its parent, for the same reason, and can be set alone."""
    child = CancelToken()

    def pass_on() -> None:
        try:
            parent.check()
        except MoorageError as error:
            child.cancel(error.message, deadline=isinstance(error, DeadlineExceeded))

    with parent.on_cancel(pass_on):
        yield child
