"""The builds of the SDK."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from moorage.client.agents import Agents
from moorage.client.buildcontext import LocalContext
from moorage.client.caller import Caller
from moorage.client.errors import Cancelled
from moorage.client.streams import ErrorMapper, Outbox, Stream
from moorage.v1 import build_pb2, build_pb2_grpc, image_pb2


class Build(Stream[build_pb2.BuildResponse]):
    """A running build: iterate over its progress, or ask for the `result`. Closing it early stops the build.

    Of a build that was opened with `files`, messages `files` are the pieces of a tar, and `image` is None unless it has tags.
    """

    def __init__(
        self,
        stub: build_pb2_grpc.BuildServiceStub,
        opening: build_pb2.BuildOpen,
        context: LocalContext,
        agents: Mapping[str, str],
        mapper: ErrorMapper,
    ) -> None:
        self._outbox: Outbox[build_pb2.BuildRequest] = Outbox()
        self._context = context
        self._agents = Agents(agents, self._outbox.put)
        opening.ssh[:] = self._agents.ids
        self._wanted: list[str] = []
        self.image: image_pb2.Image | None = None
        self._failure: OSError | None = None
        super().__init__(stub.Build(self._outbox), mapper)
        self.on_end(lambda: self._outbox.end(dead=True))
        self.on_end(self._agents.close)
        self._sender = threading.Thread(target=self._send_list, args=(opening,), daemon=True)
        self._sender.start()

    def __next__(self) -> build_pb2.BuildResponse:
        try:
            message = super().__next__()
        except Exception:
            if self._failure is not None:
                raise self._failure from None
            raise
        match message.WhichOneof("message"):
            case "wanted":
                self._wanted += message.wanted.digests
                if message.wanted.last:
                    self._sender.join()
                    self._sender = threading.Thread(target=self._send_contents, daemon=True)
                    self._sender.start()
            case "agent":
                self._agents.take(message.agent)
            case "image":
                self.image = message.image
        return message

    def result(self) -> image_pb2.Image:
        """Read what is left of the progress and answer the image."""
        for _ in self:
            pass
        if self.image is None:
            raise Cancelled("the build ended before there was an image")
        return self.image

    def _send_list(self, opening: build_pb2.BuildOpen) -> None:
        self._outbox.put(build_pb2.BuildRequest(open=opening))
        for message in self._context.lists():
            self._outbox.put(message)

    def _send_contents(self) -> None:
        try:
            for message in self._context.contents(self._wanted):
                if not self._outbox.put(message):
                    return
        except OSError as error:
            self._failure = error
            self.close()
            return
        if not self._agents.ids:
            self._outbox.end()


class Builds:
    """Images made of Dockerfiles, and the cache of their steps."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stub = build_pb2_grpc.BuildServiceStub(caller.channel)

    def build(
        self, opening: build_pb2.BuildOpen, context: LocalContext, *, agents: Mapping[str, str] | None = None
    ) -> Build:
        """Start building; iterate over the answer for progress, or call its `result()` for the image.

        `agents` are sockets of SSH agents by the IDs that `RUN --mount=type=ssh` names; their connections are served while iterating.
        """
        return Build(self._stub, opening, context, agents or {}, self._caller.error)

    def prune(self, *, unused_seconds: int = 0, caches: bool = False) -> build_pb2.PruneBuildCacheResponse:
        """Forget the cached steps not used for a time, and with `caches` the directories of RUN's cache mounts."""
        request = build_pb2.PruneBuildCacheRequest(unused_seconds=unused_seconds, caches=caches)
        return self._caller.unary(self._stub.PruneBuildCache, request, forever=True)
