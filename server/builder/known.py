"""What is known of steps that were done before: in the daemon's cache of builds, and in the caches that `--cache-from` names."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from moorage.server.builder.base import BuildOptions, House
from moorage.server.builder.cache import BuildCache, CacheEntry
from moorage.server.builder.stage import inline_cache
from moorage.server.cancel import CancelToken
from moorage.server.errors import MoorageError
from moorage.server.graph.graph import Graph
from moorage.server.graph.layers import chain_id_on
from moorage.server.graph.packing import MadeLayer
from moorage.server.registry.buildcache import RemoteCache

Tell = Callable[[str], None]


class KnownSteps:
    """One build's. `warn` takes what a user should know."""

    def __init__(
        self, graph: Graph, cache: BuildCache, house: House, options: BuildOptions, warn: Tell, cancel: CancelToken
    ) -> None:
        self._graph = graph
        self._cache = cache
        self._house = house
        self._options = options
        self._warn = warn
        self._cancel = cancel
        self._keys: list[str] = []
        self._remotes: list[RemoteCache] = []

    async def take_over(self, reference: str, status: Tell) -> None:
        """`--cache-from`: a cache in a registry, or an image that tells which steps its layers were made by."""
        try:
            remote = await self._house.find_cache(reference)
            if remote is not None:
                self._remotes.append(remote)
                return
            image = await self._house.image(reference, pull=True, status=status)
        except MoorageError as error:
            self._warn(f"no cache from {reference}: {error.message}")
            return
        for key, chain_id, blob in await self._house.blocking(inline_cache, self._graph, image):
            if self._cache.find(key) is None:
                self._cache.add(key, chain_id, blob, text=reference, created_ns=image.created_ns)
                self._keys.append(key)

    async def find(self, key: str, parent: str, status: Tell, *, linked: bool = False) -> CacheEntry | None:
        """What a step made on top of the chain `parent`; the layer is fetched where a cache in a registry has it.

        A `linked` one has the same layer on any chain. Nothing is known with `--no-cache`.
        """
        if self._options.no_cache:
            return None
        entry = self._cache.find(key)
        if entry is not None and linked:
            entry = await self._house.blocking(self._moved, entry, parent)
        for remote in self._remotes if entry is None else ():
            step = remote.steps.get(key)
            if step is not None and linked:
                step = replace(step, parent=parent)
            if step is None or step.parent != parent:
                continue
            try:
                await self._house.fetch_cached(remote, step, status)
            except MoorageError as error:
                self._warn(f"a cached layer cannot be had, and is made again: {error.message}")
                continue
            entry = self._cache.add(key, step.chain_id, step.blob, text=step.text, created_ns=step.created_ns)
            break
        if entry is not None:
            self._keys.append(key)
        return entry

    def _moved(self, entry: CacheEntry, parent: str) -> CacheEntry | None:
        """The layer of a linked copy on top of another chain; None where its blob is not here any more."""
        if entry.blob is None:
            return entry
        chain_id = chain_id_on(parent, entry.blob.diff_id)
        if not self._graph.has_layer(chain_id):
            if not self._graph.content.exists(entry.blob.digest):
                return None
            self._graph.apply_blob(entry.blob, parent, self._cancel)
        if chain_id == entry.chain_id:
            return entry
        return self._cache.add(entry.key, chain_id, entry.blob, text=entry.text, created_ns=entry.created_ns)

    def remember(self, key: str, parent: str, made: MadeLayer | None, text: str) -> CacheEntry:
        """What a step has made on top of `parent` just now, if it has changed anything."""
        epoch = self._options.epoch
        created_ns = time.time_ns() if epoch is None else epoch * 10**9
        chain_id, blob = (made.layer.chain_id, made.blob) if made else (parent, None)
        self._keys.append(key)
        return self._cache.add(key, chain_id, blob, text=text, created_ns=created_ns)

    def use(self, key: str) -> None:
        """An entry of the cache is used by other means than `find`."""
        self._keys.append(key)

    def settle(self) -> None:
        """The file system has been synced: what this build used or made is safe."""
        self._cache.settle(self._keys)
