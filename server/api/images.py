"""ImageService: protobuf to commands and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Literal

from grpc import aio

from moorage.server.api import context as ctx
from moorage.server.api import convert
from moorage.server.api.registry import given, pushing
from moorage.server.engine import imagecommands, storecommands
from moorage.server.engine.engine import Engine
from moorage.server.engine.registrycommands import Push
from moorage.server.errors import InvalidArgument
from moorage.server.model import Image
from moorage.v1 import image_pb2, image_pb2_grpc

_POLICIES: dict[int, Literal["missing", "never"]] = {
    image_pb2.PULL_POLICY_MISSING: "missing",
    image_pb2.PULL_POLICY_NEVER: "never",
}

Ctx = aio.ServicerContext[Any, Any]


class ImageService(image_pb2_grpc.ImageServiceServicer):
    """See protos/moorage/v1/image.proto."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def PullImage(
        self, request: image_pb2.PullImageRequest, context: Ctx
    ) -> AsyncIterator[image_pb2.PullImageResponse]:
        found = given(request.auth)
        command = imagecommands.Pull(
            request.reference,
            convert.platform(request.platform),
            found.auth if found else None,
            found.registry if found else "",
            _POLICIES.get(request.policy, "always"),
        )
        async with aclosing(self._engine.stream(command, ctx.of(context))) as items:
            async for step in items:
                yield image_pb2.PullImageResponse(
                    digest=step.digest,
                    stage=f"PULL_STAGE_{step.stage.upper()}",
                    current_bytes=step.current,
                    total_bytes=step.total,
                    image=convert.image(step.image) if step.image else None,
                )

    async def PushImage(
        self, request: image_pb2.PushImageRequest, context: Ctx
    ) -> AsyncIterator[image_pb2.PushImageResponse]:
        command = Push(request.reference, request.destination, given(request.auth), request.all_platforms)
        async for step in pushing(self._engine, command, context):
            yield step

    async def ListImages(self, request: image_pb2.ListImagesRequest, context: Ctx) -> image_pb2.ListImagesResponse:
        images = await self._engine.run(_list_command(request), ctx.of(context))
        chosen, token = ctx.page(
            images, lambda image: (-image.created_ns, image.id), request.page_size, request.page_token
        )
        messages = [await self._image(image, context) for image in chosen]
        return image_pb2.ListImagesResponse(images=messages, next_page_token=token)

    async def GetImage(self, request: image_pb2.GetImageRequest, context: Ctx) -> image_pb2.Image:
        image = await self._engine.run(imagecommands.InspectImage(request.reference), ctx.of(context))
        return await self._image(image, context)

    async def RemoveImage(self, request: image_pb2.RemoveImageRequest, context: Ctx) -> image_pb2.RemoveImageResponse:
        removed = await self._engine.run(
            imagecommands.RemoveImage(request.reference, force=request.force), ctx.of(context)
        )
        return image_pb2.RemoveImageResponse(
            untagged=removed.untagged, deleted=removed.deleted, reclaimed_bytes=removed.reclaimed
        )

    async def SaveImages(
        self, request: image_pb2.SaveImagesRequest, context: Ctx
    ) -> AsyncIterator[image_pb2.SaveImagesResponse]:
        docker = request.format == image_pb2.ARCHIVE_FORMAT_DOCKER
        command = storecommands.Save(tuple(request.references), "docker" if docker else "oci", request.all_platforms)
        async with aclosing(self._engine.stream(command, ctx.of(context))) as pieces:
            async for piece in pieces:
                yield image_pb2.SaveImagesResponse(data=piece)

    async def LoadImages(
        self, requests: AsyncIterator[image_pb2.LoadImagesRequest], context: Ctx
    ) -> AsyncIterator[image_pb2.LoadImagesResponse]:
        command = storecommands.Load(_data(requests))
        async with aclosing(self._engine.stream(command, ctx.of(context))) as steps:
            async for step in steps:
                yield image_pb2.LoadImagesResponse(
                    stage=f"LOAD_STAGE_{step.stage.upper()}",
                    digest=step.digest,
                    current_bytes=step.current,
                    image=convert.image(step.image) if step.image else None,
                    names=step.names,
                )

    async def ImportImage(
        self, requests: AsyncIterator[image_pb2.ImportImageRequest], context: Ctx
    ) -> AsyncIterator[image_pb2.ImportImageResponse]:
        first = await anext(aiter(requests), None)
        if first is None or first.WhichOneof("message") != "open":
            raise InvalidArgument("the first message of ImportImage must be open", field="open")
        opened = first.open
        command = storecommands.Import(
            _data(requests),
            opened.reference,
            opened.message,
            tuple(opened.changes),
            convert.platform(opened.platform),
        )
        async with aclosing(self._engine.stream(command, ctx.of(context))) as steps:
            async for step in steps:
                yield image_pb2.ImportImageResponse(
                    stage=f"LOAD_STAGE_{step.stage.upper()}",
                    current_bytes=step.current,
                    image=convert.image(step.image) if step.image else None,
                )

    async def PruneImages(self, request: image_pb2.PruneImagesRequest, context: Ctx) -> image_pb2.PruneImagesResponse:
        command = storecommands.PruneImages(request.all, dict(request.labels), convert.nanoseconds(request.until))
        pruned = await self._engine.run(command, ctx.of(context))
        return image_pb2.PruneImagesResponse(
            untagged=pruned.untagged, deleted=pruned.deleted, reclaimed_bytes=pruned.reclaimed
        )

    async def TagImage(self, request: image_pb2.TagImageRequest, context: Ctx) -> image_pb2.Image:
        image = await self._engine.run(storecommands.Tag(request.source, request.target), ctx.of(context))
        return await self._image(image, context)

    async def GetImageHistory(
        self, request: image_pb2.GetImageHistoryRequest, context: Ctx
    ) -> image_pb2.GetImageHistoryResponse:
        steps = await self._engine.run(storecommands.History(request.reference), ctx.of(context))
        return image_pb2.GetImageHistoryResponse(
            entries=[
                image_pb2.ImageHistoryEntry(
                    created_at=convert.timestamp(step.created_ns),
                    created_by=step.created_by,
                    author=step.author,
                    comment=step.comment,
                    diff_id=step.diff_id,
                    size_bytes=step.size,
                )
                for step in steps
            ]
        )

    async def _image(self, image: Image, context: Ctx) -> image_pb2.Image:
        return convert.image(image, await self._engine.run(imagecommands.ImageUsers(image.id), ctx.of(context)))


async def _data(requests: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """The bytes of the messages that come."""
    async for request in requests:
        yield request.data


def _list_command(request: image_pb2.ListImagesRequest) -> imagecommands.ListImages:
    return imagecommands.ListImages(
        request.reference,
        dangling=request.dangling if request.HasField("dangling") else None,
        labels=dict(request.labels),
        before=request.before,
        since=request.since,
        patterns=tuple(request.patterns),
        narrow=True,
    )
