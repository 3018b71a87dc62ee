"""Connections into a pod, made by its supervisor, which is in the pod's network namespace, and handed to the daemon."""

from __future__ import annotations

import errno
import os
import socket

from moorage.server.supervisor.connection import Connection
from moorage.server.supervisor.failures import Failure, describe
from moorage.server.supervisor.loop import WRITE, Loop

ADDRESSES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
SECONDS = 10.0


class Dial:
    """Tries one address after the other; answers the first that accepts, or why the last did not."""

    def __init__(self, loop: Loop, connection: Connection, identity: object, port: int) -> None:
        self._loop = loop
        self._connection = connection
        self._identity = identity
        self._port = port
        self._left = list(ADDRESSES)
        self._next(errno.ECONNREFUSED)

    def _next(self, error: int) -> None:
        if not self._left:
            why = os.strerror(error).lower()
            failure = Failure("Unavailable", f"cannot connect to port {self._port} of the pod: {why}", errno=error)
            self._connection.send({"id": self._identity, "error": describe(failure)})
            return
        family, address = self._left.pop(0)
        try:
            self._sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as failed:
            # A kernel without IPv6.
            self._next(failed.errno or error)
            return
        number = self._sock.connect_ex((address, self._port))
        self._timer = self._loop.call_later(SECONDS, lambda: self._done(errno.ETIMEDOUT))
        self._loop.add(self._sock.fileno(), WRITE, lambda _events: self._done(self._error()))
        if number not in (0, errno.EINPROGRESS):
            self._done(number)

    def _error(self) -> int:
        return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _done(self, error: int) -> None:
        self._timer.cancel()
        self._loop.remove(self._sock.fileno())
        if error:
            self._sock.close()
            self._next(error)
        else:
            self._sock.setblocking(True)
            self._connection.send({"id": self._identity}, (self._sock.detach(),))
