"""What `moorage login` keeps and finds: Docker's config.json, and credential helpers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from moorage.client.credentials import DOCKER_HUB, Credentials, Store, registry_named, registry_of
from moorage.client.errors import FailedPrecondition

ME = Credentials("me", "s3:cret")
HELPER = """#!/bin/sh
case "$1" in
get) read -r server; f="$0.$(echo "$server" | tr -c 'a-z0-9.\\n' _)"
     [ -e "$f" ] && cat "$f" || { echo "credentials not found in native keychain"; exit 1; } ;;
store) data="$(cat)"; server="$(echo "$data" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/')"
     echo "$data" > "$0.$(echo "$server" | tr -c 'a-z0-9.\\n' _)" ;;
erase) read -r server; rm "$0.$(echo "$server" | tr -c 'a-z0-9.\\n' _)" ;;
esac
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "docker" / "config.json")


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str = HELPER) -> Path:
    path = tmp_path / "bin" / "docker-credential-test"
    path.parent.mkdir()
    path.write_text(script)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("busybox", "docker.io"),
        ("team/app:1", "docker.io"),
        ("docker.io/team/app", "docker.io"),
        ("index.docker.io/team/app", "docker.io"),
        ("registry.example/app", "registry.example"),
        ("registry.example:5000/app@sha256:00", "registry.example:5000"),
        ("localhost/app", "localhost"),
        ("[::1]:5000/app", "[::1]:5000"),
    ],
)
def test_the_registry_of_a_reference(reference: str, registry: str) -> None:
    assert registry_of(reference) == registry


@pytest.mark.parametrize(
    "text", ["registry.example:5000", "https://registry.example:5000/", "registry.example:5000/v2/"]
)
def test_a_registry_as_people_name_it(text: str) -> None:
    assert registry_named(text) == "registry.example:5000"


def test_there_and_back(store: Store) -> None:
    assert store.get("registry.example") is None
    assert store.put("registry.example", ME) == str(store.path)
    assert store.get("registry.example") == ME
    assert store.get("registry.example:5000") is None
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.path.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in store.path.parent.iterdir()] == ["config.json"]
    assert store.erase("registry.example")
    assert not store.erase("registry.example")
    assert store.get("registry.example") is None


def test_docker_hub_has_one_entry_whatever_it_is_called(store: Store) -> None:
    store.put("docker.io", ME)
    assert list(json.loads(store.path.read_text())["auths"]) == [DOCKER_HUB]
    assert store.get("docker.io") == store.get("index.docker.io") == ME


def test_the_rest_of_the_file_stays(store: Store) -> None:
    store.path.parent.mkdir()
    store.path.write_text(json.dumps({"psFormat": "x", "auths": {"other.example": {"auth": "YTpi"}}}))
    store.put("registry.example", Credentials("me", identity_token="t0ken"))
    kept = json.loads(store.path.read_text())
    assert kept["psFormat"] == "x" and "other.example" in kept["auths"]
    assert store.get("registry.example") == Credentials("me", "", "t0ken")
    store.erase("registry.example")
    assert list(json.loads(store.path.read_text())["auths"]) == ["other.example"]


def test_a_link_stays_a_link(store: Store, tmp_path: Path) -> None:
    store.path.parent.mkdir()
    (tmp_path / "real.json").write_text("{}")
    store.path.symlink_to(tmp_path / "real.json")
    store.put("registry.example", ME)
    assert store.path.is_symlink() and "registry.example" in (tmp_path / "real.json").read_text()


@pytest.mark.parametrize("key", ["credsStore", "credHelpers"])
def test_a_helper_keeps_the_secret(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    helper(tmp_path, monkeypatch)
    store.path.parent.mkdir()
    store.path.write_text(json.dumps({key: "test" if key == "credsStore" else {"registry.example": "test"}}))
    assert store.get("registry.example") is None
    assert store.put("registry.example", ME) == "docker-credential-test"
    assert "s3" not in store.path.read_text()
    assert store.get("registry.example") == ME
    store.put("registry.example", Credentials("me", identity_token="t0ken"))
    assert store.get("registry.example") == Credentials(identity_token="t0ken")
    assert store.erase("registry.example")
    assert store.get("registry.example") is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a Docker client's configuration"),
        ('{"auths": {"registry.example": {"auth": "!"}}}', "is not the base64 of user:password"),
        ('{"credsStore": "../evil"}', "is not a program's name"),
        ('{"credsStore": "nowhere"}', "cannot run docker-credential-nowhere"),
    ],
)
def test_what_is_wrong_is_named(store: Store, content: str, why: str) -> None:
    store.path.parent.mkdir()
    store.path.write_text(content)
    with pytest.raises(FailedPrecondition, match=why):
        store.get("registry.example")
    assert store.path.read_text() == content


def test_a_helper_that_fails(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = helper(tmp_path, monkeypatch, "#!/bin/sh\nexit 3\n")
    store.path.parent.mkdir()
    store.path.write_text('{"credsStore": "test"}')
    with pytest.raises(FailedPrecondition, match="docker-credential-test get fails with exit status 3"):
        store.get("registry.example")
    path.write_text("#!/bin/sh\necho nonsense\n")
    with pytest.raises(FailedPrecondition, match="not credentials in JSON"):
        store.get("registry.example")


def test_secrets_are_not_printed() -> None:
    assert "s3" not in repr(ME)
