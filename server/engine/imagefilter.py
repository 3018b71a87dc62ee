"""Which images a list or a prune is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from moorage.server.model import Image
from moorage.server.registry import reference as references

_SPECIAL = {"*": "[^/]*", "?": "[^/]"}


class Conditions(Protocol):
    """What an image must meet, each as far as it is given.

    `dangling`: whether it has no tag. `labels`: keys, with their value unless that is empty. `patterns`: one of them must fit a name of
    it, as people write it or in full, with or without its tag; `*` and `?` stop at a slash.
    """

    @property
    def dangling(self) -> bool | None: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def patterns(self) -> tuple[str, ...]: ...


def matches(image: Image, conditions: Conditions, before: Image | None = None, since: Image | None = None) -> bool:
    """Whether an image meets them all, and was made before and since the images given."""
    if conditions.dangling is not None and conditions.dangling == bool(image.tags):
        return False
    if before is not None and image.created_ns >= before.created_ns:
        return False
    if since is not None and image.created_ns <= since.created_ns:
        return False
    if not has_labels(image, conditions.labels):
        return False
    return any(fits(name, conditions.patterns) for name in (*image.tags, *image.digests)) or not conditions.patterns


def fits(name: str, patterns: Sequence[str]) -> bool:
    """Whether a tag or digest of an image fits one of these patterns, if there are any."""
    return not patterns or any(
        _expression(pattern).fullmatch(each) for pattern in patterns for each in _spellings(name)
    )


def narrowed(image: Image, meant: Callable[[str], bool]) -> Image:
    """An image with the names that are meant, and the digests that those tags were pulled as."""
    tags = tuple(tag for tag in image.tags if meant(tag))
    repositories = {references.parse(tag).repository for tag in tags}
    digests = (name for name in image.digests if meant(name) or name.partition("@")[0] in repositories)
    return replace(image, tags=tags, digests=tuple(digests))


def has_labels(image: Image, labels: Mapping[str, str]) -> bool:
    """Whether an image has all these labels."""
    own = image.config.labels
    return all(key in own and value in ("", own[key]) for key, value in labels.items())


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(_SPECIAL.get(each) or re.escape(each) for each in pattern))


def _spellings(name: str) -> tuple[str, ...]:
    reference = references.parse(name)
    familiar = reference.familiar()
    bare = familiar.partition("@")[0]
    if reference.tag:
        bare = bare.removesuffix(f":{reference.tag}")
    return name, reference.repository, familiar, bare
