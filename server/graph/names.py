"""The edges of the image store, and images with the names that lead to them."""

from __future__ import annotations

from dataclasses import replace

from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Image

KIND = "image"
TAG = "tag"
DIGEST = "digest"
CONTENT = "image content"
KEPT = "image kept"
"""What else of its index an image keeps, for other platforms: manifests, and blobs that are no layers here."""
FORGOTTEN = "forgotten"


def with_names(db: GraphDB, image: Image) -> Image:
    """An image with its tags and digests."""
    return replace(image, tags=tuple(db.names(TAG, image.id)), digests=tuple(db.names(DIGEST, image.id)))


def all_images(db: GraphDB) -> tuple[Image, ...]:
    """Every image, with its names."""
    return tuple(with_names(db, image) for image in db.all(KIND, Image))


def held_content(db: GraphDB, image_id: str) -> list[str]:
    """The digests of what an image holds in the content store besides its layers' blobs."""
    return [*db.targets(CONTENT, image_id), *db.targets(KEPT, image_id)]
