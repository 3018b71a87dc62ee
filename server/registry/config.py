"""What the daemon is told about registries: mirrors, how to speak to each host, and the bounds of a pull.

In the daemon's TOML file:

    [registry]
    docker_config = "/root/.docker/config.json"
    layers_at_once = 4

    [[registry.mirrors]]
    host = "registry.example"                      # the domain in an image's reference
    endpoints = ["http://127.0.0.1:5000"]          # tried in order, then registry.example itself

    [[registry.hosts]]
    host = "registry.example:5000"
    ca_file = "/etc/moorage/registry-ca.pem"
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar
from urllib.parse import urlsplit

from moorage.server.errors import InvalidArgument
from moorage.server.registry.reference import ShortNames, parse, parse_domain

T = TypeVar("T")


@dataclass(frozen=True)
class Mirror:
    """Endpoints (`http://host:port`, `https://host`) that serve the repositories of `host` under the same paths."""

    host: str
    endpoints: tuple[str, ...]


@dataclass(frozen=True)
class HostConfig:
    """How to speak to one host (`name` or `name:port`). `plain_http` allows HTTP, off loopback too; files are PEM."""

    host: str
    plain_http: bool = False
    skip_verify: bool = False
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""


@dataclass(frozen=True)
class SignatureRule:
    """What images in `scope` (a registry, a part of one, or a repository; empty for all) need to be pulled; the longest scope counts.

    `policy` is accept, reject or require; `keys` are the PEM files of the public keys of which one must have signed.
    """

    scope: str
    policy: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class RegistryConfig:
    """Everything of the `[registry]` table. Times in seconds, sizes in bytes."""

    mirrors: tuple[Mirror, ...] = ()
    hosts: tuple[HostConfig, ...] = ()
    signatures: tuple[SignatureRule, ...] = ()
    docker_config: str = ""
    """A Docker client's file with credentials; empty for `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`."""
    layers_at_once: int = 4
    retries: int = 5
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    short_names: str = "docker.io"
    """The registry of names that name none; empty to refuse them."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Short names that mean another image's repository: `busybox = "registry.example/mirror/busybox"`."""
    http_proxy: str = ""
    """Proxies as in the environment, which decides where these are empty: see `proxies.py`."""
    https_proxy: str = ""
    no_proxy: str = ""
    upload_chunk: int = 0
    """Most bytes of a blob in one request of a push; 0 sends each blob whole."""
    download_limit: int = 0
    """Bytes a second that all pulls together may take; 0 for no limit."""
    upload_limit: int = 0
    """Bytes a second that all pushes together may take; 0 for no limit."""
    keep_blobs: bool = False
    """Keep the compressed layers after they are unpacked."""
    max_layer_size: int = 64 << 30
    """Largest unpacked layer."""
    max_ratio: int = 400
    """Largest unpacked size as a multiple of the compressed one, once a layer is over 64 MiB."""

    def mirrors_of(self, host: str) -> tuple[str, ...]:
        return tuple(endpoint for mirror in self.mirrors if mirror.host == host for endpoint in mirror.endpoints)

    def names(self) -> ShortNames:
        """The rules for short names."""
        return ShortNames(self.short_names, self.aliases)

    def host(self, host: str) -> HostConfig:
        return next((entry for entry in self.hosts if entry.host == host), HostConfig(host))


_MAY_BE_ZERO = ("retries", "upload_chunk", "upload_limit", "download_limit")


