"""A registry that makes a large layer while it sends it, and takes any blob without keeping it: for layers that no test wants on its disk.

with StreamRegistry(Layer(5 << 30)) as registry:
    daemon.cli("pull", f"{registry.host}/big:1")
    daemon.cli("push", f"{registry.host}/big:1", f"{registry.host}/elsewhere:1")
    assert registry.taken == {registry.layer.digest, ...}
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import secrets
import tarfile
import threading
from collections.abc import Iterator
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from tests.images import OCI_CONFIG, OCI_MANIFEST, Blob

PIECE = 1 << 20
FILE = "large"


class Layer:
    """A gzip layer of one file of `size` bytes, a quarter of them noise: as many members of a megabyte, all of the same bytes."""

    def __init__(self, size: int) -> None:
        assert not size % PIECE
        self.size = size
        info = tarfile.TarInfo(FILE)
        info.size = size
        piece = random.Random(1).randbytes(PIECE // 4) * 4
        self._plain = (info.tobuf(), piece, bytes(2 * tarfile.BLOCKSIZE))
        first, middle, last = (gzip.compress(each, 1, mtime=0) for each in self._plain)
        self._packed = (first, middle, last)

    def blob(self) -> Iterator[bytes]:
        yield from self._pieces(self._packed)

    @cached_property
    def length(self) -> int:
        """Bytes of the blob."""
        first, piece, last = map(len, self._packed)
        return first + piece * (self.size // PIECE) + last

    @cached_property
    def digest(self) -> str:
        return _digest(self.blob())

    @cached_property
    def diff_id(self) -> str:
        return _digest(self._pieces(self._plain))

    def _pieces(self, parts: tuple[bytes, bytes, bytes]) -> Iterator[bytes]:
        first, piece, last = parts
        yield first
        for _ in range(self.size // PIECE):
            yield piece
        yield last


def _digest(pieces: Iterator[bytes]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return f"sha256:{found.hexdigest()}"


class StreamRegistry:
    """Every repository has the tag `1`, an image of the layer alone. `taken` are the digests of the blobs that were pushed."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        rootfs = {"type": "layers", "diff_ids": [layer.diff_id]}
        config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/none"]}, "rootfs": rootfs}
        self.config = Blob(OCI_CONFIG, json.dumps(config).encode())
        described = {
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer.digest,
            "size": layer.length,
        }
        manifest = {"schemaVersion": 2, "config": self.config.descriptor(), "layers": [described]}
        self.manifest = Blob(OCI_MANIFEST, json.dumps({"mediaType": OCI_MANIFEST, **manifest}).encode())
        self.taken: set[str] = set()
        self.serves_layer = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="moorage-stream-registry")

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(registry: StreamRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            if "/manifests/" in self.path and name in ("1", registry.manifest.digest):
                self._answer(200, registry.manifest.data, **{"Content-Type": registry.manifest.media_type})
            elif "/manifests/" in self.path or "/elsewhere/" in self.path:
                self._answer(404)
            elif name == registry.config.digest:
                self._answer(200, registry.config.data)
            elif name == registry.layer.digest and registry.serves_layer:
                self._layer()
            else:
                self._answer(200 if self.path == "/v2/" else 404)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            self._answer(202, Location=f"/v2/elsewhere/blobs/uploads/{secrets.token_hex(8)}")

        def do_PUT(self) -> None:
            """A manifest, or a blob in one request."""
            digest = _digest(self._body())
            wanted = parse_qs(urlsplit(self.path).query).get("digest", [digest])[0]
            if digest == wanted:
                registry.taken.add(digest)
            self._answer(201 if digest == wanted else 400)

        def _body(self) -> Iterator[bytes]:
            left = int(self.headers["Content-Length"])
            while left and (data := self.rfile.read(min(left, PIECE))):
                left -= len(data)
                yield data

        def _layer(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(registry.layer.length))
            self.end_headers()
            if self.command == "GET":
                for piece in registry.layer.blob():
                    self.wfile.write(piece)

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return Handler
