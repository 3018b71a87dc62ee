"""The attached: connections to a container's streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from moorage.server.supervisor.connection import Connection
from moorage.server.supervisor.failures import Failure, describe
from moorage.server.supervisor.protocol import MESSAGE, STDERR, STDIN, STDOUT, Frame

if TYPE_CHECKING:
    from moorage.server.supervisor.container import Container

QUEUE_LIMIT = 256 << 10
"""Bytes of output that wait for one of the attached, before it is cut off or, if it is lossless, the container is held."""


class Attachment:
    """One of the attached. Before the container runs it waits: what it sends stays in its socket."""

    def __init__(self, connection: Connection, spec: Mapping[str, Any], on_close: Callable[[Attachment], None]) -> None:
        self.lossless = bool(spec.get("lossless"))
        self.writes = bool(spec.get("stdin"))
        self.size: list[int] | None = spec.get("size")
        """Columns, rows."""
        self._kinds = {kind for kind, name in ((STDOUT, "stdout"), (STDERR, "stderr")) if spec.get(name)}
        self._connection = connection
        self._container: Container | None = None
        self._on_close = on_close
        connection.on_frame = self._frame
        connection.on_close = self._closed
        connection.on_drained = self._drained
        connection.pause()

    @property
    def full(self) -> bool:
        """Whether the container is to be held for it."""
        return self.lossless and self._connection.queued >= QUEUE_LIMIT

    @property
    def behind(self) -> bool:
        """Whether output still waits to be sent."""
        return self._connection.queued > 0

    def join(self, container: Container) -> None:
        """The container runs: its streams are connected from now on."""
        self._container = container
        self._connection.send({"started": container.pid})
        if self.size:
            container.resize(*self.size)
        self.hold(False)

    def output(self, kind: int, data: bytes) -> None:
        """Pass output on; too slow a reader is cut off here."""
        if kind not in self._kinds:
            return
        self._connection.send_data(kind, data)
        if not self.lossless and self._connection.queued > QUEUE_LIMIT:
            self._connection.drop_queued()
            self.fail(Failure("ResourceExhausted", "reader is too slow for the container's output", reason="TOO_SLOW"))

    def hold(self, held: bool) -> None:
        """Take nothing more from it, as stdin is full, or go on."""
        if held:
            self._connection.pause()
        else:
            self._connection.resume()

    def end(self, status: Mapping[str, Any]) -> None:
        """Tell how the container ended, after all output."""
        self._connection.send({"exit": status})
        self._connection.end()

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        self._connection.send({"error": describe(error)})
        self._connection.end()

    def _frame(self, frame: Frame) -> None:
        container = self._container
        if container is None:
            return
        if frame.kind == STDIN and self.writes:
            container.stdin(frame.data)
        elif frame.kind == MESSAGE:
            self._message(container, frame.message)

    def _message(self, container: Container, message: dict[str, Any]) -> None:
        match message.get("op"):
            case "close_stdin" if self.writes:
                container.stdin_closed()
            case "resize":
                container.resize(int(message["columns"]), int(message["rows"]))
            case "signal":
                container.signal(int(message["signal"]))
            case _:
                pass

    def _drained(self) -> None:
        if self._container is not None:
            self._container.balance()

    def _closed(self) -> None:
        self._on_close(self)
        if self._container is not None:
            self._container.detach(self)
