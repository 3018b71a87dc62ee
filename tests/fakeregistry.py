"""A registry in the test's own process that serves images as asked, and misbehaves as told.

    with FakeRegistry() as registry:
        registry.add("team/app", "latest", image)
        registry.intercept = lambda request: Reply(500) if request.count == 1 else None

`requests` records what came. What `intercept` answers is sent; None lets the registry do its work.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from tests import fakeuploads
from tests.images import Blob, BuiltImage, Index


@dataclass(frozen=True)
class Request:
    """`path` includes the query; `count` is how many requests for this path came so far, this one included."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    count: int


@dataclass(frozen=True)
class Reply:
    """`cut` closes the connection after so many bytes of the body; `pad` sends so many zero bytes after it; `stall` sends
    nothing more and waits for the client to go. `length` is the Content-Length, where it is to lie. `drop` answers nothing and hangs up."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    pad: int = 0
    length: int | None = None
    stall: bool = False
    drop: bool = False


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is part of these tests."""


class FakeRegistry:
    """`url` is `http://127.0.0.1:port`, `host` is `127.0.0.1:port`. With a directory of `make_certificates` it speaks TLS."""

    def __init__(self, certificates: Path | None = None) -> None:
        self.requests: list[Request] = []
        self.intercept: Callable[[Request], Reply | None] = lambda request: None
        self.manifests: dict[str, Blob] = {}
        self.blobs: dict[str, bytes] = {}
        self.homes: dict[str, set[str]] = {}
        """Repositories of each blob that was pushed; one of `add` is in all."""
        self.uploads: dict[str, bytearray] = {}
        """Uploads under way, by the path of their location."""
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        if certificates is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificates / "server.pem", certificates / "server.key")
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="moorage-fake-registry")

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._server.server_address[1]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def add(self, repository: str, tag: str, image: BuiltImage | Index) -> None:
        """Serve `image` in `repository` under `tag` and by digest."""
        for member in image.images if isinstance(image, Index) else (image,):
            for blob in (member.config, *member.layers):
                self.blobs[blob.digest] = blob.data
            self.manifests[f"{repository}/manifests/{member.manifest.digest}"] = member.manifest
        self.manifests[f"{repository}/manifests/{image.manifest.digest}"] = image.manifest
        self.manifests[f"{repository}/manifests/{tag}"] = image.manifest

    def asked(self, part: str) -> list[Request]:
        """The requests whose path contains `part`."""
        with self._lock:
            return [request for request in self.requests if part in request.path]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def serve(self, request: Request) -> Reply:
        """What a registry in order answers."""
        if request.method in ("POST", "PUT", "PATCH", "DELETE") or request.path in self.uploads:
            return fakeuploads.serve(self, request)
        path = request.path.partition("?")[0].removeprefix("/v2/")
        if path in ("", "_catalog") or path.endswith("/tags/list") or "/referrers/" in path:
            return fakeuploads.discover(self, request)
        if path in self.manifests:
            found = self.manifests[path]
            return Reply(200, found.data, {"Content-Type": found.media_type, "Docker-Content-Digest": found.digest})
        repository, _, digest = path.rpartition("/blobs/")
        data = self.blobs.get(digest)
        if data is None or repository not in self.homes.get(digest, {repository}):
            return Reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        wanted = request.headers.get("Range", "")
        if not wanted:
            return Reply(200, data)
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
        return Reply(206, data[start:], {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"})

    def _record(self, handler: BaseHTTPRequestHandler) -> Request:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        with self._lock:
            self._counts[handler.path] += 1
            count = self._counts[handler.path]
            request = Request(handler.command, handler.path, dict(handler.headers.items()), body, count)
            self.requests.append(request)
        return request

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                request = registry._record(self)
                _send(self, registry.intercept(request) or registry.serve(request))

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        return Handler


def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    if reply.drop:
        handler.close_connection = True
        return
    handler.send_response(reply.status)
    length = len(reply.body) + reply.pad if reply.length is None else reply.length
    for name, value in {"Content-Length": str(length), **reply.headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    try:
        handler.wfile.write(reply.body[: reply.cut])
        if reply.cut is not None:
            handler.close_connection = True
            return
        if reply.stall:
            handler.close_connection = True
            handler.rfile.read(1)
        for _ in range(reply.pad >> 16):
            handler.wfile.write(bytes(1 << 16))
    except OSError:
        handler.close_connection = True  # the client had enough


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
