"""The daemon's standing connection to each supervisor, which brings the ends of containers, and its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any

from moorage.server.supervisor.protocol import Decoder, ProtocolError, receive


class Watch:
    """Reads one on the loop. `on_exit` gets the container as `status` answers it, `on_lost` is called when the supervisor has gone."""

    def __init__(
        self, sock: socket.socket, on_exit: Callable[[dict[str, Any]], None], on_lost: Callable[[], None]
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._decoder = Decoder()
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Look no more."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _readable(self) -> None:
        try:
            data, _fds = receive(self._sock)
            self._take(self._decoder.feed(data) if data else None)
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            self._take(None)

    def _take(self, frames: Iterable[Any] | None) -> None:
        if frames is None:
            self.close()
            self._on_lost()
            return
        for frame in frames:
            if frame.message.get("event") == "exit":
                self._on_exit(frame.message["container"])
