"""Image references: `alpine`, `registry.example:5000/team/app:1.2`, `[::1]:5000/app@sha256:…`.

The grammar is the one of the distribution project:

    reference  = name [":" tag] ["@" digest]
    name       = [domain "/"] component ("/" component)*          at most 255 characters
    domain     = host [":" port]                                  host: DNS name, IPv4 or "[" IPv6 "]"
    component  = [a-z0-9]+ (("." | "_" | "__" | "-"+) [a-z0-9]+)*
    tag        = [A-Za-z0-9_] [A-Za-z0-9_.-]{0,127}
    digest     = "sha256:" 64 hex digits | "sha512:" 128 hex digits

The first component is a domain when it holds a `.`, a `:` or a capital, or is `localhost`; else the domain is
`docker.io`, whose one-component names live under `library/`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from moorage.server.errors import InvalidArgument

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
MAX_NAME = 255
MAX_TAG = 128

_DIGEST_LENGTHS = {"sha256": 64, "sha512": 128}
_HUB = frozenset({DEFAULT_DOMAIN, "index.docker.io", "registry-1.docker.io", "hub.docker.com"})
_OFFICIAL = "library/"
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_ID = re.compile(r"[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]*")


@dataclass(frozen=True)
class Reference:
    """A parsed reference; `tag` and `digest` are empty when not given. Made by `parse`, so that it is always valid."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """Domain and path: `docker.io/library/alpine`."""
        return f"{self.domain}/{self.path}"

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest where there is one, else the tag, else `latest`."""
        return self.digest or self.tag or DEFAULT_TAG

    def familiar(self) -> str:
        """As people write it: `alpine:latest`, `team/app`, `registry.example/app@sha256:…`."""
        return self._familiar_name() + self._suffix()

    def with_default_tag(self) -> Reference:
        """The same with `latest`, when it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def __str__(self) -> str:
        return self.repository + self._suffix()

    def _familiar_name(self) -> str:
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        official = self.path.removeprefix(_OFFICIAL)
        if "/" not in official:
            return official if not _ID.fullmatch(official) else self.path
        return self.path if not _is_domain(self.path.partition("/")[0]) else self.repository

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True)
class ShortNames:
    """What a name without a domain means: an alias, else a repository of the one registry `default` (empty to refuse such names).

    There is no list of registries to search: a name means one thing, whatever registries have.
    """

    default: str = DEFAULT_DOMAIN
    aliases: Mapping[str, str] = field(default_factory=dict)

    def parse(self, text: str) -> Reference:
        """As the module's `parse`, with these rules for short names."""
        first, slash, _ = text.partition("/")
        if slash and _is_domain(first):
            return parse(text)
        domain, rest = self.split(text)
        return parse(rest if domain == DEFAULT_DOMAIN else f"{domain}/{rest}")

    def split(self, text: str) -> tuple[str, str]:
        """The domain that a text means, and what follows it."""
        first, slash, rest = text.partition("/")
        if slash and _is_domain(first):
            return canonical_domain(first), rest
        if _ID.fullmatch(text):
            return DEFAULT_DOMAIN, text
        name = text.partition("@")[0].partition(":")[0]
        if name in self.aliases:
            domain, _, path = self.aliases[name].partition("/")
            return domain, path + text[len(name) :]
        if not self.default and text:
            hint = "write it with its registry, or set short_names or aliases of [registry]"
            raise InvalidArgument(f"{_shown(text)} names no registry", reason="SHORT_NAME", hint=hint)
        return self.default or DEFAULT_DOMAIN, text


def canonical_domain(text: str) -> str:
    """A registry as references name it; takes what people and Docker's configuration call it too (`https://index.docker.io/v1/`)."""
    host = text.split("://", 1)[-1].partition("/")[0]
    return DEFAULT_DOMAIN if host in _HUB else host


def parse_domain(text: str) -> str:
    """A registry's canonical name. Raises InvalidArgument."""
    domain = canonical_domain(text)
    _check_domain(text, domain)
    return domain


def parse(text: str) -> Reference:
    """Parse and normalise a reference. Raises InvalidArgument with the cause and the place (character, from 1)."""
    if not text:
        raise InvalidArgument("invalid reference: it is empty", reason="INVALID_REFERENCE")
    rest, at, digest = text.partition("@")
    if at:
        _check_digest(text, digest, len(rest) + 1)
    name, tag = _split_tag(text, rest)
    domain, path, path_at = _split_domain(text, name)
    _check_path(text, path, path_at)
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    if len(domain) + 1 + len(path) > MAX_NAME:
        raise _invalid(text, f"the name is longer than {MAX_NAME} characters", 0)
    return Reference(domain, path, tag, digest)


