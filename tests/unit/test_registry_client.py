"""The registry client against a server that misbehaves: each fault gets its error, and only what is right comes through."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import (
    Cancelled,
    DataLoss,
    FailedPrecondition,
    Internal,
    MoorageError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from moorage.server.model import Platform
from moorage.server.registry import remote
from moorage.server.registry.client import Client, Repository
from moorage.server.registry.config import Mirror, RegistryConfig
from moorage.server.registry.manifest import Descriptor
from moorage.server.registry.problems import Subject, TryAgain, from_exception, retry_after
from moorage.server.registry.reference import parse
from moorage.server.registry.remote import Attempts
from tests.fakeregistry import FakeRegistry, Reply, Request, sha256
from tests.registryclient import (  # noqa: F401
    AUTH,
    BLOB,
    DATA,
    IMAGE,
    Open,
    config,
    impatient,
    once,
    open_repository,
    read,
    registry,
    repository,
)

# Status codes


@pytest.mark.parametrize(
    ("reply", "kind", "text"),
    [
        (
            Reply(400, b'{"errors":[{"code":"TAG_INVALID","message":"bad"}]}'),
            FailedPrecondition,
            "400 (TAG_INVALID: bad)",
        ),
        (Reply(400, b"what?"), Internal, "400 with 'what?'"),
        (Reply(403, b'{"errors":[{"code":"DENIED","message":"no"}]}'), PermissionDenied, "403 (DENIED: no)"),
        (Reply(404, b""), NotFound, "404 with nothing"),
        (Reply(429, b"slow down"), ResourceExhausted, "429 with 'slow down'"),
        (Reply(500, b"\xff\x00\n" * 9999), Unavailable, "500 with"),
        (Reply(502, b'{"errors":5}'), Unavailable, "502"),
        (Reply(418, b"tea"), Internal, "418 with 'tea'"),
        (Reply(204), Internal, "204"),
    ],
)
def test_a_status_becomes_an_error(
    registry: FakeRegistry, repository: Repository, reply: Reply, kind: type[MoorageError], text: str
) -> None:
    registry.intercept = lambda request: reply
    with pytest.raises(kind) as caught:
        repository.resolve("latest", Platform())
    message = caught.value.message
    assert text in message
    assert registry.host in message
    assert "team/app" in message
    assert len(message) < 600
    assert message.isprintable()
    assert caught.value.hint


def test_trouble_passes(registry: FakeRegistry, repository: Repository) -> None:
    registry.intercept = once(Reply(500))
    assert repository.resolve("latest", Platform()).digest == IMAGE.manifest.digest
    assert len(registry.requests) == 2


def test_patience_ends(registry: FakeRegistry, open_repository: Open) -> None:
    registry.intercept = lambda request: Reply(503)
    with pytest.raises(Unavailable):
        open_repository(retries=2).resolve("latest", Platform())
    assert len(registry.requests) == 3


def test_a_rate_limit_is_waited_for(registry: FakeRegistry, repository: Repository) -> None:
    registry.intercept = once(Reply(429, b"", {"Retry-After": "0"}))
    assert repository.resolve("latest", Platform()).digest == IMAGE.manifest.digest


def test_a_rate_limit_of_an_hour_is_not(registry: FakeRegistry, repository: Repository) -> None:
    registry.intercept = lambda request: Reply(429, b"", {"Retry-After": "3600"})
    with pytest.raises(ResourceExhausted) as caught:
        repository.resolve("latest", Platform())
    assert "3600 s" in caught.value.hint
    assert len(registry.requests) == 1


class Waits(CancelToken):
    """Notes the waits instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, seconds: float) -> None:
        self.seconds.append(seconds)


def test_waits_grow_and_heed_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.2)
    waits = Waits()
    attempts = Attempts(9, waits, jitter=lambda: 1.0)
    for _ in range(7):
        attempts.again(TryAgain(Unavailable("x")))
    assert waits.seconds == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0])
    attempts.again(TryAgain(Unavailable("x"), after=30.0))
    assert waits.seconds[-1] == 30.0
    attempts.again(TryAgain(Unavailable("x")))
    with pytest.raises(Unavailable):
        attempts.again(TryAgain(Unavailable("x")))
    attempts.progressed()
    attempts.again(TryAgain(Unavailable("x")))
    assert waits.seconds[-1] == pytest.approx(0.2)


