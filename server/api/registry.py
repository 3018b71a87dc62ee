"""RegistryService: protobuf to commands and back."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from grpc import aio

from moorage.server.api import context as ctx
from moorage.server.engine import registrycommands as r
from moorage.server.engine.commands import RegistryAuth
from moorage.server.engine.engine import Engine
from moorage.server.engine.job import StreamCommand
from moorage.server.errors import InvalidArgument
from moorage.server.model import ImageIndex
from moorage.v1 import image_pb2, registry_pb2, registry_pb2_grpc

Ctx = aio.ServicerContext[Any, Any]
MAX_PAGE = 10_000


class RegistryService(registry_pb2_grpc.RegistryServiceServicer):
    """See protos/moorage/v1/registry.proto."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Authenticate(
        self, request: registry_pb2.AuthenticateRequest, context: Ctx
    ) -> registry_pb2.AuthenticateResponse:
        asked = await self._engine.run(r.Authenticate(request.registry, given(request.auth)), ctx.of(context))
        return registry_pb2.AuthenticateResponse(asked=asked)

    async def SearchRegistry(
        self, request: registry_pb2.SearchRegistryRequest, context: Ctx
    ) -> registry_pb2.SearchRegistryResponse:
        limit = request.limit or 25
        command = r.Search(request.term, limit, request.official, request.min_stars, given(request.auth))
        found = await self._engine.run(command, ctx.of(context))
        results = [
            registry_pb2.FoundRepository(
                name=entry.name, description=entry.description, stars=entry.stars, official=entry.official
            )
            for entry in found
        ]
        return registry_pb2.SearchRegistryResponse(results=results)

    async def ListTags(self, request: registry_pb2.ListTagsRequest, context: Ctx) -> registry_pb2.ListTagsResponse:
        size, query = _page(request.page_size, request.page_token)
        page = await self._engine.run(r.ListTags(request.repository, size, query, given(request.auth)), ctx.of(context))
        return registry_pb2.ListTagsResponse(tags=page.names, next_page_token=_token(page.next))

    async def ListRepositories(
        self, request: registry_pb2.ListRepositoriesRequest, context: Ctx
    ) -> registry_pb2.ListRepositoriesResponse:
        size, query = _page(request.page_size, request.page_token)
        command = r.ListRepositories(request.registry, size, query, given(request.auth))
        page = await self._engine.run(command, ctx.of(context))
        return registry_pb2.ListRepositoriesResponse(repositories=page.names, next_page_token=_token(page.next))

    async def ListReferrers(
        self, request: registry_pb2.ListReferrersRequest, context: Ctx
    ) -> registry_pb2.ListReferrersResponse:
        command = r.ListReferrers(request.reference, request.artifact_type, given(request.auth))
        subject, found = await self._engine.run(command, ctx.of(context))
        referrers = [
            registry_pb2.Referrer(
                digest=entry.digest,
                media_type=entry.media_type,
                artifact_type=entry.artifact_type,
                size_bytes=entry.size,
                annotations=entry.annotations,
            )
            for entry in found
        ]
        return registry_pb2.ListReferrersResponse(subject=subject, referrers=referrers)

    async def DeleteManifest(
        self, request: registry_pb2.DeleteManifestRequest, context: Ctx
    ) -> registry_pb2.DeleteManifestResponse:
        command = r.DeleteManifest(request.reference, given(request.auth))
        return registry_pb2.DeleteManifestResponse(digest=await self._engine.run(command, ctx.of(context)))

    async def GetManifest(
        self, request: registry_pb2.GetManifestRequest, context: Ctx
    ) -> registry_pb2.GetManifestResponse:
        found = await self._engine.run(r.GetManifest(request.reference, given(request.auth)), ctx.of(context))
        return registry_pb2.GetManifestResponse(
            raw=found.raw, digest=found.digest, media_type=found.media_type, local=found.local
        )

    async def CreateIndex(self, request: registry_pb2.CreateIndexRequest, context: Ctx) -> registry_pb2.Index:
        command = r.CreateIndex(request.name, tuple(request.images), dict(request.annotations), given(request.auth))
        return _index(await self._engine.run(command, ctx.of(context)))

    async def ListIndexes(
        self, request: registry_pb2.ListIndexesRequest, context: Ctx
    ) -> registry_pb2.ListIndexesResponse:
        indexes = await self._engine.run(r.ListIndexes(), ctx.of(context))
        return registry_pb2.ListIndexesResponse(indexes=[_index(index) for index in indexes])

    async def RemoveIndex(
        self, request: registry_pb2.RemoveIndexRequest, context: Ctx
    ) -> registry_pb2.RemoveIndexResponse:
        await self._engine.run(r.RemoveIndex(request.name), ctx.of(context))
        return registry_pb2.RemoveIndexResponse()

    async def PushIndex(
        self, request: registry_pb2.PushIndexRequest, context: Ctx
    ) -> AsyncIterator[image_pb2.PushImageResponse]:
        command = r.PushIndex(request.name, request.destination, given(request.auth))
        async for step in pushing(self._engine, command, context):
            yield step

    async def GetBlob(
        self, request: registry_pb2.GetBlobRequest, context: Ctx
    ) -> AsyncIterator[registry_pb2.GetBlobResponse]:
        command = r.GetBlob(request.reference, request.digest, request.size_bytes, given(request.auth))
        async with aclosing(self._engine.stream(command, ctx.of(context))) as pieces:
            async for piece in pieces:
                yield registry_pb2.GetBlobResponse(data=piece)

    async def PutBlob(
        self, requests: AsyncIterator[registry_pb2.PutBlobRequest], context: Ctx
    ) -> AsyncIterator[registry_pb2.PutBlobResponse]:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("message") != "open":
            raise InvalidArgument("the first message of PutBlob must be open", field="open")
        blob = first.open
        data = ((request.piece.offset, request.piece.data) async for request in requests)
        command = r.PutBlob(data, blob.reference, blob.digest, blob.size_bytes, given(blob.auth))
        async with aclosing(self._engine.stream(command, ctx.of(context))) as steps:
            async for step in steps:
                yield registry_pb2.PutBlobResponse(
                    digest=blob.digest,
                    stage=f"PUSH_STAGE_{step.stage.upper() or 'UNSPECIFIED'}",
                    current_bytes=step.current,
                    total_bytes=blob.size_bytes,
                    send_from=step.send_from,
                )

    async def PutManifest(self, request: registry_pb2.PutManifestRequest, context: Ctx) -> image_pb2.Pushed:
        command = r.PutManifest(request.reference, request.raw, request.media_type, given(request.auth))
        return _pushed(await self._engine.run(command, ctx.of(context)))

    async def CopyManifest(
        self, request: registry_pb2.CopyManifestRequest, context: Ctx
    ) -> AsyncIterator[image_pb2.PushImageResponse]:
        command = r.CopyManifest(
            request.source, request.destination, request.referrers, given(request.auth), given(request.source_auth)
        )
        async for step in pushing(self._engine, command, context):
            yield step


