"""The indexes that were made here: documents that tie the images of several platforms together, by canonical name."""

from __future__ import annotations

from dataclasses import dataclass

from moorage.server.errors import NotFound
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import ImageIndex

KIND = "index"


@dataclass(frozen=True)
class Indexes:
    """Nodes of the GraphDB, the document in each. They hold no image: what an index lists may be removed, and be had from its source."""

    db: GraphDB

    def put(self, index: ImageIndex) -> None:
        """Keep an index; one that had its name is replaced."""
        with self.db.transaction(durable=True) as tx:
            tx.put(KIND, index.name, index)
            tx.event("index", "create", index.digest, index.name)

    def get(self, name: str) -> ImageIndex:
        """An index by canonical name. Raises NotFound."""
        index = self.find(name)
        if index is None:
            raise NotFound(
                f"index {name} is not here", reason="INDEX_NOT_FOUND", hint="list them with `moorage manifest ls`"
            )
        return index

    def find(self, name: str) -> ImageIndex | None:
        return self.db.get(KIND, name, ImageIndex)

    def list(self) -> tuple[ImageIndex, ...]:
        """All, by name."""
        return tuple(sorted(self.db.all(KIND, ImageIndex), key=lambda index: index.name))

    def remove(self, name: str) -> None:
        """Delete an index. Raises NotFound."""
        with self.db.transaction(durable=True) as tx:
            index = tx.get(KIND, name, ImageIndex)
            if index is None:
                raise NotFound(f"index {name} is not here", reason="INDEX_NOT_FOUND")
            tx.delete(KIND, name)
            tx.event("index", "delete", index.digest, name)