def is_loopback(host: str) -> bool:
    """Whether `host` (`name`, `name:port`, `[v6]:port`) is this machine by its name: localhost, 127.0.0.0/8 or ::1."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def from_toml(table: Mapping[str, object]) -> RegistryConfig:
    """Read the `[registry]` table. Raises InvalidArgument that names the key and what is wrong with it."""
    values: dict[str, object] = dict(table)
    mirrors = tuple(_mirror(entry, i) for i, entry in enumerate(_tables(values.pop("mirrors", []), "registry.mirrors")))
    hosts = tuple(_host(entry, i) for i, entry in enumerate(_tables(values.pop("hosts", []), "registry.hosts")))
    aliases = _aliases(values.pop("aliases", {}))
    rules = _tables(values.pop("signatures", []), "registry.signatures")
    signatures = tuple(_signature_rule(entry, i) for i, entry in enumerate(rules))
    known = {
        f.name: f.default for f in fields(RegistryConfig) if f.name not in ("mirrors", "hosts", "aliases", "signatures")
    }
    for key, value in values.items():
        if key not in known:
            raise _bad(
                f"registry.{key}", f"unknown setting; known are aliases, hosts, mirrors, signatures, {', '.join(known)}"
            )
        _check_scalar(f"registry.{key}", value, known[key])
    config = RegistryConfig(mirrors=mirrors, hosts=hosts, aliases=aliases, signatures=signatures, **values)  # type: ignore[arg-type]
    _check_unique(config)
    if config.short_names:
        _checked("registry.short_names", parse_domain, config.short_names)
    _check_plain_http(config)
    return config


def _signature_rule(entry: Mapping[str, object], index: int) -> SignatureRule:
    where = f"registry.signatures[{index}]"
    _check_keys(where, entry, {"scope", "policy", "keys"})
    scope, policy, keys = entry.get("scope", ""), entry.get("policy"), entry.get("keys", [])
    if policy not in ("accept", "reject", "require"):
        raise _bad(f"{where}.policy", f"must be accept, reject or require, not {policy!r}")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _bad(f"{where}.keys", "must be a list of paths")
    if (policy == "require") != bool(keys):
        raise _bad(f"{where}.keys", "are what a policy of require needs, and no other")
    if not isinstance(scope, str):
        raise _bad(f"{where}.scope", f"must be a registry or repository, not {scope!r}")
    if scope and "/" in scope:
        named = _checked(f"{where}.scope", parse, scope)
        if named.tag or named.digest:
            raise _bad(f"{where}.scope", "is a registry or repository: leave tags and digests out")
        scope = scope if scope.startswith(f"{named.domain}/") else named.repository
    elif scope and not (set(scope) & set(".:") or scope == "localhost"):
        raise _bad(
            f"{where}.scope",
            f"{scope!r} is no registry; for one of Docker Hub's images write docker.io/library/{scope}",
        )
    elif scope:
        scope = _checked(f"{where}.scope", parse_domain, scope)
    return SignatureRule(scope, str(policy), tuple(keys))


def _aliases(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise _bad("registry.aliases", "must be written as a [registry.aliases] table")
    found = {}
    for name, target in value.items():
        where = f"registry.aliases.{name}"
        if not isinstance(target, str):
            raise _bad(where, f"must be a repository, not {target!r}")
        short, reference = _checked(where, parse, name), _checked(where, parse, target)
        if short.tag or short.digest or reference.tag or reference.digest:
            raise _bad(where, "is a name for a repository: leave tags and digests out")
        found[name] = reference.repository
    return found


def _checked(where: str, check: Callable[[str], T], text: str) -> T:
    try:
        return check(text)
    except InvalidArgument as error:
        raise _bad(where, error.message) from error


def _tables(value: object, where: str) -> list[Mapping[str, object]]:
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise _bad(where, f"must be written as [[{where}]] tables")
    return value


def _mirror(entry: Mapping[str, object], index: int) -> Mirror:
    where = f"registry.mirrors[{index}]"
    _check_keys(where, entry, {"host", "endpoints"})
    endpoints = entry.get("endpoints")
    if not isinstance(endpoints, list) or not endpoints:
        raise _bad(f"{where}.endpoints", "must be a list of at least one URL")
    return Mirror(
        _host_name(where, entry), tuple(_endpoint(f"{where}.endpoints[{i}]", url) for i, url in enumerate(endpoints))
    )


def _host(entry: Mapping[str, object], index: int) -> HostConfig:
    where = f"registry.hosts[{index}]"
    known = {f.name: f.default for f in fields(HostConfig) if f.name != "host"}
    _check_keys(where, entry, {"host", *known})
    values = {key: value for key, value in entry.items() if key != "host"}
    for key, value in values.items():
        _check_scalar(f"{where}.{key}", value, known[key])
    host = HostConfig(_host_name(where, entry), **values)  # type: ignore[arg-type]
    if host.client_key and not host.client_cert:
        raise _bad(f"{where}.client_key", "is of no use without client_cert")
    return host


def _host_name(where: str, entry: Mapping[str, object]) -> str:
    host = entry.get("host")
    if not isinstance(host, str) or not host:
        raise _bad(f"{where}.host", "must be a host name, with a port where it has one")
    if "/" in host or "@" in host or any(c.isspace() for c in host):
        raise _bad(f"{where}.host", f"{host!r} is not a host name: leave scheme, path and user out")
    return host


def _endpoint(where: str, url: object) -> str:
    if not isinstance(url, str):
        raise _bad(where, f"must be a URL, not {url!r}")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise _bad(where, f"{url!r} is not a URL of the form http://host:port or https://host:port")
    if "@" in parts.netloc:
        raise _bad(where, "credentials do not belong in a URL: put them into the Docker config file")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise _bad(where, f"{url!r} has a path: a mirror serves the same repository paths as the host it mirrors")
    return f"{parts.scheme}://{parts.netloc}"


def _check_keys(where: str, entry: Mapping[str, object], known: set[str]) -> None:
    for key in entry:
        if key not in known:
            raise _bad(f"{where}.{key}", f"unknown setting; known are {', '.join(sorted(known))}")


def _check_scalar(where: str, value: object, default: object) -> None:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise _bad(where, f"must be true or false, not {value!r}")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise _bad(where, f"must be a string, not {value!r}")
    elif isinstance(default, int):
        least = 0 if where.rpartition(".")[2] in _MAY_BE_ZERO else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _bad(where, f"must be a whole number {'above 0' if least else 'of 0 or more'}, not {value!r}")
    elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise _bad(where, f"must be a number of seconds above 0, not {value!r}")


def _check_unique(config: RegistryConfig) -> None:
    seen: set[str] = set()
    for entry in config.hosts:
        if entry.host in seen:
            raise _bad("registry.hosts", f"{entry.host} has two tables")
        seen.add(entry.host)


def _check_plain_http(config: RegistryConfig) -> None:
    for mirror in config.mirrors:
        for url in mirror.endpoints:
            netloc = urlsplit(url).netloc
            if url.startswith("http:") and not is_loopback(netloc) and not config.host(netloc).plain_http:
                why = f"{url} of the mirror of {mirror.host} is plain HTTP and not on loopback"
                raise _bad(
                    "registry.mirrors", f"{why}: to allow it, set plain_http = true for {netloc} in [[registry.hosts]]"
                )


def _bad(where: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"invalid configuration: {where}: {why}", reason="INVALID_CONFIG", key=where)
