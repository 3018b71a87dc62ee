"""Where the API is served: `unix://`, `tcp://` (TLS, or plain on loopback when asked for) and `fd://` (systemd's socket activation)."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import ipaddress
import os
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import grpc
from grpc import aio

from moorage.server.config import Tls
from moorage.server.errors import AlreadyExists, FailedPrecondition, InvalidArgument

GROUP = "moorage"
FIRST_FD = 3


@dataclass(frozen=True)
class Address:
    """A parsed `--listen`."""

    kind: Literal["unix", "tcp", "fd"]
    url: str
    path: str = ""
    host: str = ""
    port: int = 0
    name: str = ""


def parse(url: str) -> Address:
    """Raises InvalidArgument for anything but `unix:///path`, `tcp://host:port` and `fd://[name]`."""
    parts = urlsplit(url)
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Address("unix", url, path=parts.path)
    if parts.scheme == "tcp":
        with contextlib.suppress(ValueError):
            if parts.hostname and parts.port is not None:
                return Address("tcp", url, host=parts.hostname, port=parts.port)
    if parts.scheme == "fd" and not parts.path:
        return Address("fd", url, name=parts.netloc)
    raise InvalidArgument(f"cannot listen on {url!r}", hint="use unix:///path, tcp://host:port or fd://")


def credentials(tls: Tls) -> grpc.ServerCredentials:
    """TLS that asks every client for a certificate signed by `tls.ca`."""
    try:
        pair = (Path(tls.key).read_bytes(), Path(tls.cert).read_bytes())
        return grpc.ssl_server_credentials(
            [pair], root_certificates=Path(tls.ca).read_bytes(), require_client_auth=True
        )
    except OSError as error:
        raise FailedPrecondition(f"cannot read {error.filename}: {error.strerror}", path=error.filename) from error


def add(server: aio.Server, address: Address, tls: Tls, insecure_loopback: bool) -> str:
    """Bind a unix or tcp address; answers it as it was bound."""
    if address.kind == "unix":
        return _add_unix(server, address.path)
    target = f"[{address.host}]:{address.port}" if ":" in address.host else f"{address.host}:{address.port}"
    try:
        if tls.complete:
            port = server.add_secure_port(target, credentials(tls))
        elif insecure_loopback and is_loopback(address.host):
            port = server.add_insecure_port(target)
        else:
            raise FailedPrecondition(
                f"refusing to serve {address.url} without TLS: whoever reaches it would be root here",
                hint="set ca, cert and key under [tls], or use --insecure-loopback with a loopback address",
            )
    except RuntimeError as error:
        raise AlreadyExists(
            f"cannot listen on {address.url}: {error}", hint="is something else listening there?"
        ) from error
    return f"tcp://{target.rpartition(':')[0]}:{port}"


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this host only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _add_unix(server: aio.Server, path: str) -> str:
    """0660 and the group `moorage` where there is one; a socket that nobody listens on any more is replaced."""
    if len(os.fsencode(path)) > 107:
        raise InvalidArgument(
            f"socket path is longer than 107 bytes: {path}", hint="choose a shorter --state or --listen"
        )
    Path(path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _remove_stale(path)
    umask = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise AlreadyExists(f"cannot listen on unix://{path}: {error}") from error
    finally:
        os.umask(umask)
    with contextlib.suppress(KeyError):
        os.chown(path, 0, grp.getgrnam(GROUP).gr_gid)
    return f"unix://{path}"


def _remove_stale(path: str) -> None:
    try:
        mode = os.stat(path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AlreadyExists(f"cannot listen on {path}: it exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
            return
    raise AlreadyExists(
        f"cannot listen on {path}: another process listens there", hint="stop it or choose another --listen"
    )


def activated(name: str) -> list[socket.socket]:
    """The sockets that systemd passed (sd_listen_fds(3)), all or those of one name."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise FailedPrecondition(
            "fd:// was asked for, but no socket was passed", hint="start the daemon by its socket unit"
        )
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    chosen = [i for i in range(count) if not name or (i < len(names) and names[i] == name)]
    if not chosen:
        raise FailedPrecondition(
            f"fd://{name}: no socket of that name was passed", hint=f"passed: {', '.join(filter(None, names)) or count}"
        )
    return [socket.socket(fileno=FIRST_FD + i) for i in chosen]


@contextlib.asynccontextmanager
async def relay(listening: socket.socket, target: str) -> AsyncIterator[None]:
    """Carry what arrives on an inherited socket to a unix socket of our own: gRPC can bind addresses, but not adopt descriptors."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(target)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer), return_exceptions=True)
        finally:
            inner_writer.close()
            writer.close()

    listening.setblocking(False)
    if listening.family == socket.AF_UNIX:
        server = await asyncio.start_unix_server(carry, sock=listening)
    else:
        server = await asyncio.start_server(carry, sock=listening)
    try:
        yield
    finally:
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(256 << 10):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
