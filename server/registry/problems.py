"""Turns what a registry answers, or that it does not, into typed errors that name the registry, the repository and the cause."""

from __future__ import annotations

import email.utils
import json
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import urllib3.exceptions

from moorage.server.errors import (
    FailedPrecondition,
    Internal,
    MoorageError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)


@dataclass(frozen=True)
class Subject:
    """What a request is about: `action` reads after "cannot", like `get manifest latest`; `towards` before the registry's name."""

    registry: str
    repository: str
    action: str
    towards: str = "from"

    def __str__(self) -> str:
        of = f" of {self.repository}" if self.repository else ""
        return f"cannot {self.action}{of} {self.towards} registry {self.registry}"

    def metadata(self) -> dict[str, str]:
        return {"registry": self.registry, "repository": self.repository}


class TryAgain(Exception):
    """A failure that may pass. `error` is what to raise when patience is out; `after` the seconds the registry asked for."""

    def __init__(self, error: MoorageError, after: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.after = after


def shown(text: str, limit: int = 200) -> str:
    """Foreign text, quoted, in ASCII and short enough for a message."""
    quoted = ascii(text[:limit])
    return quoted if len(text) <= limit and len(quoted) <= limit else f"{quoted[:limit]}...{quoted[-1]}"


def excerpt(body: bytes) -> str:
    """The beginning of a body, quoted."""
    return shown(body[:200].decode("utf-8", "replace")) if body else "nothing"


def from_status(
    subject: Subject, status: int, headers: Mapping[str, str], body: bytes, hint_401: str = ""
) -> Exception:
    """The error for a status that is not success; TryAgain around it for 429 and 5xx."""
    said = _errors(body)
    message = f"{subject}: it answers {status} {f'({shown(said)[1:-1]})' if said else f'with {excerpt(body)}'}"
    metadata = {**subject.metadata(), "status": status}
    match status:
        case 400 if said:
            hint = "the registry refuses what it was sent, by rules of its own"
            return FailedPrecondition(message, reason="REGISTRY_REFUSED", hint=hint, **metadata)
        case 401:
            return Unauthenticated(message, reason="REGISTRY_UNAUTHENTICATED", hint=hint_401, **metadata)
        case 403:
            hint = "the account may not do this to this repository, or the repository does not exist"
            return PermissionDenied(message, reason="REGISTRY_DENIED", hint=hint, **metadata)
        case 404:
            hint = "check the name and the tag; a private repository needs credentials"
            return NotFound(message, reason="REGISTRY_NOT_FOUND", hint=hint, **metadata)
        case 405:
            hint = "the registry does not offer this, or its configuration has it switched off"
            return FailedPrecondition(message, reason="REGISTRY_UNSUPPORTED", hint=hint, **metadata)
        case 413:
            hint = "the registry, or a proxy before it, limits the size of a request: set upload_chunk of [registry]"
            return ResourceExhausted(message, reason="REGISTRY_TOO_LARGE", hint=hint, **metadata)
        case 429:
            hint = "the registry limits requests: try later, with credentials, or use a mirror"
            limited = ResourceExhausted(message, reason="REGISTRY_RATE_LIMIT", hint=hint, **metadata)
            return TryAgain(limited, retry_after(headers))
        case _ if 500 <= status < 600:
            down = Unavailable(
                message, reason="REGISTRY_ERROR", hint="the registry is in trouble: try later", **metadata
            )
            return TryAgain(down, retry_after(headers))
        case _:
            hint = "is this a registry that speaks the distribution API?"
            return Internal(message, reason="REGISTRY_PROTOCOL", hint=hint, **metadata)


def from_exception(subject: Subject, error: Exception) -> Exception:
    """The error for a connection that was not made, or was lost; TryAgain around it when it may pass."""
    why, hint, passing = _cause(error)
    unavailable = Unavailable(f"{subject}: {why}", reason="REGISTRY_UNREACHABLE", hint=hint, **subject.metadata())
    return TryAgain(unavailable) if passing else unavailable


def of_all(failures: Sequence[tuple[str, MoorageError]]) -> MoorageError:
    """The failure of the last host that was asked, the image's own, with the mirrors' in its hint."""
    *mirrors, (_, error) = failures
    for host, failure in mirrors:
        error.hint = f"{error.hint}; its mirror {host} failed too: {failure.message}".removeprefix("; ")
    return error


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date; None without a usable one."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _errors(body: bytes) -> str:
    """`CODE: message` of the distribution API's error body; empty for another."""
    try:
        errors = json.loads(body)["errors"]
        return "; ".join(f"{entry.get('code', '')}: {entry.get('message', '')}" for entry in errors[:3])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""


def _cause(error: Exception) -> tuple[str, str, bool]:
    """Answer cause, hint, and whether another try may help."""
    root = _root(error)
    if isinstance(error, urllib3.exceptions.ProxyError):
        hint = "check http_proxy, https_proxy and no_proxy of [registry], or of the daemon's environment"
        return f"its proxy fails: {shown(getattr(root, 'strerror', None) or str(root))[1:-1]}", hint, True
    if isinstance(root, ssl.SSLCertVerificationError):
        hint = "name the CA that signed it in ca_file of this host's [[registry.hosts]] table"
        return f"its certificate is not trusted: {root.verify_message or root.reason}", hint, False
    if isinstance(root, ssl.SSLError):
        hint = "if it speaks plain HTTP, set plain_http = true in this host's [[registry.hosts]] table"
        return f"TLS fails: {(root.reason or str(root)).lower().replace('_', ' ')}", hint, False
    if isinstance(root, socket.gaierror):
        return f"its name does not resolve: {(root.strerror or '').lower()}", "check the name and the host's DNS", False
    if isinstance(root, urllib3.exceptions.IncompleteRead):
        hint = "what came is kept, and the next pull goes on from there"
        return f"the connection ended after {root.partial} bytes, with {root.expected} to come", hint, True
    if isinstance(root, TimeoutError | urllib3.exceptions.TimeoutError):
        return "no answer in time", "check the network between this host and the registry", True
    if isinstance(root, OSError) and root.strerror:
        return root.strerror.lower(), "check that the registry runs and can be reached from this host", True
    text = shown(str(root) or type(root).__name__)
    return f"the connection broke: {text}", "check the network between this host and the registry", True


def _root(error: BaseException) -> BaseException:
    """The innermost cause that says something: urllib3 wraps the OSError in one or two layers of its own."""
    while True:
        inner = error.__cause__ or next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        if inner is None or (isinstance(error, OSError) and not isinstance(error, urllib3.exceptions.HTTPError)):
            return error
        error = inner
