"""Short names: what a name without a registry means, by configuration alone."""

from __future__ import annotations

import pytest

from moorage.server.engine.registrycommands import Given, for_registry
from moorage.server.errors import InvalidArgument
from moorage.server.registry.config import from_toml
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.reference import ShortNames

DIGEST = "sha256:" + "a" * 64
MINE = ShortNames("registry.example", {"busybox": "mirror.example/hub/busybox", "team/app": "docker.io/other/app"})


@pytest.mark.parametrize(
    ("names", "text", "meaning"),
    [
        (ShortNames(), "busybox", "docker.io/library/busybox"),
        (ShortNames(), "team/app:1", "docker.io/team/app:1"),
        (MINE, "nginx:1", "registry.example/nginx:1"),
        (MINE, "team/other", "registry.example/team/other"),
        (MINE, "busybox", "mirror.example/hub/busybox"),
        (MINE, "busybox:1.36", "mirror.example/hub/busybox:1.36"),
        (MINE, f"busybox@{DIGEST}", f"mirror.example/hub/busybox@{DIGEST}"),
        (MINE, f"busybox:1@{DIGEST}", f"mirror.example/hub/busybox:1@{DIGEST}"),
        (MINE, "team/app:2", "docker.io/other/app:2"),
        (MINE, "docker.io/library/busybox", "docker.io/library/busybox"),
        (MINE, "other.example/busybox", "other.example/busybox"),
        (MINE, "localhost/busybox", "localhost/busybox"),
        (MINE, "busyboxes", "registry.example/busyboxes"),
    ],
)
def test_what_a_name_means(names: ShortNames, text: str, meaning: str) -> None:
    assert str(names.parse(text)) == meaning


def test_they_can_be_refused() -> None:
    strict = ShortNames("", {"busybox": "mirror.example/busybox"})
    assert str(strict.parse("busybox")) == "mirror.example/busybox"
    with pytest.raises(InvalidArgument, match="'nginx' names no registry") as refusal:
        strict.parse("nginx")
    assert "short_names" in refusal.value.hint


@pytest.mark.parametrize("text", ["", "UPPER", "a" * 64, "app:"])
def test_what_is_no_reference_stays_none(text: str) -> None:
    for names in (ShortNames(), MINE, ShortNames("")):
        with pytest.raises(InvalidArgument):
            names.parse(text)


def test_in_the_configuration() -> None:
    config = from_toml({"short_names": "registry.example:5000", "aliases": {"busybox": "team/busybox"}})
    assert config.names() == ShortNames("registry.example:5000", {"busybox": "docker.io/team/busybox"})
    assert from_toml({}).names() == ShortNames()
    for table, key in (
        ({"short_names": "not a host"}, "registry.short_names"),
        ({"aliases": []}, "registry.aliases"),
        ({"aliases": {"busybox": "a:1"}}, "registry.aliases.busybox"),
        ({"aliases": {"UPPER": "a"}}, "registry.aliases.UPPER"),
        ({"aliases": {"busybox": 1}}, "registry.aliases.busybox"),
    ):
        with pytest.raises(InvalidArgument, match=key):
            from_toml(table)


@pytest.mark.parametrize(
    ("text", "server", "shown"),
    [
        ("base", "https://index.docker.io/v1/", True),
        ("docker.io/x/y", "registry-1.docker.io", True),
        ("registry.example:5000/x", "registry.example:5000", True),
        ("registry.example/x", "http://registry.example/v2/", True),
        ("registry.example/x", "", True),
        ("registry.example/x", "registry.example.evil", False),
        ("base", "registry.example", False),
    ],
)
def test_credentials_are_for_one_registry(text: str, server: str, shown: bool) -> None:
    auth = RegistryAuth("me", "s3cret")
    assert for_registry(Given(auth, server), ShortNames().parse(text).domain) == (auth if shown else None)


def test_an_alias_does_not_take_credentials_elsewhere() -> None:
    """Docker Hub's are not for where an alias leads, nor the default registry's for Docker Hub."""
    given = Given(RegistryAuth("me", "s3cret"), "docker.io")
    assert for_registry(given, MINE.parse("busybox").domain) is None
    assert for_registry(given, MINE.parse("nginx").domain) is None
    assert for_registry(given, MINE.parse("team/app").domain) == given.auth
