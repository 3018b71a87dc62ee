"""Calls that stream: `Stream` for answers that come one by one, `Session` for the two-way calls Attach and Exec."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Any, BinaryIO, Generic, Literal, Self, TypeVar

import grpc

from moorage.client.errors import Cancelled, MoorageError, Unavailable
from moorage.v1 import image_pb2, registry_pb2, runtime_pb2

T = TypeVar("T")
ErrorMapper = Callable[[grpc.RpcError], MoorageError]

CHUNK_BYTES = 1 << 20
"""Longest piece of stdin in one message."""


class Stream(Generic[T]):
    """The answers of a streaming call, in order.

    Iterating raises MoorageError when the call fails; `close` hangs up.
    """

    def __init__(self, call: Any, mapper: ErrorMapper) -> None:
        self._call = call
        self._mapper = mapper
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        try:
            message: T = next(self._call)
        except grpc.RpcError as error:
            if self._closed:
                raise StopIteration from None
            raise self._mapper(error) from error
        return message

    def on_end(self, callback: Callable[[], None]) -> None:
        """Run `callback` once the call is over (at once if it is already), on a thread of gRPC's."""
        if not self._call.add_callback(callback):
            callback()

    def close(self) -> None:
        """Hang up; the iteration ends. Safe to call twice, and from another thread."""
        self._closed = True
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Pull(Stream[image_pb2.PullImageResponse]):
    """A running pull: iterate over its progress, or ask for the `result`. Closing it early stops the pull."""

    _image: image_pb2.Image | None = None

    def __next__(self) -> image_pb2.PullImageResponse:
        step = super().__next__()
        if step.HasField("image"):
            self._image = step.image
        return step

    def result(self) -> image_pb2.Image:
        """Read what is left of the progress and answer the image."""
        for _ in self:
            pass
        if self._image is None:
            raise Cancelled("the pull ended before the image was here")
        return self._image


class Push(Stream[image_pb2.PushImageResponse]):
    """A running push: iterate over its progress, or ask for the `result`. Closing it early stops the push."""

    _pushed: image_pb2.Pushed | None = None

    def __next__(self) -> image_pb2.PushImageResponse:
        step = super().__next__()
        if step.HasField("pushed"):
            self._pushed = step.pushed
        return step

    def result(self) -> image_pb2.Pushed:
        """Read what is left of the progress and answer what is in the registry now."""
        for _ in self:
            pass
        if self._pushed is None:
            raise Cancelled("the push ended before the image was there")
        return self._pushed


class Upload(Stream[registry_pb2.PutBlobResponse]):
    """A blob on its way to a registry: iterate over its progress to the end. What is sent of `file` is what the daemon asks for."""

    def __init__(
        self,
        method: grpc.StreamStreamMultiCallable[registry_pb2.PutBlobRequest, registry_pb2.PutBlobResponse],
        opening: registry_pb2.PutBlobRequest.Open,
        file: BinaryIO,
        mapper: ErrorMapper,
    ) -> None:
        self._wanted: SimpleQueue[int | None] = SimpleQueue()
        super().__init__(method(self._requests(opening, file)), mapper)
        self.on_end(lambda: self._wanted.put(None))

    def __next__(self) -> registry_pb2.PutBlobResponse:
        step = super().__next__()
        if step.HasField("send_from"):
            self._wanted.put(step.send_from)
        return step

    def _requests(
        self, opening: registry_pb2.PutBlobRequest.Open, file: BinaryIO
    ) -> Iterator[registry_pb2.PutBlobRequest]:
        yield registry_pb2.PutBlobRequest(open=opening)
        while (offset := self._wanted.get()) is not None:
            file.seek(offset)
            while self._wanted.empty() and (data := file.read(CHUNK_BYTES)):
                yield registry_pb2.PutBlobRequest(piece=registry_pb2.PutBlobRequest.Piece(offset=offset, data=data))
                offset += len(data)
            if self._wanted.empty() and offset < opening.size_bytes:
                return  # the file has become shorter, which the daemon says


