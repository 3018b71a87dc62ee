"""Which images a filter means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moorage.server.engine import imagefilter
from moorage.server.engine.imagecommands import ListImages
from moorage.server.model import Image, ImageConfig, Platform

HUB, TEAM = "docker.io/library/busybox:1.36", "r.example:5000/team/app:v1"


def image(*tags: str, created: int = 5, **labels: str) -> Image:
    digests = ("docker.io/library/busybox@sha256:" + "a" * 64,) if not tags else ()
    return Image("sha256:" + "1" * 64, created, Platform(), ImageConfig(labels=labels), (), tags, digests)


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("busybox", True),
        ("busy*", True),
        ("*:1.36", True),
        ("busybox:1.3?", True),
        ("docker.io/library/*", True),
        ("docker.io/*", False),
        ("*", True),
        ("alpine", False),
        ("busybox:1", False),
        ("b.sybox", False),
    ],
)
def test_patterns(pattern: str, fits: bool) -> None:
    assert imagefilter.matches(image(HUB), ListImages(patterns=(pattern,))) == fits


def test_one_of_several_patterns_is_enough_and_a_port_is_no_tag() -> None:
    assert imagefilter.matches(image(TEAM), ListImages(patterns=("nosuch", "r.example:5000/team/*")))
    assert imagefilter.matches(image(TEAM), ListImages(patterns=("r.example:5000/team/app",)))
    assert not imagefilter.matches(image(TEAM), ListImages(patterns=("r.example*",)))


def test_names_that_were_not_meant_are_left_out() -> None:
    digests = tuple(f"{name}@sha256:{'a' * 64}" for name in ("docker.io/library/busybox", "r.example:5000/team/app"))
    named = replace(image(HUB, TEAM, "docker.io/library/busybox:2"), digests=digests)
    for pattern, tags, kept in (
        ("busybox:*", (HUB, "docker.io/library/busybox:2"), digests[:1]),
        ("*:1.36", (HUB,), digests[:1]),
        ("r.example:5000/team/app", (TEAM,), digests[1:]),
    ):
        found = imagefilter.narrowed(named, lambda name, pattern=pattern: imagefilter.fits(name, (pattern,)))  # type: ignore[misc]
        assert (found.tags, found.digests) == (tags, kept)


def test_dangling_is_without_tag() -> None:
    assert imagefilter.matches(image(), ListImages(dangling=True))
    assert not imagefilter.matches(image(HUB), ListImages(dangling=True))
    assert imagefilter.matches(image(HUB), ListImages(dangling=False))
    assert not imagefilter.matches(image(), ListImages(dangling=False))


def test_labels_must_all_be_there() -> None:
    labelled = image(HUB, a="1", b="2")
    assert imagefilter.matches(labelled, ListImages(labels={"a": "1", "b": ""}))
    assert not imagefilter.matches(labelled, ListImages(labels={"a": "2"}))
    assert not imagefilter.matches(labelled, ListImages(labels={"a": "1", "c": ""}))


def test_before_and_since_leave_the_image_itself_out() -> None:
    every, at = ListImages(), image(HUB, created=5)
    assert [
        created for created in range(3, 8) if imagefilter.matches(image(HUB, created=created), every, before=at)
    ] == [3, 4]
    assert [
        created for created in range(3, 8) if imagefilter.matches(image(HUB, created=created), every, since=at)
    ] == [6, 7]
