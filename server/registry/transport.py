"""HTTP to registries on urllib3: one attempt at a time, streamed, with TLS by host, cancellable while it waits.

No retries, no redirects, no credentials here: those are `remote.py`'s.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition
from moorage.server.registry import proxies
from moorage.server.registry.config import HostConfig, RegistryConfig
from moorage.server.registry.problems import Subject, from_exception
from moorage.server.registry.proxies import Proxies

log = logging.getLogger(__name__)

CHUNK = 1 << 20
_PROBE_TIMEOUT = 3.0
_SEND = 256 << 10  # bytes of a body in one write
_IDLE = 32  # connections kept to one host: a few pulls at once, several layers each
_current = threading.local()


class Body(Protocol):
    """What is sent with a request, read as it goes out. Its length is said in the request's headers."""

    def read(self, size: int, /) -> bytes: ...


class _Line:
    """The connection a request goes out on, so that cancelling can cut it."""

    def __init__(self) -> None:
        self.connection: HTTPConnection | None = None
        self._cut = False

    def cut(self) -> None:
        self._cut = True
        sock = getattr(self.connection, "sock", None)
        if sock is not None:
            try:
                # The plain socket's shutdown: SSLSocket's own drops the TLS state that the reading thread still uses.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                return  # not connected any more, which is what was wanted

    def check(self) -> None:
        """For the moments when there was no socket yet to cut."""
        if self._cut:
            raise ConnectionAbortedError("cancelled")


class _HTTPConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _current.line.check()

    def request(self, *args: Any, **kwargs: Any) -> None:
        _current.line.connection = self
        super().request(*args, **kwargs)


class _HTTPSConnection(HTTPSConnection):
    def connect(self) -> None:
        _current.line.connection = self  # a proxy is asked for its tunnel before there is a request
        super().connect()
        # The TLS context decides, by configuration; urllib3 would warn about it at each connection.
        self.is_verified = True
        _current.line.check()

    def request(self, *args: Any, **kwargs: Any) -> None:
        _current.line.connection = self
        _current.line.check()
        super().request(*args, **kwargs)


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class Answer:
    """A response, its body not read yet. Close it, or use it as a context manager."""

    def __init__(
        self, response: urllib3.BaseHTTPResponse, subject: Subject, cancel: CancelToken, held: ExitStack
    ) -> None:
        self._response, self._subject, self._cancel, self._held = response, subject, cancel, held
        self.status = response.status
        self.headers = response.headers

    @property
    def length(self) -> int | None:
        """Content-Length, where there is a sound one."""
        value = self.headers.get("Content-Length", "")
        return int(value) if len(value) < 19 and value.isascii() and value.isdigit() else None

    def chunk(self, limit: int = CHUNK) -> bytes:
        """The next bytes of the body as they come, at most `limit`; empty at its end. Raises what `problems` makes of a break."""
        try:
            return self._response.read1(limit, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            self._cancel.check()
            raise from_exception(self._subject, error) from error

    def body(self, limit: int) -> bytes:
        """The rest of the body, but not more than `limit` + 1 bytes."""
        parts: list[bytes] = []
        length = 0
        while length <= limit and (part := self.chunk()):
            parts.append(part)
            length += len(part)
        return b"".join(parts)[: limit + 1]

    def close(self) -> None:
        """Give the connection back when the body was read to its end; else close it."""
        self._held.close()
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Transport:
    """Connection pools by host. Thread-safe."""

    def __init__(self, config: RegistryConfig) -> None:
        self._config = config
        self._timeout = urllib3.Timeout(connect=config.connect_timeout, read=config.read_timeout)
        self._lock = threading.Lock()
        self._proxies = Proxies.of(config, os.environ)
        self._managers: dict[tuple[str, str], urllib3.PoolManager] = {}

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        subject: Subject,
        cancel: CancelToken,
        body: bytes | Body | None = None,
    ) -> Answer:
        """Send one request; answer when the head of the response is here. Raises Unavailable, or TryAgain around it."""
        cancel.check()
        manager = self._manager_of(url)
        line = _Line()
        with ExitStack() as held:
            held.enter_context(cancel.on_cancel(line.cut))
            _current.line = line
            try:
                response = manager.request(
                    method,
                    url,
                    body=body,  # type: ignore[arg-type]  # urllib3 asks for no more of a body than `read`
                    headers=headers,
                    retries=False,
                    redirect=False,
                    preload_content=False,
                    timeout=self._timeout,
                )
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                cancel.check()
                raise from_exception(subject, error) from error
            return Answer(response, subject, cancel, held.pop_all())

    def speaks_tls(self, host: str) -> bool:
        """Whether a TLS handshake gets an answer there (any certificate will do: this only chooses the scheme)."""
        parts = urlsplit(f"//{host}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            address = (parts.hostname or "", parts.port or 443)
            with socket.create_connection(address, timeout=_PROBE_TIMEOUT) as plain:
                with context.wrap_socket(plain, server_hostname=parts.hostname):
                    return True
        except OSError:
            return False

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            managers = list(self._managers.values())
        for manager in managers:
            manager.clear()

    def _manager_of(self, url: str) -> urllib3.PoolManager:
        """Hosts share their connections' settings unless they have some of their own."""
        host = urlsplit(url).netloc
        settings, proxy = self._config.host(host), self._proxies.find(url)
        common = settings in (HostConfig(host), HostConfig(host, plain_http=True))
        key = ("" if common else host, proxy)
        with self._lock:
            if key not in self._managers:
                self._managers[key] = _manager(HostConfig("") if common else settings, proxy)
            return self._managers[key]


def _manager(host: HostConfig, proxy: str) -> urllib3.PoolManager:
    options: dict[str, Any] = {
        "num_pools": 32,
        "maxsize": _IDLE,
        "blocksize": _SEND,
        "ssl_context": _tls_context(host),
    }
    manager = (
        urllib3.ProxyManager(proxies.without_user(proxy), proxy_headers=proxies.headers(proxy), **options)
        if proxy
        else urllib3.PoolManager(**options)
    )
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return manager


def _tls_context(host: HostConfig) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if host.ca_file:
            context.load_verify_locations(host.ca_file)
        if host.client_cert:
            context.load_cert_chain(host.client_cert, host.client_key or None)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        message = f"cannot load {host.ca_file or host.client_cert} for registry {host.host}: {why}"
        raise FailedPrecondition(
            message, reason="REGISTRY_TLS", hint="correct this host's [[registry.hosts]] table"
        ) from error
    if host.skip_verify:
        log.warning("certificates of registry %s are not verified, as its skip_verify says", host.host)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