@dataclass(frozen=True)
class Output:
    """Bytes from a process."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Outbox(Generic[T]):
    """The requests of a two-way call: `put` by any thread, iterated over by gRPC.

    Holds at most `limit` messages that may wait, so that a slow daemon slows the writer; `urgent` ones (signals,
    sizes) never wait and overtake those.
    """

    def __init__(self, limit: int = 16) -> None:
        self._changed = threading.Condition()
        self._urgent: deque[T] = deque()
        self._queue: deque[T] = deque()
        self._limit = limit
        self._ended = False
        """No more messages will come."""
        self._dead = False
        """Nobody takes them any more."""

    def put(self, message: T, *, urgent: bool = False) -> bool:
        """Queue a message; False when the call is over and it goes nowhere."""
        with self._changed:
            if not urgent:
                self._changed.wait_for(lambda: len(self._queue) < self._limit or self._ended)
            if self._ended:
                return False
            (self._urgent if urgent else self._queue).append(message)
            self._changed.notify_all()
            return True

    def end(self, *, dead: bool = False) -> None:
        """Nothing more is put; with `dead` what is queued is dropped."""
        with self._changed:
            self._ended = True
            self._dead = self._dead or dead
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._urgent or self._queue or self._ended)
            if self._dead or not (self._urgent or self._queue):
                raise StopIteration
            message = (self._urgent or self._queue).popleft()
            self._changed.notify_all()
            return message


class Session:
    """A process at the other end of an Attach or Exec call: write to it, iterate over its output, then read
    `exit_code`.

    The process runs (`pid` is known) when the constructor returns. Leaving the `with` block hangs up: that detaches
    from a container and kills an exec'ed process that still runs. Writing may be done by another thread than reading.
    """

    def __init__(self, method: Any, request: type[Any], opening: Any, mapper: ErrorMapper) -> None:
        self._request = request
        self._outbox: Outbox[Any] = Outbox()
        self._outbox.put(request(open=opening))
        self._answers: Stream[Any] = Stream(method(self._outbox), mapper)
        self._answers.on_end(lambda: self._outbox.end(dead=True))
        self._exited: runtime_pb2.Exited | None = None
        try:
            self.pid = self._first().started.pid
        except BaseException:
            self.close()
            raise

    def _first(self) -> Any:
        for answer in self._answers:
            if answer.WhichOneof("message") == "started":
                return answer
            break
        raise Unavailable("the daemon closed the stream before the process was started")

    def __iter__(self) -> Iterator[Output]:
        """Output as it comes, until the process has ended (or, for a detached exec, the call is over)."""
        for answer in self._answers:
            kind = answer.WhichOneof("message")
            if kind == "exited":
                self._exited = answer.exited
                self._finish()
                return
            if kind in ("stdout", "stderr"):
                yield Output(kind, getattr(answer, kind))

    def _finish(self) -> None:
        """Let the call end by itself, so that the daemon does not see a caller who hung up.

        What it says after `exited` is no matter.
        """
        self._outbox.end()
        with suppress(MoorageError):
            for _ in self._answers:
                continue

    @property
    def exited(self) -> runtime_pb2.Exited | None:
        """How the process ended; None while it has not, or when the call was closed before."""
        return self._exited

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None while it has not exited."""
        return None if self._exited is None else self._exited.exit_code

    def write(self, data: bytes) -> bool:
        """Give bytes to stdin, waiting while the daemon cannot take more. False when the process is gone."""
        view = memoryview(data)
        pieces = (bytes(view[at : at + CHUNK_BYTES]) for at in range(0, len(view), CHUNK_BYTES))
        return all(self._outbox.put(self._request(stdin=piece)) for piece in pieces)

    def close_stdin(self) -> None:
        """Nothing more for stdin; output may follow."""
        self._outbox.put(self._request(stdin_close=True))

    def resize(self, columns: int, rows: int) -> None:
        """Tell the new size of the terminal."""
        self._outbox.put(self._request(resize=runtime_pb2.TerminalSize(width=columns, height=rows)), urgent=True)

    def signal(self, name: str) -> None:
        """Send a signal: `SIGINT`."""
        self._outbox.put(self._request(signal=name), urgent=True)

    def close(self) -> None:
        """Hang up. Safe to call twice, and from another thread."""
        self._outbox.end(dead=True)
        self._answers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
