"""The HTTP/1.1 request that asks for an upgrade, and what it is refused with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import h11

from moorage.server.streaming.transport import ConnectionLost, Transport

MAX_HEAD = 16 << 10
PROTOCOL_HEADER = "x-stream-protocol-version"
ACCEPTED_HEADER = "X-Accepted-Stream-Protocol-Versions"

SPDY_COMMAND_PROTOCOLS = {"v4.channel.k8s.io": 4, "v3.channel.k8s.io": 3, "v2.channel.k8s.io": 2, "channel.k8s.io": 1}
SPDY_PORTFORWARD_PROTOCOLS = {"portforward.k8s.io": 1}


class Refusal(Exception):
    """A request that is answered with an error; the connection is closed then."""

    def __init__(self, status: HTTPStatus, message: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def response(self) -> bytes:
        """The whole response."""
        body = f"{self.message}\n".encode()
        headers = [
            *self.headers,
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ]
        return _head(self.status, headers) + body


@dataclass(frozen=True)
class Request:
    """A request without a body. `headers` as they came, with lower-case names; `rest` is what came behind it."""

    method: str
    target: str
    headers: Sequence[tuple[bytes, bytes]]
    rest: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    def query(self, name: str) -> list[str]:
        """Values of a query parameter."""
        return parse_qs(urlsplit(self.target).query, max_num_fields=100).get(name, [])

    def values(self, name: str) -> list[str]:
        """Values of a header that is repeated or comma-joined."""
        lines = [value.decode("latin-1") for key, value in self.headers if key == name.encode()]
        return [value.strip() for line in lines for value in line.split(",") if value.strip()]

    def upgrade(self) -> str:
        """The protocol to upgrade to: `websocket`, `spdy/3.1`. Refuses with 400."""
        offered = [value.lower() for value in self.values("upgrade")]
        if "upgrade" in (value.lower() for value in self.values("connection")):
            for protocol in ("websocket", "spdy/3.1"):
                if protocol in offered:
                    return protocol
        raise Refusal(HTTPStatus.BAD_REQUEST, "upgrade to SPDY/3.1 or websocket required")


async def read_request(transport: Transport) -> Request:
    """Read it within MAX_HEAD bytes. Raises Refusal, ConnectionLost."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    request: h11.Request | None = None
    received = 0
    try:
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await transport.read()
                if not data:
                    raise ConnectionLost("the peer has hung up")
                received += len(data)
                parser.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                rest = parser.trailing_data[0]
                if received - len(rest) > MAX_HEAD:
                    # The parser minds only heads that are not complete yet.
                    raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"head is longer than {MAX_HEAD} bytes")
                return _checked(request, rest)
            else:
                raise Refusal(HTTPStatus.BAD_REQUEST, "a request without a body expected")
    except h11.RemoteProtocolError as error:
        raise Refusal(HTTPStatus(error.error_status_hint), str(error)) from error


def _checked(request: h11.Request, rest: bytes) -> Request:
    if request.http_version != b"1.1":
        raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "HTTP/1.1 expected")
    method = request.method.decode("latin-1")
    if method not in ("GET", "POST"):
        raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"method {method} is not allowed", [("Allow", "GET, POST")])
    try:
        urlsplit(request.target.decode("ascii"))
    except ValueError as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"not a target: {error}") from error
    return Request(method, request.target.decode("ascii"), list(request.headers), bytes(rest))


def choose(offered: Sequence[str], known: Mapping[str, object]) -> str:
    """The first protocol of the client's that is known. Refuses with 400 if there is none at all, with 403 if none is known."""
    if not offered:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"no protocol version was asked for; known: {', '.join(known)}")
    for protocol in offered:
        if protocol in known:
            return protocol
    raise Refusal(
        HTTPStatus.FORBIDDEN,
        f"none of the protocol versions asked for is known; known: {', '.join(known)}",
        [(ACCEPTED_HEADER, protocol) for protocol in known],
    )


def switch_to_spdy(protocol: str) -> bytes:
    """The response that accepts."""
    headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", protocol)]
    return _head(HTTPStatus.SWITCHING_PROTOCOLS, headers)


def _head(status: HTTPStatus, headers: Sequence[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")
