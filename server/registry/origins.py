"""Where blobs can be had again: the repositories that the images here are known to be in, by the blobs of their manifests."""

from __future__ import annotations

from collections.abc import Iterable

from moorage.server.errors import MoorageError
from moorage.server.registry import manifest, reference
from moorage.server.registry.manifest import Descriptor, Manifest
from moorage.server.registry.problems import Subject
from moorage.server.registry.reference import Reference
from moorage.server.registry.store import Graph


class Origins:
    """Made once for a push."""

    def __init__(self, graph: Graph) -> None:
        self._found: dict[str, dict[str, tuple[Reference, Descriptor]]] = {}
        for image in graph.list():
            repositories = [reference.parse(name) for name in image.digests]
            if repositories:
                for document in read_all(graph.manifests(image)):
                    self.add((document.config, *document.layers), repositories)

    def of(self, digest: str) -> list[tuple[Reference, Descriptor]]:
        """The repositories that have had a blob, and how they list it."""
        return list(self._found.get(digest, {}).values())

    def repositories(self, digest: str, domain: str, but: str) -> list[str]:
        """The paths of those at one registry, except for `but`."""
        return [found.path for found, _ in self.of(digest) if found.domain == domain and found.path != but]

    def add(self, blobs: Iterable[Descriptor], repositories: Iterable[Reference]) -> None:
        """Learn that repositories have blobs."""
        for blob in blobs:
            known = self._found.setdefault(blob.digest, {})
            for found in repositories:
                known.setdefault(found.repository, (found, blob))


def read_all(documents: Iterable[bytes]) -> list[Manifest]:
    """The manifests among documents of the graph; a damaged one is not of interest here."""
    found = []
    for raw in documents:
        try:
            document = manifest.read(raw, "", Subject("", "", "read its manifest"))
        except MoorageError:
            continue
        if isinstance(document, Manifest):
            found.append(document)
    return found
