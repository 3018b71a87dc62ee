"""Credentials and tokens: where they come from, whom they are shown to, and that nobody else sees them."""

from __future__ import annotations

import base64
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import FailedPrecondition, Internal, MoorageError, Unauthenticated
from moorage.server.model import Platform
from moorage.server.registry import credentials
from moorage.server.registry.auth import Challenge, RegistryAuth, TokenCache, parse_challenges
from moorage.server.registry.client import Client
from moorage.server.registry.config import HostConfig, Mirror, RegistryConfig
from moorage.server.registry.reference import parse
from tests.fakeregistry import FakeRegistry, Reply, Request
from tests.images import build_image, tar_layer

SECRET = "s3cret-w0rd"
IMAGE = build_image([tar_layer({"a": b"a"})])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="r"', [Challenge("basic", {"realm": "r"})]),
        (
            'Bearer realm="https://a/t?x=1,2",service=s,scope="repository:a:pull,push"',
            [Challenge("bearer", {"realm": "https://a/t?x=1,2", "service": "s", "scope": "repository:a:pull,push"})],
        ),
        (
            'basic realm="a \\"b\\"" , BEARER Realm = "c"',
            [Challenge("basic", {"realm": 'a "b"'}), Challenge("bearer", {"realm": "c"})],
        ),
        ("Negotiate, Basic realm=x", [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})]),
        ('Bearer realm="unfinished', [Challenge("bearer", {}), Challenge("realm", {})]),
        ("", []),
        ("\u00ff=", []),
    ],
)
def test_challenges(header: str, expected: list[Challenge]) -> None:
    assert parse_challenges([header]) == expected


def test_challenges_of_several_headers() -> None:
    assert [c.scheme for c in parse_challenges(["Basic realm=a", "Bearer realm=b"])] == ["basic", "bearer"]


def test_secrets_are_not_in_a_repr() -> None:
    auth = RegistryAuth("me", SECRET, SECRET, SECRET)
    assert SECRET not in repr(auth)
    assert SECRET not in repr({("host", "scope", auth): auth})


def test_a_token_is_kept_until_shortly_before_it_expires() -> None:
    now = [0.0]
    tokens = TokenCache(lambda: now[0])
    tokens.put("https://h", "scope", None, "Bearer x", 60)
    now[0] = 49.9
    assert tokens.get("https://h", "scope", None) == "Bearer x"
    assert tokens.get("https://h", "other", None) == ""
    assert tokens.get("https://other", "scope", None) == ""
    assert tokens.get("https://h", "scope", RegistryAuth("me", "x")) == ""
    now[0] = 50.1
    assert tokens.get("https://h", "scope", None) == ""


def test_the_token_cache_is_bounded() -> None:
    tokens = TokenCache(lambda: 0.0)
    for i in range(3000):
        tokens.put("https://h", f"scope{i}", None, "Bearer x", 60)
    assert tokens.get("https://h", "scope0", None) == "Bearer x"
    assert tokens.get("https://h", "scope2999", None) == ""


# Docker's config file


