"""SSH agents that a build may use: its commands' requests go to them, and their answers back.

Messages are those of draft-ietf-sshm-ssh-agent: four bytes of length, one of type. A command may ask for the list of keys and for
signatures; anything else (to add, remove or lock keys) is answered with a failure, and the agent hears nothing of it.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from moorage.v1 import build_pb2 as pb

log = logging.getLogger(__name__)

VARIABLE = "SSH_AUTH_SOCK"
MAX_MESSAGE = 256 << 10
FAILURE = b"\x05"
ALLOWED = (b"\x0b", b"\x0d")
"""SSH_AGENTC_REQUEST_IDENTITIES, SSH_AGENTC_SIGN_REQUEST."""
MAX_WAITING = 64
"""Pieces that may wait for an agent; a command that sends more has its connection closed."""
ANSWER_SECONDS = 300.0
"""An agent may ask its user first."""


def sockets(texts: tuple[str, ...]) -> dict[str, str]:
    """The agents that `--ssh ID[=SOCKET]` names, by ID; without a socket that of the environment. Raises ValueError."""
    found: dict[str, str] = {}
    for text in texts:
        identity, _, path = text.partition("=")
        if not identity:
            raise ValueError(f"--ssh {text}: ID or ID=SOCKET, such as default")
        path = path or os.environ.get(VARIABLE, "")
        if not path:
            raise ValueError(f"--ssh {text}: {VARIABLE} is not set: is an ssh-agent running?")
        try:
            mode = Path(path).stat().st_mode
        except OSError as error:
            raise ValueError(f"--ssh {text}: cannot read {path}: {(error.strerror or '').lower()}") from None
        if not stat.S_ISSOCK(mode):
            raise ValueError(
                f"--ssh {text}: {path} is not the socket of an agent; key files are not read: "
                f"give the key to an ssh-agent (`ssh-add {path}`), and forward that with --ssh {identity}"
            )
        found[identity] = path
    return found


class Agents:
    """The connections of one build to its agents, each on a thread of its own. `send` puts a request into the build's stream."""

    def __init__(self, agents: Mapping[str, str], send: Callable[[pb.BuildRequest], object]) -> None:
        self.ids = sorted(agents)
        self._agents = agents
        self._send = send
        self._connections: dict[int, queue.SimpleQueue[bytes]] = {}

    def take(self, piece: pb.BuildAgentData) -> None:
        """What a command says; its first piece begins a connection."""
        if piece.id:
            self._connections[piece.connection] = queue.SimpleQueue()
            work = (piece.connection, self._agents.get(piece.id, ""), self._connections[piece.connection])
            threading.Thread(target=self._serve, args=work, daemon=True).start()
        incoming = self._connections.get(piece.connection)
        if incoming is None:
            return
        if piece.data:
            incoming.put(piece.data)
        if piece.end or incoming.qsize() > MAX_WAITING:
            del self._connections[piece.connection]
            incoming.put(b"")

    def close(self) -> None:
        """The build is over."""
        for incoming in self._connections.values():
            incoming.put(b"")

    def _serve(self, connection: int, path: str, incoming: queue.SimpleQueue[bytes]) -> None:
        try:
            with socket.socket(socket.AF_UNIX) as agent:
                agent.settimeout(ANSWER_SECONDS)
                agent.connect(path)
                for request in messages(iter(incoming.get, b"")):
                    answer = asked(agent, request) if request[:1] in ALLOWED else framed(FAILURE)
                    self._send(pb.BuildRequest(agent=pb.BuildAgentData(connection=connection, data=answer)))
        except (OSError, ValueError) as error:
            log.warning("the connection to SSH agent %s ended: %s", path, error)
        self._send(pb.BuildRequest(agent=pb.BuildAgentData(connection=connection, end=True)))


def messages(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The messages in a stream that comes in pieces, without their lengths. Raises ValueError for one that is too long."""
    rest = b""
    for piece in pieces:
        rest += piece
        while len(rest) >= 4:
            (length,) = struct.unpack_from(">I", rest)
            if not 0 < length <= MAX_MESSAGE:
                raise ValueError(f"a message to an SSH agent has {length} bytes")
            if len(rest) < 4 + length:
                break
            yield rest[4 : 4 + length]
            rest = rest[4 + length :]


def framed(message: bytes) -> bytes:
    """A message with its length."""
    return struct.pack(">I", len(message)) + message


def asked(agent: socket.socket, request: bytes) -> bytes:
    """What an agent answers, with its length. Raises OSError, ValueError."""
    agent.sendall(framed(request))
    answers = messages(iter(lambda: agent.recv(1 << 16), b""))
    answer = next(answers, b"")
    if not answer:
        raise ConnectionError("the agent has closed the connection")
    return framed(answer)