def test_retry_after() -> None:
    assert retry_after({"Retry-After": "7"}) == 7.0
    assert retry_after({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0.0
    for value in ("", "soon", "-1", "\u0665", "1e9"):
        assert retry_after({"Retry-After": value}) is None


# Connections


def test_nobody_listens(open_repository: Open, config: RegistryConfig, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        client = Client(replace(config, retries=1))
        with pytest.raises(Unavailable, match="connection refused") as caught:
            client.repository(parse(f"{host}/team/app"), None, CancelToken()).resolve("latest", Platform())
        client.close()
    assert host in caught.value.message
    assert "team/app" in caught.value.message


def test_a_name_that_does_not_resolve(config: RegistryConfig) -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    found = from_exception(Subject("nowhere.example", "team/app", "get it"), error)
    assert isinstance(found, Unavailable)
    assert "does not resolve: name or service not known" in found.message


def test_plain_http_on_loopback_is_found_out(registry: FakeRegistry, config: RegistryConfig) -> None:
    client = Client(replace(config, hosts=()))
    repository = client.repository(parse(f"{registry.host}/team/app"), None, CancelToken())
    assert repository.resolve("latest", Platform()).digest == IMAGE.manifest.digest
    client.close()


def test_cancelling_cuts_a_wait_for_the_registry(registry: FakeRegistry, open_repository: Open) -> None:
    cancel = CancelToken()

    def hang(request: Request) -> Reply:
        cancel.cancel("enough")
        return Reply(200, b"x", length=1 << 30)

    registry.intercept = hang
    with pytest.raises(Cancelled, match="enough"):
        read(open_repository(cancel=cancel))


def test_cancelled_before_the_start(open_repository: Open, registry: FakeRegistry) -> None:
    cancel = CancelToken()
    cancel.cancel("enough")
    with pytest.raises(Cancelled):
        open_repository(cancel=cancel).resolve("latest", Platform())
    assert not registry.requests


# Blobs


def test_a_blob_and_the_rest_of_it(registry: FakeRegistry, repository: Repository) -> None:
    assert read(repository) == DATA
    assert read(repository, offset=1000) == DATA[1000:]
    assert registry.requests[-1].headers["Range"] == "bytes=1000-"
    assert read(repository, offset=len(DATA)) == b""


def test_half_a_blob_is_gone_on_with(registry: FakeRegistry, repository: Repository) -> None:
    half = len(DATA) // 2
    registry.intercept = once(Reply(200, DATA, cut=half))
    assert read(repository) == DATA
    assert [request.headers.get("Range") for request in registry.requests] == [None, f"bytes={half}-"]


def test_a_registry_without_ranges(registry: FakeRegistry, repository: Repository) -> None:
    registry.intercept = lambda request: Reply(200, DATA, cut=None if request.count > 1 else 1 << 20)
    assert read(repository) == DATA


def test_a_registry_that_never_gets_further(registry: FakeRegistry, open_repository: Open) -> None:
    registry.intercept = lambda request: Reply(200, DATA, cut=1000)
    with pytest.raises(Unavailable, match="ended after 1000 bytes, with 5241880 to come"):
        read(open_repository(retries=2))
    assert len(registry.requests) == 3


def test_a_registry_that_dribbles_gets_no_patience_for_it(registry: FakeRegistry, open_repository: Open) -> None:
    def dribble(request: Request) -> Reply:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        rest = DATA[start:]
        return Reply(206 if start else 200, rest, {"Content-Range": f"bytes {start}-/{len(DATA)}"}, cut=1)

    registry.intercept = dribble
    with pytest.raises(Unavailable):
        read(open_repository(retries=3))
    assert len(registry.requests) == 4


def test_a_blob_in_many_pieces(registry: FakeRegistry, open_repository: Open) -> None:
    def pieces(request: Request) -> Reply:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        rest = DATA[start:]
        return Reply(206 if start else 200, rest, {"Content-Range": f"bytes {start}-/{len(DATA)}"}, cut=(1 << 20) + 7)

    registry.intercept = pieces
    assert read(open_repository(retries=1)) == DATA


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(200, DATA[:-1]), "5242879 bytes, not the 5242880"),
        (Reply(200, DATA + b"x"), "5242881 bytes, not the 5242880"),
        (Reply(200, b""), "0 bytes, not the 5242880"),
        (Reply(200, DATA + b"x" * 100, {"Transfer-Encoding": "identity", "Connection": "close"}), "bytes"),
        (Reply(206, DATA, {"Content-Range": "bytes 5-9/10"}), "from 5"),
        (Reply(206, DATA, {"Content-Range": "garbage"}), "asked for bytes from 0 on"),
    ],
)
def test_a_blob_of_the_wrong_size(registry: FakeRegistry, repository: Repository, reply: Reply, text: str) -> None:
    registry.intercept = lambda request: reply
    with pytest.raises(DataLoss, match=text):
        read(repository)


