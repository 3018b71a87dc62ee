"""Which proxy a registry is reached through: by the daemon's configuration, else by its environment.

As Go's and curl's rules are: `https_proxy` for https, `http_proxy` for http; `no_proxy` names hosts, domains (with all below them),
addresses, CIDR blocks, each with a port or without, or `*`. This machine itself is never reached through a proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3

from moorage.server.errors import InvalidArgument
from moorage.server.registry.config import RegistryConfig, is_loopback


@dataclass(frozen=True)
class Proxies:
    """`http` and `https` are URLs of proxies, empty for none; `exempt` are the entries of `no_proxy`."""

    http: str = ""
    https: str = ""
    exempt: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: RegistryConfig, environment: Mapping[str, str]) -> Proxies:
        """From the configuration, where it says something, else from the environment. Raises InvalidArgument for a URL that is none."""

        def setting(name: str) -> str:
            given: str = getattr(config, name)
            return given or environment.get(name) or environment.get(name.upper()) or ""

        exempt = tuple(entry.strip().lower() for entry in setting("no_proxy").split(",") if entry.strip())
        return cls(
            _checked("http_proxy", setting("http_proxy")), _checked("https_proxy", setting("https_proxy")), exempt
        )

    def find(self, url: str) -> str:
        """The proxy for a URL; empty to go there directly."""
        parts = urlsplit(url)
        proxy = self.https if parts.scheme == "https" else self.http
        if not proxy or is_loopback(parts.netloc) or self._exempts(parts):
            return ""
        return proxy

    def _exempts(self, parts: SplitResult) -> bool:
        host = (parts.hostname or "").lower().rstrip(".")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return any(_matches(entry, host, port) for entry in self.exempt)


def headers(proxy: str) -> dict[str, str]:
    """What a proxy whose URL has a user in it is to be shown."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return dict(urllib3.make_headers(proxy_basic_auth=pair))


def without_user(proxy: str) -> str:
    """The URL of a proxy as it may be seen."""
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _in_block(entry, host)
    name, _, wanted = entry.rpartition(":") if entry.count(":") == 1 or entry.startswith("[") else (entry, "", "")
    if entry.startswith("[") and entry.endswith("]"):
        name, wanted = entry, ""
    if wanted and wanted != str(port):
        return False
    name = name.strip("[]").removeprefix("*")
    return host == name.lstrip(".") or host.endswith(f".{name.lstrip('.')}")


def _in_block(entry: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _checked(name: str, url: str) -> str:
    if not url:
        return ""
    # Environments often name a proxy without its scheme.
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise InvalidArgument(
            f"{name} is not the URL of a proxy, of the form http://host:port", reason="INVALID_CONFIG", key=name
        )
    return whole.rstrip("/")
