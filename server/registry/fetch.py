"""Fetches a single blob again, from a repository that an image here is known to be in."""

from __future__ import annotations

from moorage.server.cancel import CancelToken
from moorage.server.errors import MoorageError, NotFound
from moorage.server.registry.client import Client
from moorage.server.registry.layers import Shared
from moorage.server.registry.manifest import Descriptor
from moorage.server.registry.origins import Origins
from moorage.server.registry.reference import Reference


def fetch(shared: Shared, client: Client, digest: str, cancel: CancelToken) -> None:
    """Have the blob in the content store. Raises NotFound when no repository is known that has it, else the last one's error."""
    failure: MoorageError = NotFound(f"blob {digest} is in no repository that is known here", reason="NO_ORIGIN")
    for origin, blob in Origins(shared.graph).of(digest):
        try:
            _from(shared, client, origin, blob, cancel)
            return
        except MoorageError as error:
            cancel.check()
            failure = error
    raise failure


def _from(shared: Shared, client: Client, origin: Reference, blob: Descriptor, cancel: CancelToken) -> None:
    content = shared.graph.content
    repository = client.repository(origin, None, cancel)
    with shared.flights.alone(blob.digest, cancel):
        if content.exists(blob.digest):
            return
        with content.writer(blob.digest, blob.size, durable=False) as writer:
            with repository.open_blob(blob, writer.offset, cancel) as reader:
                while data := reader.chunk():
                    writer.write(data)
            writer.commit()