def write_config(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def basic(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("registry.example:5000", "registry.example:5000"),
        ("https://registry.example/v2/", "registry.example"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
    ],
)
def test_auths(tmp_path: Path, key: str, host: str) -> None:
    path = write_config(tmp_path / "config.json", {"auths": {"other": basic("x", "y"), key: basic("me", "a:b")}})
    assert credentials.lookup(path, host) == RegistryAuth("me", "a:b")
    assert credentials.lookup(path, "registry.example.evil:5000") is None


def test_auths_with_tokens_and_nothing(tmp_path: Path) -> None:
    auths = {"a.b": {"identitytoken": "id"}, "c.d": {"registrytoken": "reg"}, "e.f": {}}
    path = write_config(tmp_path / "config.json", {"auths": auths, "HttpHeaders": {"x": "y"}})
    assert credentials.lookup(path, "a.b") == RegistryAuth(identity_token="id")
    assert credentials.lookup(path, "c.d") == RegistryAuth(registry_token="reg")
    assert credentials.lookup(path, "e.f") is None
    assert credentials.lookup(tmp_path / "missing.json", "a.b") is None


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"{", "not a Docker client's configuration"),
        (b'{"auths": {"a.b": {"auth": 1}}}', "not a Docker client's configuration"),
        (b'{"auths": {"a.b": {"auth": "!!"}}}', "not the base64"),
        (b'{"auths": {"a.b": {"auth": "czNjcmV0"}}}', "not the base64"),
        (b" " * ((1 << 20) + 1), "larger than"),
    ],
)
def test_a_broken_config_is_named_and_not_repeated(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(FailedPrecondition, match=cause) as caught:
        credentials.lookup(path, "a.b")
    assert str(path) in caught.value.message
    assert "s3cret" not in caught.value.message


def make_helper(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """`docker-credential-test` on the PATH; it notes its arguments and input in `directory`/asked."""
    program = directory / "docker-credential-test"
    program.write_text(f'#!/bin/sh\necho "$@ $(cat)" >> {directory}/asked\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_a_helper_for_one_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_helper(tmp_path, monkeypatch, """echo '{"ServerURL":"a.b","Username":"me","Secret":"pw"}'""")
    path = write_config(tmp_path / "config.json", {"credHelpers": {"a.b": "test"}, "auths": {"c.d": basic("x", "y")}})
    assert credentials.lookup(path, "a.b") == RegistryAuth("me", "pw")
    assert credentials.lookup(path, "c.d") == RegistryAuth("x", "y")
    assert (tmp_path / "asked").read_text() == "get a.b\n"


def test_a_store_with_an_identity_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_helper(tmp_path, monkeypatch, """echo '{"Username":"<token>","Secret":"refresh"}'""")
    path = write_config(tmp_path / "config.json", {"credsStore": "test"})
    assert credentials.lookup(path, "docker.io") == RegistryAuth(identity_token="refresh")
    assert (tmp_path / "asked").read_text() == "get https://index.docker.io/v1/\n"


def test_a_helper_that_has_nothing_leaves_auths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_helper(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1")
    path = write_config(tmp_path / "config.json", {"credsStore": "test", "auths": {"a.b": basic("x", "y")}})
    assert credentials.lookup(path, "a.b") == RegistryAuth("x", "y")


@pytest.mark.parametrize(
    ("name", "script", "cause"),
    [
        ("test", f"echo {SECRET}; exit 3", "exit status 3"),
        ("test", f"echo {SECRET}", "not credentials in JSON"),
        ("missing-one", "", "cannot run docker-credential-missing-one"),
        ("../test", "", "not a program's name"),
    ],
)
def test_a_broken_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str, cause: str) -> None:
    make_helper(tmp_path, monkeypatch, script)
    path = write_config(tmp_path / "config.json", {"credsStore": name})
    with pytest.raises(FailedPrecondition, match=cause) as caught:
        credentials.lookup(path, "a.b")
    assert SECRET not in caught.value.message


# With a registry that asks


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        server.add("team/app", "latest", IMAGE)
        yield server


class World:
    """A client of the fake registry, with an empty Docker config unless told."""

    def __init__(self, tmp_path: Path, registry: FakeRegistry) -> None:
        self.docker_config = tmp_path / "docker.json"
        self.registry = registry
        self.config = RegistryConfig(
            hosts=(HostConfig(registry.host, plain_http=True),), docker_config=str(self.docker_config), retries=0
        )
        self.client = Client(self.config)

    def resolve(self, auth: RegistryAuth | None = None) -> str:
        reference = parse(f"{self.registry.host}/team/app")
        return self.client.repository(reference, auth, CancelToken()).resolve("latest", Platform()).digest


@pytest.fixture
def world(tmp_path: Path, registry: FakeRegistry) -> Iterator[World]:
    made = World(tmp_path, registry)
    yield made
    made.client.close()


def wants_basic(user: str, password: str) -> Callable[[Request], Reply | None]:
    expected = RegistryAuth(user, password).basic()

    def intercept(request: Request) -> Reply | None:
        if request.headers.get("Authorization") == expected:
            return None
        return Reply(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": 'Basic realm="moorage"'})

    return intercept


def test_basic_from_the_call(world: World) -> None:
    world.registry.intercept = wants_basic("me", SECRET)
    assert world.resolve(RegistryAuth("me", SECRET)) == IMAGE.manifest.digest
    sent = [request.headers.get("Authorization") for request in world.registry.requests]
    assert sent == [None, RegistryAuth("me", SECRET).basic()]


def test_basic_from_the_docker_config(world: World) -> None:
    world.registry.intercept = wants_basic("me", SECRET)
    write_config(world.docker_config, {"auths": {world.registry.host: basic("me", SECRET)}})
    assert world.resolve() == IMAGE.manifest.digest


def test_no_credentials(world: World) -> None:
    world.registry.intercept = wants_basic("me", SECRET)
    with pytest.raises(Unauthenticated) as caught:
        world.resolve()
    assert world.registry.host in caught.value.message
    assert "team/app" in caught.value.message
    assert "moorage login" in caught.value.hint


def test_wrong_credentials_are_not_repeated(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.registry.intercept = wants_basic("me", "right")
    with caplog.at_level(logging.DEBUG), pytest.raises(Unauthenticated) as caught:
        world.resolve(RegistryAuth("me", SECRET))
    assert "refuses the credentials" in caught.value.hint
    assert_silent(caught.value, caplog)
    assert len(world.registry.requests) == 2


def test_a_broken_credential_file_does_not_stop_a_public_pull(world: World) -> None:
    world.docker_config.write_text("{")
    assert world.resolve() == IMAGE.manifest.digest
    world.registry.intercept = wants_basic("me", SECRET)
    with pytest.raises(Unauthenticated) as caught:
        world.resolve()
    assert "not a Docker client's configuration" in caught.value.hint


class TokenService:
    """Answers `/token` on the registry itself, and asks for its tokens everywhere else."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.registry = registry
        self.realm = f"{registry.url}/token"
        self.answer: Callable[[Request], Reply] = lambda request: Reply(200, b'{"token":"T1","expires_in":300}')
        self.accepted = "Bearer T1"

    def __call__(self, request: Request) -> Reply | None:
        if request.path.startswith("/token"):
            return self.answer(request)
        if request.headers.get("Authorization") == self.accepted:
            return None
        challenge = f'Bearer realm="{self.realm}",service="reg",scope="repository:team/app:pull"'
        return Reply(401, b"", {"WWW-Authenticate": challenge})


@pytest.fixture
def tokens(registry: FakeRegistry) -> TokenService:
    service = TokenService(registry)
    registry.intercept = service
    return service


def test_an_anonymous_token_is_used_again(world: World, tokens: TokenService) -> None:
    assert world.resolve() == world.resolve() == IMAGE.manifest.digest
    (asked,) = world.registry.asked("/token")
    assert asked.method == "GET"
    assert "Authorization" not in asked.headers
    query = parse_qs(urlsplit(asked.path).query)
    assert query == {"service": ["reg"], "scope": ["repository:team/app:pull"], "client_id": ["moorage"]}


def test_a_token_for_a_password(world: World, tokens: TokenService) -> None:
    auth = RegistryAuth("me", SECRET)
    assert world.resolve(auth) == IMAGE.manifest.digest
    (asked,) = world.registry.asked("/token")
    assert asked.headers["Authorization"] == auth.basic()
    assert SECRET not in asked.path
    manifests = [request.headers.get("Authorization") for request in world.registry.asked("/manifests/")]
    assert manifests == [None, "Bearer T1"]


def test_callers_do_not_share_tokens(world: World, tokens: TokenService) -> None:
    world.resolve(RegistryAuth("me", SECRET))
    world.resolve(RegistryAuth("you", SECRET))
    assert len(world.registry.asked("/token")) == 2


def test_an_identity_token_is_posted(world: World, tokens: TokenService) -> None:
    tokens.answer = lambda request: Reply(200, b'{"access_token":"T1"}')
    assert world.resolve(RegistryAuth(identity_token=SECRET)) == IMAGE.manifest.digest
    (asked,) = world.registry.asked("/token")
    assert (asked.method, asked.path) == ("POST", "/token")
    form = parse_qs(asked.body.decode())
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == [SECRET]
    assert form["scope"] == ["repository:team/app:pull"]


def test_a_registry_token_goes_to_the_registry(world: World, tokens: TokenService) -> None:
    tokens.accepted = f"Bearer {SECRET}"
    assert world.resolve(RegistryAuth(registry_token=SECRET)) == IMAGE.manifest.digest
    assert not world.registry.asked("/token")


def test_a_revoked_token_is_renewed_once(world: World, tokens: TokenService) -> None:
    world.resolve()
    tokens.accepted = "Bearer T2"
    tokens.answer = lambda request: Reply(200, b'{"token":"T2"}')
    assert world.resolve() == IMAGE.manifest.digest
    assert len(world.registry.asked("/token")) == 2


def test_a_token_that_does_not_help(world: World, tokens: TokenService) -> None:
    tokens.accepted = "Bearer other"
    with pytest.raises(Unauthenticated):
        world.resolve()
    assert len(world.registry.asked("/manifests/")) == 2


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(401, SECRET.encode()), Unauthenticated),
        (Reply(200, b"<html>"), Internal),
        (Reply(200, b"{}"), Internal),
        (Reply(200, b'{"token":"a\\r\\nHost: evil"}'), Internal),
        (Reply(200, b'{"token":"' + b"x" * (2 << 20) + b'"}'), Internal),
        (Reply(307, b"", {"Location": "/elsewhere"}), Internal),
    ],
)
def test_a_token_service_that_fails(
    world: World,
    tokens: TokenService,
    caplog: pytest.LogCaptureFixture,
    reply: Reply,
    kind: type[MoorageError],
) -> None:
    tokens.answer = lambda request: reply
    with caplog.at_level(logging.DEBUG), pytest.raises(kind) as caught:
        world.resolve(RegistryAuth("me", SECRET))
    assert world.registry.host in caught.value.message
    assert_silent(caught.value, caplog)
    assert not world.registry.asked("/elsewhere")


@pytest.mark.parametrize(
    "realm", ["http://192.0.2.1/token", "file:///etc/passwd", "https://me:pw@h/t", "https://[/t", ""]
)
def test_a_token_service_that_may_not_be_asked(world: World, tokens: TokenService, realm: str) -> None:
    tokens.realm = realm
    with pytest.raises(Unauthenticated, match="not an https URL"):
        world.resolve(RegistryAuth("me", SECRET))


def test_a_mirror_does_not_get_the_credentials_of_the_call(tmp_path: Path, registry: FakeRegistry) -> None:
    registry.intercept = wants_basic("me", SECRET)
    with FakeRegistry() as mirror:
        mirror.intercept = wants_basic("other", "other")
        config = RegistryConfig(
            mirrors=(Mirror(registry.host, (mirror.url,)),),
            hosts=(HostConfig(registry.host, plain_http=True),),
            docker_config=str(tmp_path / "docker.json"),
            retries=0,
        )
        client = Client(config)
        repository = client.repository(parse(f"{registry.host}/team/app"), RegistryAuth("me", SECRET), CancelToken())
        assert repository.resolve("latest", Platform()).digest == IMAGE.manifest.digest
        client.close()
        assert [request.headers.get("Authorization") for request in mirror.requests] == [None]


def assert_silent(error: MoorageError, caplog: pytest.LogCaptureFixture) -> None:
    """No secret, plain or in base64, in the error, its causes or the log."""
    encoded = RegistryAuth("me", SECRET).basic().split()[1]
    said = [caplog.text, error.hint, str(error.metadata)]
    cause: BaseException | None = error
    while cause is not None:
        said.append(repr(cause))
        cause = cause.__cause__ or cause.__context__
    for text in said:
        assert SECRET not in text
        assert encoded not in text
