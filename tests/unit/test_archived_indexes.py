"""Which image an archive's index comes to, and what of the index is kept with it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from moorage.server.engine.archives import Archive, Found
from moorage.server.errors import DataLoss, InvalidArgument
from moorage.server.graph.content import ContentStore
from moorage.server.graph.unarchive import Contents
from moorage.server.model import Platform
from tests.images import OCI_INDEX, Blob, build_image, build_index, tar_layer

AMD64, ARM64 = (build_image([tar_layer({"a": name.encode()})], architecture=name) for name in ("amd64", "arm64"))
INDEX = build_index(ARM64, AMD64)


class World:
    def __init__(self, directory: Path) -> None:
        self.content = ContentStore(directory)

    def add(self, *blobs: Blob) -> None:
        for blob in blobs:
            with self.content.draft() as draft:
                draft.write(blob.data)
                assert draft.commit() == blob.digest

    def images(self, *listed: Blob) -> list[Found]:
        index = {"schemaVersion": 2, "manifests": [blob.descriptor() for blob in listed]}
        contents = Contents(documents={"index.json": json.dumps(index).encode()})
        graph = cast(Any, SimpleNamespace(content=self.content))
        return Archive(graph, contents).images(Platform("linux", "amd64"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def parts(image: Any) -> tuple[Blob, ...]:
    return (image.manifest, image.config, *image.layers)


def nested(*entries: Blob) -> Blob:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.descriptor() for entry in entries]}
    return Blob(OCI_INDEX, json.dumps(document).encode())


def test_the_platform_that_runs_here_and_all_the_others(world: World) -> None:
    outer = nested(INDEX.manifest)
    world.add(outer, INDEX.manifest, *parts(AMD64), *parts(ARM64))
    (found,) = world.images(outer)
    assert found.manifest == AMD64.manifest.data
    assert found.indexes == (outer.digest, INDEX.manifest.digest)
    assert set(found.kept) == {blob.digest for blob in parts(ARM64)}


def test_what_the_archive_does_not_have_is_not_waited_for(world: World) -> None:
    """`docker save` of one platform writes the index whole."""
    world.add(INDEX.manifest, *parts(ARM64))
    (found,) = world.images(INDEX.manifest)
    assert (found.manifest, found.indexes, found.kept) == (ARM64.manifest.data, (INDEX.manifest.digest,), ())


def test_an_index_of_nothing(world: World) -> None:
    world.add(INDEX.manifest)
    with pytest.raises(DataLoss, match=f"none of what index {INDEX.manifest.digest} lists is in it"):
        world.images(INDEX.manifest)


def test_indexes_that_list_each_other_many_times_cost_no_more(world: World) -> None:
    """Three levels of 400 entries each are 64 million ways, and four documents: more than the test's time for one that goes them all."""
    index = nested(*[AMD64.manifest] * 400)
    world.add(*parts(AMD64), index)
    for _ in range(2):
        index = nested(*[index] * 400)
        world.add(index)
    (found,) = world.images(index)
    assert found.manifest == AMD64.manifest.data and len(found.indexes) == 3
    for _ in range(3):
        index = nested(index)
        world.add(index)
    with pytest.raises(InvalidArgument, match="nested more than"):
        world.images(index)