def is_digest(text: str) -> bool:
    """Whether `text` is a well-formed digest, safe to make a path or a URL of."""
    algorithm, _, value = text.partition(":")
    return len(value) == _DIGEST_LENGTHS.get(algorithm) and _HEX.fullmatch(value) is not None


def parse_digest(text: str) -> str:
    """Answer `text` when it is a digest; else raise InvalidArgument."""
    _check_digest(text, text, 0)
    return text


def _split_tag(text: str, rest: str) -> tuple[str, str]:
    colon = rest.rfind(":")
    if colon <= rest.rfind("/") or rest.endswith("]"):
        return rest, ""
    _check_tag(text, rest[colon + 1 :], colon + 1)
    return rest[:colon], rest[colon + 1 :]


def _split_domain(text: str, name: str) -> tuple[str, str, int]:
    """Answer domain, path, and where in the text the path begins."""
    first, slash, rest = name.partition("/")
    if not slash or not _is_domain(first):
        if _ID.fullmatch(text):
            raise _invalid(text, "64 hex digits are an image ID, not a name", 0)
        return DEFAULT_DOMAIN, name, 0
    _check_domain(text, first)
    domain = DEFAULT_DOMAIN if first == f"index.{DEFAULT_DOMAIN}" else first
    return domain, rest, len(first) + 1


def _is_domain(component: str) -> bool:
    return component == "localhost" or any(c in ".:[" or c.isupper() for c in component)


def _check_domain(text: str, domain: str) -> None:
    host, port = domain, ""
    if domain.startswith("["):
        host, bracket, port = domain.partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise _invalid(text, f"{_shown(domain)} is not an IPv6 address in brackets", 0)
        _check_ipv6(text, host[1:])
        colon, port, port_at = port[:1], port[1:], len(host) + 2
    else:
        host, colon, port = domain.partition(":")
        port_at = len(host) + 1
        _check_host(text, host)
    if colon and not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise _invalid(text, f"port {_shown(port)} is not a number from 1 to 65535", port_at)


def _check_ipv6(text: str, address: str) -> None:
    try:
        if "%" in address:
            raise ValueError
        ipaddress.IPv6Address(address)
    except ValueError:
        raise _invalid(text, f"{_shown(address)} is not an IPv6 address", 1) from None


def _check_host(text: str, host: str) -> None:
    at = 0
    for label in host.split("."):
        if not _LABEL.fullmatch(label):
            raise _invalid(text, f"{_shown(label)} is not a part of a host name", at)
        at += len(label) + 1


def _check_path(text: str, path: str, at: int) -> None:
    for component in path.split("/"):
        if not component:
            raise _invalid(text, "a component of the name is empty", at)
        match = _COMPONENT.match(component)
        if match is None or match.end() != len(component):
            bad = at + (match.end() if match else 0)
            why = (
                "must be lower case"
                if component != component.lower()
                else "may hold only a-z, 0-9 and single . _ __ or - between"
            )
            raise _invalid(text, f"component {_shown(component)} of the name {why}", bad)
        at += len(component) + 1


def _check_tag(text: str, tag: str, at: int) -> None:
    if not tag:
        raise _invalid(text, "the tag after ':' is empty", at)
    if len(tag) > MAX_TAG:
        raise _invalid(text, f"the tag is longer than {MAX_TAG} characters", at)
    match = _TAG.match(tag)
    if match is None or match.end() != len(tag):
        bad = at + (match.end() if match else 0)
        raise _invalid(
            text, f"tag {_shown(tag)} may hold only letters, digits, _ . and -, and begins with none of . -", bad
        )


def _check_digest(text: str, digest: str, at: int) -> None:
    algorithm, colon, value = digest.partition(":")
    length = _DIGEST_LENGTHS.get(algorithm)
    if not colon or length is None:
        raise _invalid(text, f"digest {_shown(digest)} begins with neither sha256: nor sha512:", at)
    match = _HEX.match(value)
    end = match.end() if match else 0
    if end != len(value):
        raise _invalid(
            text, "the digest holds something else than lower-case hex digits", at + len(algorithm) + 1 + end
        )
    if len(value) != length:
        raise _invalid(text, f"a {algorithm} digest has {length} hex digits, not {len(value)}", at + len(algorithm) + 1)


def _invalid(text: str, why: str, at: int) -> InvalidArgument:
    message = f"invalid reference {_shown(text)}: {why} (character {at + 1})"
    return InvalidArgument(message, reason="INVALID_REFERENCE", position=at + 1)


def _shown(text: str) -> str:
    """Quoted, and short enough for a message."""
    return ascii(text if len(text) <= 80 else text[:77] + "...")
