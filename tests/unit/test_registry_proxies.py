"""Proxies: which one a URL goes through, and that it does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3

from moorage.server.cancel import CancelToken
from moorage.server.errors import InvalidArgument, Unavailable
from moorage.server.model import Platform
from moorage.server.registry import remote
from moorage.server.registry.client import Client
from moorage.server.registry.config import HostConfig, RegistryConfig
from moorage.server.registry.proxies import Proxies
from moorage.server.registry.pull import Puller
from moorage.server.registry.reference import parse
from tests.fakeregistry import FakeRegistry
from tests.images import build_image, tar_layer
from tests.memorygraph import MemoryGraph
from tests.registry import make_certificates

IMAGE = build_image([tar_layer({"a": b"a"})])
BOTH = {"HTTP_PROXY": "http://one.example:3128", "https_proxy": "two.example:3129"}


def found(url: str, exempt: str = "", **config: str) -> str:
    return Proxies.of(RegistryConfig(**config), {**BOTH, "NO_PROXY": exempt}).find(url)  # type: ignore[arg-type]


def test_the_scheme_decides() -> None:
    assert found("http://r.example/v2/") == "http://one.example:3128"
    assert found("https://r.example/v2/") == "http://two.example:3129"
    assert Proxies.of(RegistryConfig(), {}).find("https://r.example/") == ""


def test_configuration_wins_over_the_environment() -> None:
    assert found("https://r.example/", https_proxy="http://mine.example:1") == "http://mine.example:1"


@pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "a.localhost"])
def test_this_machine_is_reached_directly(host: str) -> None:
    assert found(f"http://{host}/v2/") == ""


@pytest.mark.parametrize(
    ("exempt", "url", "direct"),
    [
        ("*", "https://r.example/", True),
        ("r.example", "https://r.example/", True),
        ("r.example", "https://sub.r.example/", True),
        (".r.example", "https://sub.r.example/", True),
        ("*.r.example", "https://sub.r.example/", True),
        ("example", "https://notexample/", False),
        ("R.EXAMPLE", "https://r.example/", True),
        ("other.example, r.example", "https://r.example/", True),
        ("r.example:5000", "https://r.example:5000/", True),
        ("r.example:5000", "https://r.example/", False),
        ("10.0.0.0/8", "https://10.1.2.3/", True),
        ("10.0.0.0/8", "https://11.1.2.3/", False),
        ("10.0.0.0/8", "https://r.example/", False),
        ("fd00::/8", "https://[fd00::1]:5000/", True),
        ("[fd00::1]:5000", "https://[fd00::1]:5000/", True),
        ("fd00::1", "https://[fd00::1]/", True),
    ],
)
def test_exemptions(exempt: str, url: str, direct: bool) -> None:
    assert (found(url, exempt) == "") == direct


@pytest.mark.parametrize("url", ["ftp://p.example", "http://", "http://p.example:0", "http://[p"])
def test_a_proxy_that_is_none(url: str) -> None:
    with pytest.raises(InvalidArgument, match="https_proxy is not the URL of a proxy"):
        Proxies.of(RegistryConfig(https_proxy=url), {})


class Proxy:
    """A proxy that takes every host for one registry, by requests of plain HTTP and by tunnels.

    `seen` is the targets of the requests, and what came to authorise them; tunnels are answered with the status `refuses` where it is set.
    """

    def __init__(self, registry: FakeRegistry) -> None:
        self.seen: list[tuple[str, str]] = []
        self.refuses = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.seen.append((self.path, self.headers.get("Proxy-Authorization", "")))
                path = urlsplit(self.path).path
                answer = urllib3.request("GET", registry.url + path, headers={"Accept": "*/*"})
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/octet-stream"))
                self.send_header("Content-Length", str(len(answer.data)))
                self.end_headers()
                self.wfile.write(answer.data)

            def do_CONNECT(self) -> None:
                outer.seen.append((self.path, self.headers.get("Proxy-Authorization", "")))
                if outer.refuses:
                    self.send_error(outer.refuses)
                    return
                with socket.create_connection(registry.address) as far:
                    self.send_response(200, "Connection established")
                    self.end_headers()
                    back = threading.Thread(target=copy, args=(far, self.connection))
                    back.start()
                    copy(self.connection, far)
                    back.join()
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Hand on what comes until one side has hung up."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with FakeRegistry() as registry:
        registry.add("team/app", "1", IMAGE)
        proxy = Proxy(registry)
        yield proxy
        proxy.close()


def client(proxy: str, tmp_path: Path) -> Client:
    hosts = (HostConfig("registry.example", plain_http=True),)
    return Client(RegistryConfig(hosts=hosts, http_proxy=proxy, docker_config=str(tmp_path / "none"), retries=0))


def test_a_pull_goes_through_it(proxy: Proxy, tmp_path: Path) -> None:
    port = proxy.server.server_address[1]
    made = client(f"http://me:s%40cret@127.0.0.1:{port}", tmp_path)
    repository = made.repository(parse("registry.example/team/app"), None, CancelToken())
    assert repository.resolve("1", Platform()).digest == IMAGE.manifest.digest
    assert proxy.seen == [("http://registry.example/v2/team/app/manifests/1", "Basic bWU6c0BjcmV0")]
    made.close()


@pytest.fixture
def tunnel(tmp_path: Path) -> Iterator[Proxy]:
    """A proxy before a registry that speaks TLS as registry.example, with the CA in ca.pem."""
    make_certificates(tmp_path)
    with FakeRegistry(tmp_path) as registry:
        registry.add("team/app", "1", IMAGE)
        proxy = Proxy(registry)
        yield proxy
        proxy.close()


def through(tunnel: Proxy, directory: Path, host: HostConfig) -> Client:
    url = f"http://me:s%40cret@127.0.0.1:{tunnel.server.server_address[1]}"
    return Client(RegistryConfig(hosts=(host,), https_proxy=url, docker_config=str(directory / "none"), retries=0))


def test_https_goes_through_a_tunnel(tunnel: Proxy, tmp_path: Path) -> None:
    made = through(tunnel, tmp_path, HostConfig("registry.example", ca_file=str(tmp_path / "ca.pem")))
    graph = MemoryGraph()
    image = Puller(graph, made).pull(
        parse("registry.example/team/app:1"), Platform(), None, lambda _: None, CancelToken()
    )
    assert image.id == IMAGE.id
    assert set(tunnel.seen) == {("registry.example:443", "Basic bWU6c0BjcmV0")}
    made.close()


def test_a_tunnel_does_not_vouch_for_the_registry(tunnel: Proxy, tmp_path: Path) -> None:
    """The certificate is checked at its other end, and it is for the name that was asked for."""
    for name, host, why in (
        ("registry.example", HostConfig("registry.example"), "certificate is not trusted"),
        ("other.example", HostConfig("other.example", ca_file=str(tmp_path / "ca.pem")), "certificate"),
    ):
        made = through(tunnel, tmp_path, host)
        with pytest.raises(Unavailable, match=why) as failure:
            made.repository(parse(f"{name}/team/app"), None, CancelToken()).get_manifest("1")
        assert "s@cret" not in str(failure.value)
        made.close()


def test_a_tunnel_that_is_refused(tunnel: Proxy, tmp_path: Path) -> None:
    tunnel.refuses = 407
    made = through(tunnel, tmp_path, HostConfig("registry.example", ca_file=str(tmp_path / "ca.pem")))
    with pytest.raises(Unavailable, match=r"its proxy fails: .*407") as failure:
        made.repository(parse("registry.example/team/app"), None, CancelToken()).get_manifest("1")
    assert "s@cret" not in str(failure.value) and "https_proxy" in failure.value.hint
    made.close()


def test_one_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)
    made = client("http://me:s3cret@127.0.0.1:1", tmp_path)
    with pytest.raises(Unavailable, match="its proxy fails: Connection refused") as failure:
        made.repository(parse("registry.example/team/app"), None, CancelToken()).get_manifest("1")
    assert "s3cret" not in str(failure.value) and "http_proxy" in failure.value.hint
    made.close()
