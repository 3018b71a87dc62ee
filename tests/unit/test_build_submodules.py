"""Submodules: what git tells of them, and where they are."""

from __future__ import annotations

import pytest

from moorage.server.builder.submodules import Link, Submodule, address, described, links

ONE, TWO = "1" * 40, "2" * 40


def test_links_of_a_listing() -> None:
    entries = [f"100644 blob {ONE}\ta", f"160000 commit {ONE}\tdeps/one", f"160000 commit {TWO}\ttwo\n2"]
    listing = "".join(f"{each}\0" for each in entries)
    assert list(links(listing)) == [Link("deps/one", ONE), Link("two\n2", TWO)]
    assert list(links("")) == []


def test_what_the_settings_say() -> None:
    settings = [
        "submodule.one.path\ndeps/one",
        "submodule.one.url\n../one.git",
        "submodule.a.b.path\ntwo",
        "submodule.a.b.update\nnone",
        "submodule.nowhere.url\nhttp://x/y",
        "submodule.shallow",
        "core.bare\ntrue",
    ]
    told = "".join(f"{each}\0" for each in settings)
    assert described(told) == {"deps/one": Submodule("../one.git"), "two": Submodule(update="none")}


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://other/x", "https://other/x"),
        ("../b.git", "http://host/team/b.git"),
        ("./b.git", "http://host/team/a.git/b.git"),
        ("../../b/c.git/", "http://host/b/c.git"),
        ("./../../b", "http://host/b"),
    ],
)
def test_addresses(url: str, found: str) -> None:
    assert address("http://host/team/a.git/", url) == found


@pytest.mark.parametrize(
    "url",
    [
        "",
        "git@host:x",
        "ssh://host/x",
        "git://host/x",
        "file:///x",
        "/x",
        "x",
        "ext::sh",
        "-x",
        "../../../b",
        "../../../../b",
        "http://host/a\nb",
    ],
)
def test_what_is_not_fetched(url: str) -> None:
    with pytest.raises(ValueError, match=r"http and https|leads out|tells no URL|malformed"):
        address("http://host/team/a.git", url)
