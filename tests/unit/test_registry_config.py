"""The `[registry]` table of the daemon's configuration."""

from __future__ import annotations

import tomllib

import pytest

from moorage.server.errors import InvalidArgument
from moorage.server.registry.config import HostConfig, Mirror, RegistryConfig, from_toml, is_loopback


def read(text: str) -> RegistryConfig:
    return from_toml(tomllib.loads(text).get("registry", {}))


def test_nothing_is_the_default() -> None:
    assert read("") == RegistryConfig()


def test_everything() -> None:
    config = read("""
        [registry]
        docker_config = "/etc/docker.json"
        layers_at_once = 2
        retries = 0
        read_timeout = 5
        keep_blobs = true
        [[registry.mirrors]]
        host = "registry.example"
        endpoints = ["http://127.0.0.1:5000", "https://mirror.example/"]
        [[registry.hosts]]
        host = "registry.example"
        ca_file = "/ca.pem"
        client_cert = "/c.pem"
        client_key = "/k.pem"
    """)
    assert config == RegistryConfig(
        mirrors=(Mirror("registry.example", ("http://127.0.0.1:5000", "https://mirror.example")),),
        hosts=(HostConfig("registry.example", ca_file="/ca.pem", client_cert="/c.pem", client_key="/k.pem"),),
        docker_config="/etc/docker.json",
        layers_at_once=2,
        retries=0,
        read_timeout=5,
        keep_blobs=True,
    )
    assert config.mirrors_of("registry.example") == ("http://127.0.0.1:5000", "https://mirror.example")
    assert config.mirrors_of("other.example") == ()
    assert config.host("registry.example").ca_file == "/ca.pem"
    assert config.host("other.example") == HostConfig("other.example")


@pytest.mark.parametrize(
    ("text", "key", "cause"),
    [
        ("registry.mirror = 1", "registry.mirror", "unknown setting"),
        ("registry.retries = -1", "registry.retries", "whole number"),
        ("registry.layers_at_once = 0", "registry.layers_at_once", "above 0"),
        ("registry.layers_at_once = true", "registry.layers_at_once", "whole number"),
        ("registry.read_timeout = inf", "registry.read_timeout", "seconds"),
        ("registry.keep_blobs = 1", "registry.keep_blobs", "true or false"),
        ("registry.docker_config = 1", "registry.docker_config", "string"),
        ("registry.mirrors = 'x'", "registry.mirrors", "[[registry.mirrors]]"),
        ("[[registry.mirrors]]\nhost='a.b'", "registry.mirrors[0].endpoints", "at least one"),
        ("[[registry.mirrors]]\nendpoints=['https://x']", "registry.mirrors[0].host", "host name"),
        ("[[registry.mirrors]]\nhost='https://a.b'\nendpoints=['https://x']", "registry.mirrors[0].host", "scheme"),
        ("[[registry.mirrors]]\nhost='a.b'\nendpoints=['ftp://x']", "registry.mirrors[0].endpoints[0]", "http://host"),
        ("[[registry.mirrors]]\nhost='a.b'\nendpoints=['https://x:y']", "registry.mirrors[0].endpoints[0]", "http://"),
        ("[[registry.mirrors]]\nhost='a.b'\nendpoints=[1]", "registry.mirrors[0].endpoints[0]", "URL"),
        ("[[registry.mirrors]]\nhost='a.b'\nendpoints=['https://x/y']", "registry.mirrors[0].endpoints[0]", "a path"),
        ("[[registry.mirrors]]\nhost='a.b'\nendpoints=['http://x']", "registry.mirrors", "plain_http = true"),
        ("[[registry.hosts]]\nhost='a.b'\nca='x'", "registry.hosts[0].ca", "known are ca_file"),
        ("[[registry.hosts]]\nhost='a.b'\nclient_key='x'", "registry.hosts[0].client_key", "client_cert"),
        ("[[registry.hosts]]\nhost='a.b'\n[[registry.hosts]]\nhost='a.b'", "registry.hosts", "two tables"),
    ],
)
def test_what_is_wrong_is_named(text: str, key: str, cause: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(text)
    assert caught.value.metadata["key"] == key
    assert cause in caught.value.message


def test_a_password_in_an_endpoint_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read("[[registry.mirrors]]\nhost='a.b'\nendpoints=['https://me:s3cret@x']")
    assert "s3cret" not in caught.value.message


def test_plain_http_off_loopback_when_explicit() -> None:
    config = read("""
        [[registry.mirrors]]
        host = "registry.example"
        endpoints = ["http://10.0.0.1:5000"]
        [[registry.hosts]]
        host = "10.0.0.1:5000"
        plain_http = true
    """)
    assert config.mirrors_of("registry.example") == ("http://10.0.0.1:5000",)


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:80", "[::1]:5000", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost.example", "10.0.0.1", "127.0.0.1.nip.example:5000", "[2001:db8::1]:1"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