async def pushing(
    engine: Engine, command: StreamCommand[r.PushStep], context: Ctx
) -> AsyncIterator[image_pb2.PushImageResponse]:
    """The progress of a push, as messages."""
    async with aclosing(engine.stream(command, ctx.of(context))) as items:
        async for step in items:
            yield image_pb2.PushImageResponse(
                digest=step.digest,
                stage=f"PUSH_STAGE_{step.stage.upper()}",
                current_bytes=step.current,
                total_bytes=step.total,
                pushed=_pushed(step.pushed) if step.pushed else None,
            )


def _pushed(value: r.Pushed) -> image_pb2.Pushed:
    return image_pb2.Pushed(
        reference=value.reference,
        digest=value.digest,
        size_bytes=value.size,
        media_type=value.media_type,
        rewritten=value.rewritten,
    )


def given(message: image_pb2.RegistryAuth) -> r.Given | None:
    """The credentials of a call, None when there are none."""
    auth = RegistryAuth(message.username, message.password, message.identity_token, message.registry_token)
    return r.Given(auth, message.registry) if auth else None


def _page(size: int, token: str) -> tuple[int, str]:
    """Page size, and the registry's own query for the page; it is opaque to clients."""
    if not 0 <= size <= MAX_PAGE:
        raise InvalidArgument(f"page_size must be 0 to {MAX_PAGE}, not {size}", field="page_size")
    try:
        query = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        query = "#"
    if not query.isprintable() or set(query) & set("#? "):
        raise InvalidArgument("page_token is not one that this list gave", field="page_token")
    return size or ctx.DEFAULT_PAGE, query


def _token(query: str) -> str:
    return base64.urlsafe_b64encode(query.encode()).decode()


def _index(value: ImageIndex) -> registry_pb2.Index:
    entries = [
        registry_pb2.IndexEntry(
            digest=entry.digest,
            size_bytes=entry.size,
            platform=image_pb2.Platform(
                os=entry.platform.os, architecture=entry.platform.architecture, variant=entry.platform.variant
            ),
            source=entry.source,
        )
        for entry in value.entries
    ]
    return registry_pb2.Index(name=value.name, digest=value.digest, media_type=value.media_type, entries=entries)
