"""Pulls an image into the graph: manifest and config first, then the layers it lacks, then the names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moorage.server.cancel import CancelToken
from moorage.server.model import Image, Platform
from moorage.server.registry.client import Client, Resolved
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.fetch import fetch
from moorage.server.registry.flights import Flights, Wanted
from moorage.server.registry.imageconfig import plan_layers
from moorage.server.registry.layers import LayerWork, Shared
from moorage.server.registry.progress import PullProgress, PullStage, Reporter
from moorage.server.registry.reference import Reference
from moorage.server.registry.signatures import Signatures
from moorage.server.registry.store import Graph

__all__ = ["PullProgress", "PullStage", "Puller"]


class Puller:
    """Pulls into one graph. The daemon holds one, so that pulls share connections, tokens and downloads. Thread-safe."""

    def __init__(self, graph: Graph, client: Client) -> None:
        self._graph, self._client = graph, client
        self._signatures = Signatures(client)
        self.shared = self._shared = Shared(graph, client.config, Flights(), Wanted(self._spent))

    def pull(
        self,
        reference: Reference,
        platform: Platform,
        auth: RegistryAuth | None,
        progress: Callable[[PullProgress], None],
        cancel: CancelToken,
    ) -> Image:
        """Bring the image here, named by the tag of `reference` (`latest` by default) and by its digest; block until it is.

        `progress` is called from this pull's threads, one call at a time. Raises what the API says of PullImage; then no name
        has changed, nothing of this pull runs on, and what was downloaded waits for the next one.
        """
        reference = reference.with_default_tag()
        report = Reporter(progress)
        report("", PullStage.RESOLVING)
        repository = self._client.repository(reference, auth, cancel)
        resolved = repository.resolve(reference.target, platform)
        self._signatures.check(reference, resolved.digests, repository, auth, cancel)
        config = repository.get_config(resolved.manifest)
        plans = plan_layers(resolved.manifest, config, platform, repository.subject)
        with self._graph.lease():
            LayerWork(self._shared, repository, report, plans, cancel).run()
            cancel.check()
            image = self._register(reference, resolved, config, cancel)
        report("", PullStage.DONE)
        return image

    def admit(self, names: Sequence[Reference], digests: Sequence[str], action: str, cancel: CancelToken) -> None:
        """Raise PermissionDenied when the signature policy keeps an image out that comes out of an archive. See `Signatures`."""
        self._signatures.check_archived(names, digests, action, cancel)

    def fetch(self, digest: str, cancel: CancelToken) -> None:
        """Have a blob in the content store again, from a repository that an image here is known to be in. Raises NotFound and what a
        pull does."""
        fetch(self._shared, self._client, digest, cancel)

    def _register(self, reference: Reference, resolved: Resolved, config: bytes, cancel: CancelToken) -> Image:
        """A tag beside a digest is only a remark of who wrote it: nobody checked that it points there."""
        manifest = resolved.manifest
        for document in resolved.documents:
            self._keep(document.digest, document.raw, cancel)
        self._keep(manifest.config.digest, config, cancel)
        return self._graph.register(
            config=config,
            manifest_digest=manifest.digest,
            tags=() if reference.digest else (f"{reference.repository}:{reference.tag}",),
            digests=(f"{reference.repository}@{resolved.digest}",),
            indexes=resolved.digests[:-1],
        )

    def _keep(self, digest: str, data: bytes, cancel: CancelToken) -> None:
        """Put a small document into the content store."""
        content = self._graph.content
        with self._shared.flights.alone(digest, cancel):
            if not content.exists(digest):
                with content.writer(digest, len(data)) as writer:
                    writer.write(data[writer.offset :])
                    writer.commit()

    def _spent(self, digest: str) -> None:
        """A layer's blob is unpacked everywhere it was wanted."""
        if not self._client.config.keep_blobs:
            self._graph.discard([digest])
