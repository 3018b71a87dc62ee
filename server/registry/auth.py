"""Answers a registry's 401: Basic, or Bearer with a token from the token service the registry names.

Credentials belong to one host. They are looked up only when that host asks, and shown to it, or to its token service, alone.
A token service is asked over HTTPS, unless the registry itself was reached over plain HTTP.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import msgspec

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition, Internal, MoorageError, Unauthenticated
from moorage.server.registry import credentials
from moorage.server.registry.config import HostConfig, is_loopback
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.problems import Subject, from_status, shown
from moorage.server.registry.transport import Transport

__all__ = ["Authorizer", "Challenge", "CredentialSource", "RegistryAuth", "TokenCache", "parse_challenges"]

log = logging.getLogger(__name__)

_CLIENT_ID = "moorage"
_MAX_ANSWER = 1 << 20
_DEFAULT_LIFE = 60.0
"""Seconds a token lives when the service does not say (distribution's token specification)."""
_MARGIN = 10.0
_MAX_TOKENS = 1024
_WORD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(r"\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([!#$%&'*+.^_`|~0-9A-Za-z-]+))")
_BEARER_TOKEN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Challenge:
    """One challenge of a WWW-Authenticate header (RFC 9110, 11.6.1): lower-case scheme and parameter names."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """The challenges of all WWW-Authenticate headers of a response, in order; what is malformed ends its header."""
    return [challenge for value in values for challenge in _parse_header(value)]


def _parse_header(value: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str]]] = []
    at = 0
    while at < len(value):
        if value[at] in ", \t":
            at += 1
            continue
        word = _WORD.match(value, at)
        if word is None:
            break
        at = word.end()
        parameter = _PARAMETER.match(value, at) if found else None
        if parameter is None:
            found.append((word[0].lower(), {}))
            continue
        quoted, plain = parameter.groups()
        found[-1][1].setdefault(word[0].lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        at = parameter.end()
    return [Challenge(scheme, parameters) for scheme, parameters in found]


@dataclass(frozen=True)
class CredentialSource:
    """Where credentials come from: the call for `host` (the image's own registry), else the Docker config file."""

    docker_config: Path
    host: str = ""
    auth: RegistryAuth | None = None

    def given(self, host: str) -> RegistryAuth | None:
        """What the call gave for `host`; nothing for any other host, mirrors included."""
        return self.auth if self.auth and host == self.host else None

    def find(self, host: str) -> tuple[RegistryAuth | None, str]:
        """Answer the credentials for `host`, and what was wrong with the configured ones, for a hint."""
        if given := self.given(host):
            return given, ""
        try:
            return credentials.lookup(self.docker_config, host), ""
        except FailedPrecondition as error:
            log.warning("going on without credentials for %s: %s", host, error.message)
            return None, error.message


@dataclass(frozen=True)
class _Token:
    header: str = field(repr=False)
    expires: float


class TokenCache:
    """Bearer tokens by (host, scope, who asks), each until shortly before it expires. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[tuple[str, str, RegistryAuth | None], _Token] = {}

    def get(self, host: str, scope: str, auth: RegistryAuth | None) -> str:
        with self._lock:
            token = self._tokens.get((host, scope, auth))
            return token.header if token and token.expires > self._clock() else ""

    def put(self, host: str, scope: str, auth: RegistryAuth | None, header: str, life: float) -> None:
        now = self._clock()
        with self._lock:
            if len(self._tokens) >= _MAX_TOKENS:
                self._tokens = {key: token for key, token in self._tokens.items() if token.expires > now}
            if len(self._tokens) < _MAX_TOKENS:
                self._tokens[host, scope, auth] = _Token(header, now + life - min(_MARGIN, life / 4))


class _TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    expires_in: float | None = None


class Authorizer:
    """The Authorization header for one repository of one host. Thread-safe.

    `base` is the URL the host was reached by (its scheme decides whether plain HTTP is good enough for its token service).
    """

    def __init__(
        self,
        transport: Transport,
        tokens: TokenCache,
        source: CredentialSource,
        settings: Callable[[str], HostConfig],
        base: str,
        host: str,
        repository: str,
        scopes: tuple[str, ...] | None = None,
    ) -> None:
        """`scopes` are what a token is asked for (distribution's token scopes), by default to pull `repository`."""
        self._transport, self._tokens, self._source, self._settings = transport, tokens, source, settings
        self._base, self._host, self._repository = base, host, repository
        self._scopes = (f"repository:{repository}:pull",) if scopes is None else scopes
        self._scope = " ".join(self._scopes)
        self._lock = threading.Lock()
        self._basic = ""
        self._note = ""
        self.presented = False
        """Whether credentials were asked for and shown."""

    def header(self) -> str:
        """What to send now; empty while nothing is known to be wanted."""
        return self._basic or self._tokens.get(self._base, self._scope, self._source.given(self._host))

    def hint(self) -> str:
        """What to do about a 401 that remains."""
        if self.presented:
            return "the registry refuses the credentials it was shown: check user name, password or token"
        log_in = f"log in with `moorage login {self._host}`"
        hint = f"{log_in}, or give credentials with the call or in the Docker config file; or the name is wrong"
        return f"{self._note}; {hint}" if self._note else hint

    def answer(self, challenges: list[Challenge], refused: str, cancel: CancelToken) -> bool:
        """Take up a challenge to a request that was sent with the header `refused`; answer whether to send it once more."""
        with self._lock:
            if self.header() != refused:
                return True  # another thread has a new one already
            for challenge in sorted(challenges, key=lambda c: c.scheme != "bearer"):
                if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                    return self._take_token(challenge, cancel)
                if challenge.scheme == "basic" and not refused:
                    return self._take_basic()
            return False

    def _take_basic(self) -> bool:
        auth, self._note = self._source.find(self._host)
        if auth is None or not auth.username:
            return False
        self._basic, self.presented = auth.basic(), True
        return True

    def _take_token(self, challenge: Challenge, cancel: CancelToken) -> bool:
        given = self._source.given(self._host)
        auth, self._note = self._source.find(self._host)
        self.presented = auth is not None
        if auth and auth.registry_token:
            header, life = f"Bearer {auth.registry_token}", _DEFAULT_LIFE
        else:
            header, life = self._ask(challenge, auth, cancel)
        if header == self._tokens.get(self._base, self._scope, given):
            return False
        self._tokens.put(self._base, self._scope, given, header, life)
        return True

    def _ask(self, challenge: Challenge, auth: RegistryAuth | None, cancel: CancelToken) -> tuple[str, float]:
        realm = challenge.parameters["realm"]
        self._check_realm(realm, Subject(self._host, self._repository, "authenticate for access"))
        action = f"get a token from {shown(urlsplit(realm).netloc)[1:-1]} for access"
        subject = Subject(self._host, self._repository, action)
        method, url, headers, body = self._request(realm, challenge.parameters.get("service", ""), auth)
        with self._transport.send(method, url, headers, subject, cancel, body) as reply:
            answer = reply.body(_MAX_ANSWER)
            if reply.status != 200:
                raise self._refused(subject, reply.status, reply.headers, answer)
        return _parse_token(subject, answer)

    def _request(
        self, realm: str, service: str, auth: RegistryAuth | None
    ) -> tuple[str, str, dict[str, str], bytes | None]:
        """Method, URL, headers and body: POST with a refresh token (OAuth 2), else GET, with Basic when there is a password."""
        query = {"service": service, "client_id": _CLIENT_ID}
        if auth and auth.identity_token:
            form = {**query, "scope": self._scope, "grant_type": "refresh_token", "refresh_token": auth.identity_token}
            return "POST", realm, {"Content-Type": "application/x-www-form-urlencoded"}, urlencode(form).encode()
        headers = {}
        if auth and auth.username:
            query["account"] = auth.username
            headers["Authorization"] = auth.basic()
        pairs = [*query.items(), *(("scope", scope) for scope in self._scopes)]
        url = realm + ("&" if "?" in realm else "?") + urlencode([pair for pair in pairs if pair[1]])
        return "GET", url, headers, None

    def _check_realm(self, realm: str, subject: Subject) -> None:
        try:
            parts = urlsplit(realm)
            plain = parts.scheme == "http" and self._base.startswith("http:")
            allowed = plain and (is_loopback(parts.netloc) or self._settings(parts.netloc).plain_http)
            usable = bool(parts.hostname) and "@" not in parts.netloc and (parts.scheme == "https" or allowed)
        except ValueError:
            usable = False
        if not usable:
            message = f"{subject}: its token service {shown(realm)} is not an https URL"
            raise Unauthenticated(message, reason="REGISTRY_PROTOCOL", **subject.metadata())

    def _refused(self, subject: Subject, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        if status in (400, 401):
            message = f"{subject}: the token service answers {status}"
            return Unauthenticated(
                message, reason="REGISTRY_UNAUTHENTICATED", hint=self.hint(), **subject.metadata(), status=status
            )
        return from_status(subject, status, headers, body)


def _parse_token(subject: Subject, body: bytes) -> tuple[str, float]:
    try:
        if len(body) > _MAX_ANSWER:
            raise ValueError
        answer = msgspec.json.decode(body, type=_TokenAnswer)
    except (msgspec.MsgspecError, ValueError):
        raise _no_token(subject, "the token service answers something that is not a token") from None
    token = answer.token or answer.access_token
    if not _BEARER_TOKEN.fullmatch(token):
        raise _no_token(subject, "the token service answers no usable token")
    life = answer.expires_in if answer.expires_in is not None and answer.expires_in > 0 else _DEFAULT_LIFE
    return f"Bearer {token}", life


def _no_token(subject: Subject, why: str) -> MoorageError:
    return Internal(f"{subject}: {why}", reason="REGISTRY_PROTOCOL", **subject.metadata())
