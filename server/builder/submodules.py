"""Submodules of a git repository (gitsubmodules(7)): which a commit has, and where they are fetched from. Nothing of git's is run here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

MODULES = ".gitmodules"
_GITLINK = re.compile(r"160000 commit ([0-9a-f]{40})\t(.+)", re.DOTALL)
_RELATIVE = re.compile(r"\.\.?/")


@dataclass(frozen=True)
class Link:
    """A commit of another repository that a tree has at `path`."""

    path: str
    commit: str


@dataclass(frozen=True)
class Submodule:
    """What .gitmodules says of the submodule at a path."""

    url: str = ""
    update: str = ""


def links(listing: str) -> Iterator[Link]:
    """Those in what `git ls-tree -r -z` prints."""
    for entry in listing.split("\0"):
        match = _GITLINK.fullmatch(entry)
        if match is not None:
            yield Link(match[2], match[1])


def described(settings: str) -> dict[str, Submodule]:
    """Submodules by path, of what `git config -z --list` prints of .gitmodules."""
    found: dict[str, dict[str, str]] = {}
    for entry in settings.split("\0"):
        key, _, value = entry.partition("\n")
        section, _, rest = key.partition(".")
        name, _, variable = rest.rpartition(".")
        if section == "submodule" and name:
            found.setdefault(name, {})[variable] = value
    return {
        each["path"]: Submodule(each.get("url", ""), each.get("update", ""))
        for each in found.values()
        if "path" in each
    }


def address(base: str, url: str) -> str:
    """Where a submodule is: `url` as written, or where it begins with `./` or `../` beside the repository at `base`.

    Raises ValueError for what is neither http nor https, and for a path that leads out of the server.
    """
    if not url:
        raise ValueError(f"{MODULES} tells no URL of it")
    if not url.isprintable():
        raise ValueError("its URL is malformed")
    if not _RELATIVE.match(url):
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("only http and https are fetched")
        return url
    base = base.rstrip("/")
    while _RELATIVE.match(url):
        step, _, url = url.partition("/")
        if step == "..":
            base = base.rpartition("/")[0]
    if not urlsplit(base).netloc:
        raise ValueError("it leads out of the server that the repository is on")
    return f"{base}/{url.rstrip('/')}"
