"""CRI's ImageService."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from pathlib import Path

from moorage.cri.v1 import api_pb2 as pb
from moorage.cri.v1 import api_pb2_grpc
from moorage.server.api import context as ctx
from moorage.server.api.cri import common, verbose
from moorage.server.api.cri.calls import Calls, Ctx
from moorage.server.engine import commands, imagecommands
from moorage.server.engine.job import Context
from moorage.server.errors import FailedPrecondition, Internal, InvalidArgument, NotFound
from moorage.server.model import Image

REMOVAL_TRIES = 5


class ImageService(Calls, api_pb2_grpc.ImageServiceServicer):
    """See protos/moorage/cri/v1/api.proto."""

    async def ListImages(self, request: pb.ListImagesRequest, context: Ctx) -> pb.ListImagesResponse:
        return pb.ListImagesResponse(images=await self._listed(request.filter, ctx.of(context)))

    async def StreamImages(
        self, request: pb.StreamImagesRequest, context: Ctx
    ) -> AsyncIterator[pb.StreamImagesResponse]:
        for batch in common.batches(await self._listed(request.filter, ctx.of(context))):
            yield pb.StreamImagesResponse(images=batch)

    async def ImageStatus(self, request: pb.ImageStatusRequest, context: Ctx) -> pb.ImageStatusResponse:
        caller = ctx.of(context)
        if not request.image.image:
            raise InvalidArgument("no image was named", field="image")
        found = await self._known(request.image.image, caller)
        if found is None:
            return pb.ImageStatusResponse()
        info = verbose.image_info(found) if request.verbose else {}
        return pb.ImageStatusResponse(image=image(found, await self._pinned(caller)), info=info)

    async def PullImage(self, request: pb.PullImageRequest, context: Ctx) -> pb.PullImageResponse:
        reference = request.image.image
        given = auth(request.auth) if request.HasField("auth") else None
        command = imagecommands.Pull(reference, None, given, request.auth.server_address)
        pulled: Image | None = None
        async with aclosing(self._engine.stream(command, ctx.of(context))) as steps:
            async for step in steps:
                pulled = step.image or pulled
        if pulled is None:
            raise Internal(f"the pull of {reference} ended without an image")
        return pb.PullImageResponse(image_ref=pulled.id)

    async def RemoveImage(self, request: pb.RemoveImageRequest, context: Ctx) -> pb.RemoveImageResponse:
        """With one name go all of them, and the image as soon as no container holds it. Whoever else removes it meanwhile has done
        our work."""
        caller = ctx.of(context)
        if not request.image.image:
            raise InvalidArgument("no image was named", field="image")
        for attempt in range(REMOVAL_TRIES):
            found = await self._known(request.image.image, caller)
            if found is None:
                break
            try:
                await self._engine.run(imagecommands.RemoveImage(found.id, forget=True), caller)
            except NotFound:
                break
            except FailedPrecondition as error:
                if attempt == REMOVAL_TRIES - 1:
                    raise FailedPrecondition(error.message, reason=error.reason, hint="try again") from error
        return pb.RemoveImageResponse()

    async def ImageFsInfo(self, request: pb.ImageFsInfoRequest, context: Ctx) -> pb.ImageFsInfoResponse:
        """Images and containers share one file system. The bytes are those of the layers, the inodes all that are used there."""
        images = await self._run(imagecommands.ListImages(), context)
        inodes = await asyncio.to_thread(_inodes, self._setting.root)
        usage = pb.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=pb.FilesystemIdentifier(mountpoint=str(self._setting.root)),
            used_bytes=pb.UInt64Value(value=layers_size(images)),
            inodes_used=pb.UInt64Value(value=inodes),
        )
        return pb.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])

    async def _listed(self, wanted: pb.ImageFilter, caller: Context) -> list[pb.Image]:
        """Those that a name, an ID or a digest stands for; a name without a tag stands for all of its repository."""
        pinned = await self._pinned(caller)
        name = wanted.image.image
        images = await self._engine.run(imagecommands.ListImages(patterns=(name,) if name else ()), caller)
        if name and (known := await self._image(name, caller)) and known not in images:
            images = [*images, known]
        return [image(each, pinned) for each in images if _has_name(each)]

    async def _known(self, text: str, caller: Context) -> Image | None:
        """An image that has not been removed, whether or not a container still holds it."""
        found = await self._image(text, caller)
        return found if found is not None and _has_name(found) else None

    async def _pinned(self, caller: Context) -> set[str]:
        """IDs of the images that the configuration pins."""
        found = [await self._image(name, caller) for name in self._setting.config.pinned_images]
        return {each.id for each in found if each is not None}


def _has_name(value: Image) -> bool:
    return bool(value.tags or value.digests)


def image(value: Image, pinned: set[str]) -> pb.Image:
    """An image of the graph. A user that is a number is told as one, any other by name."""
    user = value.config.user.partition(":")[0]
    number = user.isascii() and user.isdecimal()
    return pb.Image(
        id=value.id,
        repo_tags=value.tags,
        repo_digests=value.digests,
        size=max(value.size, 1),
        uid=pb.Int64Value(value=int(user)) if number else None,
        username="" if number else user,
        pinned=value.id in pinned,
    )


def auth(message: pb.AuthConfig) -> commands.RegistryAuth | None:
    """Credentials for a pull; the engine passes them over when `server_address` is not the image's registry. Raises InvalidArgument."""
    username, password = message.username, message.password
    if message.auth and not username:
        try:
            text = base64.b64decode(message.auth, validate=True).decode()
        except (binascii.Error, ValueError):
            text = ""
        username, colon, password = text.partition(":")
        if not colon:
            raise InvalidArgument("auth is not the base64 of user:password", field="auth.auth")
        password = password.rstrip("\0")
    return commands.RegistryAuth(username, password, message.identity_token, message.registry_token) or None


def layers_size(images: Iterable[Image]) -> int:
    """Bytes of all layers, those that images share once."""
    return sum({layer.chain_id: layer.size for each in images for layer in each.layers}.values())


def _inodes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_files - found.f_ffree
