"""The edges of the image store, and images with the names that lead to them."""

from __future__ import annotations

from dataclasses import replace

from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Image

KIND = "image"
TAG = "tag"
DIGEST = "digest"
CONTENT = "image content"
FORGOTTEN = "forgotten"


def with_names(db: GraphDB, image: Image) -> Image:
    """An image with its tags and digests."""
    return replace(image, tags=tuple(db.names(TAG, image.id)), digests=tuple(db.names(DIGEST, image.id)))


def all_images(db: GraphDB) -> tuple[Image, ...]:
    """Every image, with its names."""
    return tuple(with_names(db, image) for image in db.all(KIND, Image))