def test_a_range_from_elsewhere(registry: FakeRegistry, repository: Repository) -> None:
    registry.intercept = lambda request: Reply(206, DATA[7:], {"Content-Range": f"bytes 7-{len(DATA) - 1}/{len(DATA)}"})
    with pytest.raises(DataLoss, match="asked for bytes from 9 on, it sends from 7"):
        read(repository, offset=9)


def test_a_blob_of_an_image_that_is_gone(repository: Repository) -> None:
    with pytest.raises(NotFound, match=sha256(b"gone")):
        read(repository, Descriptor("", sha256(b"gone"), 4))


def test_a_config_with_flipped_bytes(registry: FakeRegistry, repository: Repository) -> None:
    found = repository.resolve("latest", Platform()).manifest
    assert repository.get_config(found) == IMAGE.config.data
    registry.blobs[IMAGE.config.digest] = IMAGE.config.data[::-1]
    with pytest.raises(DataLoss, match="its config has the digest"):
        repository.get_config(found)


# Redirects


@pytest.fixture
def other() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        server.intercept = lambda request: Reply(200, DATA)
        yield server


def basic_then(after: Callable[[Request], Reply | None]) -> Callable[[Request], Reply | None]:
    def intercept(request: Request) -> Reply | None:
        if request.headers.get("Authorization") != AUTH.basic():
            return Reply(401, b"", {"WWW-Authenticate": "Basic realm=x"})
        return after(request)

    return intercept


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_elsewhere_goes_without_credentials(
    registry: FakeRegistry, other: FakeRegistry, open_repository: Open, status: int
) -> None:
    registry.intercept = basic_then(lambda request: Reply(status, b"", {"Location": f"{other.url}/data?sig=1"}))
    assert read(open_repository(AUTH)) == DATA
    (asked,) = other.requests
    assert asked.path == "/data?sig=1"
    assert "Authorization" not in asked.headers


def test_credentials_do_not_come_back(registry: FakeRegistry, other: FakeRegistry, open_repository: Open) -> None:
    other.intercept = lambda request: Reply(307, b"", {"Location": f"{registry.url}/back"})

    def intercept(request: Request) -> Reply | None:
        return Reply(200, DATA) if request.path == "/back" else away(request)

    away = basic_then(lambda request: Reply(307, b"", {"Location": f"{other.url}/data"}))
    registry.intercept = intercept
    assert read(open_repository(AUTH)) == DATA
    assert "Authorization" not in registry.asked("/back")[0].headers


def test_a_redirect_on_the_same_host_keeps_them(registry: FakeRegistry, open_repository: Open) -> None:
    registry.intercept = basic_then(
        lambda request: Reply(200, DATA) if request.path == "/data" else Reply(307, b"", {"Location": "/data"})
    )
    assert read(open_repository(AUTH)) == DATA
    assert registry.asked("/data")[0].headers["Authorization"] == AUTH.basic()


