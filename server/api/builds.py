"""BuildService: protobuf to commands and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Literal

from grpc import aio

from moorage.server.api import context as ctx
from moorage.server.api import convert
from moorage.server.engine import buildcommands as b
from moorage.server.engine.engine import Engine
from moorage.server.errors import InvalidArgument
from moorage.server.model import Platform, Rlimit
from moorage.v1 import build_pb2 as pb
from moorage.v1 import build_pb2_grpc

Ctx = aio.ServicerContext[Any, Any]

KINDS: dict[int, Literal["file", "directory", "link"]] = {
    pb.BUILD_CONTEXT_FILE_KIND_FILE: "file",
    pb.BUILD_CONTEXT_FILE_KIND_DIRECTORY: "directory",
    pb.BUILD_CONTEXT_FILE_KIND_LINK: "link",
}
IMAGE = "docker-image://"
"""What a named context begins with that is an image."""
STREAMS = {
    "stdout": pb.BUILD_STREAM_STDOUT,
    "stderr": pb.BUILD_STREAM_STDERR,
    "status": pb.BUILD_STREAM_STATUS,
}


class BuildService(build_pb2_grpc.BuildServiceServicer):
    """See protos/moorage/v1/build.proto."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Build(
        self, request_iterator: AsyncIterator[pb.BuildRequest], context: Ctx
    ) -> AsyncIterator[pb.BuildResponse]:
        requests = aiter(request_iterator)
        first = await anext(requests, pb.BuildRequest())
        if first.WhichOneof("message") != "open":
            raise InvalidArgument("the first message of a build must be `open`", field="open")
        command = b.Build(_options(first.open), _inputs(requests), tuple(first.open.tags))
        async with aclosing(self._engine.stream(command, ctx.of(context))) as events:
            async for event in events:
                yield _response(event)

    async def PruneBuildCache(self, request: pb.PruneBuildCacheRequest, context: Ctx) -> pb.PruneBuildCacheResponse:
        pruned = await self._engine.run(b.PruneBuilds(request.unused_seconds, request.caches), ctx.of(context))
        return pb.PruneBuildCacheResponse(steps=pruned.entries, reclaimed_bytes=pruned.reclaimed)


def _options(message: pb.BuildOpen) -> b.BuildOptions:
    platform = convert.platform(message.platform)
    if platform not in (None, Platform()):
        raise InvalidArgument(
            f"platform {message.platform.os}/{message.platform.architecture} is not offered: images are built for this host",
            field="platform",
        )
    named = {_context_name(name): text for name, text in message.build_contexts.items()}
    return b.BuildOptions(
        dockerfile=message.dockerfile,
        file=message.file_name or "Dockerfile",
        target=message.target,
        arguments=dict(message.build_args),
        labels=dict(message.labels),
        secrets=dict(message.secrets),
        agents=frozenset(message.ssh),
        network=message.network,
        extra_hosts=tuple(message.extra_hosts),
        rlimits=tuple(Rlimit(each.name, each.soft, each.hard) for each in message.rlimits),
        shm_size=message.shm_size_bytes,
        no_cache=message.no_cache,
        pull=message.pull,
        cache_from=tuple(message.cache_from),
        cache_to=tuple(b.CacheExport(each.reference, each.all_stages) for each in message.cache_to),
        inline_cache=message.inline_cache,
        files=message.files,
        check=message.check,
        contexts={name: text.removeprefix(IMAGE) if text.startswith(IMAGE) else "" for name, text in named.items()},
        repositories={
            **({"": message.context_url} if message.context_url else {}),
            **{name: text for name, text in named.items() if text and not text.startswith(IMAGE)},
        },
    )


def _context_name(name: str) -> str:
    """Names mean the same in upper and lower case, as those of stages do."""
    if not name or not name.isprintable():
        raise InvalidArgument(f"{name[:80]!r} cannot be the name of a context", field="build_contexts")
    return name.lower()


async def _inputs(requests: AsyncIterator[pb.BuildRequest]) -> AsyncIterator[b.BuildInput]:
    async for request in requests:
        match request.WhichOneof("message"):
            case "list":
                yield b.Listed(
                    tuple(_entry(file) for file in request.list.files), request.list.last, request.list.context.lower()
                )
            case "contents":
                yield b.Contents(tuple((piece.digest, piece.data) for piece in request.contents.pieces))
            case "agent":
                yield b.AgentData(request.agent.connection, "", request.agent.data, request.agent.end)
            case other:
                raise InvalidArgument(
                    f"a build takes `list`, `contents` or `agent` now, not `{other}`", field=other or "message"
                )


def _entry(file: pb.BuildContextFile) -> b.ContextEntry:
    kind = KINDS.get(file.kind)
    if kind is None:
        raise InvalidArgument(f"context file {file.path[:100]!r} has no kind", field="list.files.kind")
    return b.ContextEntry(file.path, kind, file.mode, file.size_bytes, file.modified_nanos, file.digest, file.target)


def _response(event: b.BuildEvent) -> pb.BuildResponse:
    match event:
        case b.Wanted():
            return pb.BuildResponse(wanted=pb.BuildWanted(digests=event.digests, last=event.last))
        case b.StepBegun():
            return pb.BuildResponse(begun=pb.BuildStepBegun(step=event.id, name=event.name, stage=event.stage))
        case b.StepEnded():
            ended = pb.BuildStepEnded(
                step=event.id, duration_nanos=int(event.seconds * 10**9), cached=event.cached, error=event.error
            )
            return pb.BuildResponse(ended=ended)
        case b.StepOutput():
            output = pb.BuildStepOutput(step=event.id, stream=STREAMS[event.stream], data=event.data)
            return pb.BuildResponse(output=output)
        case b.AgentData():
            piece = pb.BuildAgentData(connection=event.connection, id=event.id, data=event.data, end=event.end)
            return pb.BuildResponse(agent=piece)
        case b.Warned():
            return pb.BuildResponse(warning=event.message)
        case b.Files():
            return pb.BuildResponse(files=event.data)
        case b.Built():
            return pb.BuildResponse(image=convert.image(event.image))
