"""The files by which a container knows names: `hosts`, `resolv.conf` and `hostname`, bound over those in its /etc.

Read hosts(5) and resolv.conf(5). All that goes into them is checked before: a line break in a name would be a line of its own.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from moorage.server.errors import Internal, InvalidArgument
from moorage.server.model import NetworkAttachment

HOST_HOSTS = Path("/etc/hosts")
HOST_RESOLV = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""Where the host's name servers are written; the second has the real ones where the first names systemd-resolved on loopback."""

LOCALHOST = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""

_LABELS = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_OPTION = re.compile(r"[A-Za-z0-9_-]+(:[0-9]+)?")
_LONGEST_NAME = 253


@dataclass(frozen=True)
class Resolver:
    """What a resolv.conf says."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def text(self) -> str:
        lines = [f"nameserver {server}" for server in self.servers]
        if self.searches:
            lines.append(f"search {' '.join(self.searches)}")
        if self.options:
            lines.append(f"options {' '.join(self.options)}")
        return "".join(f"{line}\n" for line in lines)


def check(hostname: str, attachment: NetworkAttachment) -> None:
    """Raise InvalidArgument for what cannot be written into the files."""
    if hostname:
        _check_name("hostname", hostname)
    for server in attachment.dns_servers:
        _address("DNS server", server)
    for search in attachment.dns_searches:
        if search != ".":
            _check_name("DNS search domain", search)
    for option in attachment.dns_options:
        if not _OPTION.fullmatch(option):
            raise InvalidArgument(f"DNS option {option!r} is not valid")
    for entry in attachment.extra_hosts:
        _extra_host(entry)


def make_files(directory: Path) -> None:
    """Have files where `write_files` is going to write. Raises Internal."""
    with _reporting(directory):
        for name in ("hosts", "resolv.conf", "hostname"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(directory / name, flags, 0o644))


def write_files(
    directory: Path, *, hostname: str, address: str, attachment: NetworkAttachment, host_network: bool
) -> None:
    """Write `hosts`, `resolv.conf` and `hostname` (0644) into `directory`, in the place of what was in them.

    `address` is the container's, with or without prefix length; empty for none. With `host_network` the host's own names hold as
    they are. Otherwise name servers that the container could not reach, on loopback and of IPv6, are left out; when none remains
    the file names none, and the container resolves only what is in its `hosts`. Raises InvalidArgument, Internal.
    """
    check(hostname, attachment)
    resolver = resolver_of(attachment, host_network)
    with _reporting(directory):
        _write(directory / "hosts", hosts_text(hostname, address, attachment.extra_hosts, host_network))
        _write(directory / "resolv.conf", resolver.text())
        _write(directory / "hostname", f"{hostname}\n")


def write_pod_files(
    directory: Path, *, hostname: str, address: str, attachment: NetworkAttachment, host_network: bool, given: bool
) -> None:
    """The same for a pod, whose resolv.conf is exactly what `attachment` says if that was `given`, or else the host's, as it is."""
    check(hostname, attachment)
    resolver = Resolver(attachment.dns_servers, attachment.dns_searches, attachment.dns_options)
    with _reporting(directory):
        _write(directory / "hosts", hosts_text(hostname, address, attachment.extra_hosts, host_network))
        _write(directory / "resolv.conf", resolver.text() if given else _read(HOST_RESOLV[0]))
        _write(directory / "hostname", f"{hostname}\n")


@contextmanager
def _reporting(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot write name files into {directory}: {error.strerror}"
        raise Internal(message, stage="names", path=directory, errno=error.errno) from error


def hosts_text(hostname: str, address: str, extra_hosts: tuple[str, ...], host_network: bool) -> str:
    """The text of `hosts`."""
    text = _read(HOST_HOSTS) if host_network else ""
    text = text or LOCALHOST
    if not text.endswith("\n"):
        text += "\n"
    for entry in extra_hosts:
        name, other = _extra_host(entry)
        text += f"{other}\t{name}\n"
    if address and hostname:
        short, dot, _ = hostname.partition(".")
        text += f"{address.partition('/')[0]}\t{hostname}{f' {short}' if dot else ''}\n"
    return text


def resolver_of(attachment: NetworkAttachment, host_network: bool) -> Resolver:
    """What the container asks for, and the host's for what it leaves open."""
    host = host_resolver(host_network)
    searches = attachment.dns_searches or host.searches
    return Resolver(
        servers=attachment.dns_servers or host.servers,
        searches=() if searches == (".",) else searches,
        options=attachment.dns_options or host.options,
    )


def host_resolver(host_network: bool) -> Resolver:
    """The host's resolver, of which a container can use all with the host's network and less without."""
    found = Resolver()
    for path in HOST_RESOLV:
        read = parse_resolv(_read(path))
        servers = read.servers if host_network else tuple(filter(_reachable, read.servers))
        if path == HOST_RESOLV[0]:
            found = Resolver(servers, read.searches, read.options)
        if servers:
            return Resolver(servers, found.searches, found.options)
    return found


def parse_resolv(text: str) -> Resolver:
    """Read a resolv.conf. Of several `search` or `domain` lines the last counts; what a container could not be given is left out."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values:
            servers += values[:1]
        elif keyword in ("search", "domain"):
            searches = [value for value in values if _LABELS.fullmatch(value) or value == "."]
        elif keyword == "options":
            options += [value for value in values if _OPTION.fullmatch(value)]
    return Resolver(tuple(servers), tuple(searches), tuple(options))


def _reachable(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server)
    except ValueError:
        return False
    return address.version == 4 and not address.is_loopback and not address.is_unspecified


def _extra_host(entry: str) -> tuple[str, str]:
    name, colon, address = entry.partition(":")
    if not colon:
        raise InvalidArgument(f"extra host {entry!r} is not valid: it is written name:address")
    _check_name("extra host", name)
    return name, str(_address("address of extra host", address))


def _address(what: str, text: str) -> IPv4Address | IPv6Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument(f"{what} {text!r} is not valid: {error}") from error
    # An IPv6 zone is free text, line breaks included.
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise InvalidArgument(f"{what} {text!r} is not valid: zones are not known in a container")
    return address


def _check_name(what: str, name: str) -> None:
    if len(name) > _LONGEST_NAME or not _LABELS.fullmatch(name):
        raise InvalidArgument(f"{what} {name!r} is not valid: letters, digits, hyphens and dots make a name")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise Internal(f"cannot read {path}: {error.strerror}", stage="names", path=path, errno=error.errno) from error


def _write(path: Path, text: str) -> None:
    # In place: the container may have it mounted already. To truncate an empty file would have ext4 write the next one's data to the
    # disk when it is closed.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "w") as file:
        os.fchmod(fd, 0o644)
        if os.fstat(fd).st_size:
            os.ftruncate(fd, 0)
        file.write(text)
