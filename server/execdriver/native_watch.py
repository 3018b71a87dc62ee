"""The daemon's standing connection to each supervisor, which brings the ends of containers, and its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from moorage.server.supervisor.protocol import Channel, Frame, ProtocolError


class Watch:
    """Reads one on the loop. `on_exit` gets the container as `status` answers it, `on_lost` is called when the supervisor has gone."""

    def __init__(
        self, channel: Channel, on_exit: Callable[[dict[str, Any]], None], on_lost: Callable[[], None]
    ) -> None:
        """Owns the channel, on which a watch was begun."""
        channel.sock.setblocking(False)
        self._channel = channel
        self._on_exit = on_exit
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._loop.add_reader(channel.sock.fileno(), self._readable)
        # What came right behind the answer.
        self._tell(channel.arrived())

    def close(self) -> None:
        """Look no more."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._channel.sock.fileno())
            self._channel.close()

    def _readable(self) -> None:
        try:
            frames = self._channel.read()
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            frames = None
        if frames is None:
            self.close()
            self._on_lost()
        else:
            self._tell(frames)

    def _tell(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            if frame.message.get("event") == "exit":
                self._on_exit(frame.message["container"])