def test_another_host_does_not_get_to_ask_for_credentials(
    registry: FakeRegistry, other: FakeRegistry, open_repository: Open
) -> None:
    registry.intercept = basic_then(lambda request: Reply(307, b"", {"Location": f"{other.url}/data"}))
    other.intercept = lambda request: Reply(401, b"", {"WWW-Authenticate": "Basic realm=x"})
    with pytest.raises(Unavailable, match=r"redirects to 127\.0\.0\.1, which answers 401"):
        read(open_repository(AUTH, retries=0))
    assert all("Authorization" not in request.headers for request in other.requests)


@pytest.mark.parametrize("location", ["", "ftp://h/x", "file:///etc/passwd", "http://[/", "http://u:p@h/"])
def test_a_redirect_to_nowhere(registry: FakeRegistry, repository: Repository, location: str) -> None:
    registry.intercept = lambda request: Reply(302, b"", {"Location": location})
    with pytest.raises(Internal, match="refused"):
        read(repository)


def test_a_redirect_in_circles(registry: FakeRegistry, repository: Repository) -> None:
    registry.intercept = lambda request: Reply(307, b"", {"Location": request.path})
    with pytest.raises(Internal, match="more than 5 redirects"):
        read(repository)
    assert len(registry.requests) == 6


def test_no_redirect_from_https_to_http() -> None:
    subject = Subject("h", "r", "get it")
    with pytest.raises(Internal, match="from https to http"):
        remote._redirected("https://h/v2/", "http://h/data", subject)
    assert remote._redirected("https://h/v2/", "https://i/data", subject) == "https://i/data"


# Mirrors


@pytest.fixture
def mirrored(other: FakeRegistry, registry: FakeRegistry, open_repository: Open) -> Repository:
    other.intercept = lambda request: None
    return open_repository(mirrors=(Mirror(registry.host, (other.url,)),))


def test_a_mirror_is_asked_first(registry: FakeRegistry, other: FakeRegistry, mirrored: Repository) -> None:
    other.add("team/app", "latest", IMAGE)
    other.blobs[BLOB.digest] = DATA
    assert mirrored.resolve("latest", Platform()).digest == IMAGE.manifest.digest
    assert read(mirrored) == DATA
    assert not registry.requests


def test_what_a_mirror_lacks_comes_from_upstream(
    registry: FakeRegistry, other: FakeRegistry, mirrored: Repository
) -> None:
    assert mirrored.resolve("latest", Platform()).digest == IMAGE.manifest.digest
    assert read(mirrored) == DATA
    assert len(other.requests) == 2


def test_a_mirror_that_dies_in_the_middle(registry: FakeRegistry, other: FakeRegistry, mirrored: Repository) -> None:
    other.intercept = lambda request: Reply(200, DATA, cut=1 << 20) if request.count == 1 else Reply(500)
    assert read(mirrored) == DATA
    assert registry.requests[-1].headers["Range"] == f"bytes={1 << 20}-"


@pytest.mark.parametrize("status", [401, 403, 404, 418, 500])
def test_a_mirror_that_refuses_a_blob(
    registry: FakeRegistry, other: FakeRegistry, mirrored: Repository, status: int
) -> None:
    other.intercept = lambda request: Reply(status)
    assert read(mirrored) == DATA
    with pytest.raises(NotFound, match=registry.host) as caught:
        read(mirrored, Descriptor("", sha256(b"gone"), 4))
    assert f"mirror {other.host} failed too" in caught.value.hint


def test_when_all_fail_each_is_named(registry: FakeRegistry, other: FakeRegistry, mirrored: Repository) -> None:
    other.intercept = lambda request: Reply(500)
    with pytest.raises(NotFound) as caught:
        mirrored.resolve("missing", Platform())
    assert registry.host in caught.value.message
    assert f"mirror {other.host} failed too" in caught.value.hint
    assert "500" in caught.value.hint
