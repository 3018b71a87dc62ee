"""From a URL to a gRPC channel: `unix:///path` and `tcp://host:port`.

Importing this module does not load gRPC.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from moorage.client.errors import InvalidArgument, MoorageError, PermissionDenied, Unavailable

if TYPE_CHECKING:
    import grpc

DEFAULT_HOST = "unix:///run/moorage/moorage.sock"
MAX_MESSAGE_BYTES = 16 << 20

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 64 << 10),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)


@dataclass(frozen=True)
class TLS:
    """Paths of PEM files: the authority that signed the daemon's certificate (empty for the system's), and the
    client's own pair.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""

    def __bool__(self) -> bool:
        return bool(self.ca or self.cert or self.key)


@dataclass(frozen=True)
class Address:
    """Where a daemon listens: a socket's `path`, or `host` and `port`."""

    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path else f"tcp://{self._authority}"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """The address in gRPC's own words."""
        return f"unix:{self.path}" if self.path else f"dns:{self._authority}"

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def default_host() -> str:
    """`MOORAGE_HOST`, or the socket of the daemon of this machine."""
    return os.environ.get("MOORAGE_HOST") or DEFAULT_HOST


def parse_address(url: str) -> Address:
    """Take `unix:///path` or `tcp://host:port` apart. Raises InvalidArgument."""
    hint = "give unix:///path/to/socket or tcp://host:port"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"malformed host {url!r}: {error}", hint=hint) from None
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        return Address(path=parts.path)
    plain = not (parts.path or parts.query or parts.fragment or parts.username)
    if parts.scheme == "tcp" and parts.hostname and port and plain:
        return Address(host=parts.hostname, port=port)
    raise InvalidArgument(f"malformed host {url!r}", hint=hint)


def connect(url: str | None = None, *, tls: TLS | None = None, insecure: bool = False) -> tuple[grpc.Channel, Address]:
    """Open a channel (it connects at the first call).

    `tcp://` needs TLS; `insecure` allows it plain on loopback. Raises InvalidArgument when the URL or the TLS files
    are no good.
    """
    address = parse_address(url or default_host())
    tls = tls or TLS()
    if address.path or (insecure and address.loopback and not tls):
        import grpc

        return grpc.insecure_channel(address.target, options=_OPTIONS), address
    if not tls:
        loopback = ", or --insecure-loopback for a daemon without TLS" if address.loopback else ""
        raise InvalidArgument(f"{address} needs TLS", hint=f"give --tls-ca, --tls-cert and --tls-key{loopback}")
    credentials = _credentials(tls)
    import grpc

    return grpc.secure_channel(address.target, credentials, options=_OPTIONS), address


def _credentials(tls: TLS) -> grpc.ChannelCredentials:
    if bool(tls.cert) != bool(tls.key):
        raise InvalidArgument(
            "a client certificate and its key belong together", hint="give both --tls-cert and --tls-key"
        )
    try:
        ca, cert, key = (Path(path).read_bytes() if path else None for path in (tls.ca, tls.cert, tls.key))
    except OSError as error:
        raise InvalidArgument(f"cannot read {error.filename}: {error.strerror}") from None
    import grpc

    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def explain(address: Address, error: MoorageError) -> MoorageError:
    """Say why `address` cannot be reached.

    `error` is an `Unavailable` of gRPC's own making; knock once more and tell what the kernel says, or answer `error`
    where the door opens now.
    """
    try:
        if address.path:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knocker:
                knocker.settimeout(2)
                knocker.connect(address.path)
        else:
            socket.create_connection((address.host, address.port), timeout=2).close()
    except PermissionError:
        return PermissionDenied(
            f"cannot connect to {address}: permission denied",
            hint="run as root, or join the group that owns the socket (usermod -aG moorage NAME) and log in again",
        )
    except OSError as cause:
        return Unavailable(
            f"cannot connect to the daemon at {address}: {_words(cause)}", hint=_start_hint(address, cause)
        )
    return error


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _start_hint(address: Address, error: OSError) -> str:
    if address.path and error.errno in (errno.ENOENT, errno.ECONNREFUSED):
        listen = "" if str(address) == DEFAULT_HOST else f" --listen {address}"
        return f"is the daemon running? start it with: mooraged{listen}, or name another with -H or MOORAGE_HOST"
    return "is the daemon running there? name another with -H or MOORAGE_HOST"
