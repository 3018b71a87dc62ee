"""Pulls from Debian's docker-registry on loopback into the real image store, with the drivers that work on any file system."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from moorage.server.cancel import CancelToken
from moorage.server.errors import Cancelled, InvalidArgument, MoorageError, NotFound, Unauthenticated, Unavailable
from moorage.server.graph import drivers
from moorage.server.graph.confined import ConfinedRunner
from moorage.server.graph.content import ContentStore
from moorage.server.graph.graph import Graph
from moorage.server.graph.graphdb import GraphDB
from moorage.server.model import Image, Platform
from moorage.server.registry.client import Client
from moorage.server.registry.config import HostConfig, Mirror, RegistryConfig
from moorage.server.registry.credentials import RegistryAuth
from moorage.server.registry.progress import PullProgress, PullStage
from moorage.server.registry.pull import Puller
from moorage.server.registry.reference import parse
from tests.archives import Archive, in_rootfs
from tests.images import BuiltImage, Compression, Format, build_busybox, build_image, build_index, push, tar_layer
from tests.registry import LoopbackRegistry
from tests.spawning import running_spawner

pytestmark = pytest.mark.kernel

AMD64 = Platform()
USER, PASSWORD = "moorage", "s3cret w0rd"
BIG = tar_layer({"big": random.Random(5).randbytes(24 << 20)})


@dataclass
class Store:
    """An image store with a driver, and pulls into it."""

    graph: Graph
    docker_config: Path
    steps: list[PullProgress]

    def pull(
        self,
        reference: str,
        config: RegistryConfig | None = None,
        auth: RegistryAuth | None = None,
        cancel: CancelToken | None = None,
        tell: Callable[[PullProgress], None] | None = None,
    ) -> Image:
        client = Client(config or self.config())
        try:
            puller = Puller(self.graph, client)
            return puller.pull(parse(reference), AMD64, auth, tell or self.steps.append, cancel or CancelToken())
        finally:
            client.close()

    def config(self, *hosts: HostConfig, mirrors: tuple[Mirror, ...] = (), retries: int = 1) -> RegistryConfig:
        return RegistryConfig(mirrors, hosts, docker_config=str(self.docker_config), retries=retries)


@pytest.fixture(scope="module")
def confined() -> Iterator[ConfinedRunner]:
    with running_spawner() as spawner:
        yield ConfinedRunner(spawner.run_task)


@pytest.fixture(params=["overlay", "vfs"])
def store(request: pytest.FixtureRequest, tmp_path: Path, confined: ConfinedRunner) -> Iterator[Store]:
    root = tmp_path / "root"
    root.mkdir(mode=0o700)
    db = GraphDB(root / "graph.db")
    graph = Graph(root, db, ContentStore(root / "content"), drivers.choose(request.param, root, confined))
    yield Store(graph, tmp_path / "docker.json", [])
    graph.close()
    db.close()


@pytest.fixture(scope="module")
def http() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry() as registry:
        yield registry


@pytest.fixture(scope="module")
def https() -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry(tls=True, auth=(USER, PASSWORD)) as registry:
        push(registry.url, "private/app", "1", build_busybox(), auth=registry.auth, ca_file=registry.ca_file)
        yield registry


@pytest.mark.parametrize("format", ["oci", "docker"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_formats(http: LoopbackRegistry, store: Store, format: Format, compression: Compression) -> None:
    image = build_busybox(format=format, compression=compression, extra_layers=[tar_layer({"motd": b"hello"})])
    push(http.url, f"formats/{format}", compression, image)
    pulled = store.pull(f"{http.host}/formats/{format}:{compression}")
    assert pulled.id == image.id
    assert tuple(layer.diff_id for layer in pulled.layers) == image.diff_ids
    assert pulled.size > 0
    assert store.graph.content.digests() == {image.id, image.manifest.digest}
    assert store.graph.content.ingests() == []


def test_it_becomes_a_root_file_system(http: LoopbackRegistry, store: Store, tmp_path: Path) -> None:
    change = Archive().add("etc", "dir").add("etc/.wh.group").add("etc/passwd", data=b"changed").bytes
    push(http.url, "rootfs", "1", build_busybox(extra_layers=[change]))
    image = store.pull(f"{http.host}/rootfs:1")
    store.graph.create_rootfs("c1", image.id)
    tree = in_rootfs(store.graph.rootfs("c1"), tmp_path / "mnt", "")
    assert "bin/busybox" in tree
    assert "etc/group" not in tree
    assert tree["etc/passwd"]["size"] == len(b"changed")
    store.graph.remove_rootfs("c1")


def test_an_index(http: LoopbackRegistry, store: Store) -> None:
    amd64, arm64 = build_busybox(), build_busybox(architecture="arm64", variant="v8")
    digest = push(http.url, "multi", "latest", build_index(arm64, amd64))
    for name in (f"{http.host}/multi", f"{http.host}/multi@{digest}"):
        image = store.pull(name)
        assert image.id == amd64.id
        assert image.digests == (f"{http.host}/multi@{digest}",)
    push(http.url, "arm", "latest", build_index(arm64, format="docker"))
    with pytest.raises(NotFound, match="none for linux/amd64, only for linux/arm64/v8"):
        store.pull(f"{http.host}/arm")


def test_what_another_tool_pushed(http: LoopbackRegistry, store: Store, tmp_path: Path) -> None:
    push(http.url, "here", "1", build_busybox(format="docker"))
    copy = ["skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", "--format=oci"]
    copy += ["--tmpdir", str(tmp_path), f"docker://{http.host}/here:1", f"docker://{http.host}/there:1"]
    subprocess.run(copy, check=True, capture_output=True)
    raw = subprocess.run(
        ["skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{http.host}/there:1"],
        check=True,
        capture_output=True,
    )
    assert store.pull(f"{http.host}/there:1").id == json.loads(raw.stdout)["config"]["digest"]


def test_https_with_a_private_ca_and_a_password(https: LoopbackRegistry, store: Store) -> None:
    config = store.config(HostConfig(https.host, ca_file=https.ca_file or ""))
    name = f"{https.host}/private/app:1"
    assert store.pull(name, config, RegistryAuth(USER, PASSWORD)).tags == (name,)
    with pytest.raises(Unauthenticated, match="private/app"):
        store.pull(name, config)
    with pytest.raises(Unauthenticated) as caught:
        store.pull(name, config, RegistryAuth(USER, "wr0ng"))
    assert "wr0ng" not in caught.value.message + caught.value.hint
    login = ["skopeo", "login", "--cert-dir", str(certificates(https)), "--authfile", str(store.docker_config)]
    login += ["-u", USER, "--password-stdin", https.host]
    subprocess.run(login, input=PASSWORD.encode(), check=True, capture_output=True)
    assert store.pull(name, config).tags == (name,)


def certificates(registry: LoopbackRegistry) -> Path:
    """The directory of CA certificates as skopeo wants it."""
    directory = registry.path / "certs.d"
    directory.mkdir(exist_ok=True)
    (directory / "ca.crt").write_bytes(Path(registry.ca_file or "").read_bytes())
    return directory


def test_an_unknown_ca_is_refused(https: LoopbackRegistry, store: Store) -> None:
    name = f"{https.host}/private/app:1"
    with pytest.raises(Unavailable, match="certificate is not trusted") as caught:
        store.pull(name, auth=RegistryAuth(USER, PASSWORD))
    assert "ca_file" in caught.value.hint
    unverified = store.config(HostConfig(https.host, skip_verify=True))
    assert store.pull(name, unverified, RegistryAuth(USER, PASSWORD)).tags == (name,)


def test_a_mirror(http: LoopbackRegistry, store: Store) -> None:
    push(http.url, "team/app", "2", build_busybox())
    config = store.config(mirrors=(Mirror("registry.example", (http.url,)),))
    image = store.pull("registry.example/team/app:2", config)
    assert image.tags == ("registry.example/team/app:2",)


@pytest.mark.parametrize("name", ["nothing", "here:none", f"here@sha256:{'0' * 64}"])
def test_what_does_not_exist(http: LoopbackRegistry, store: Store, name: str) -> None:
    push(http.url, "here", "1", build_busybox())
    with pytest.raises(NotFound) as caught:
        store.pull(f"{http.host}/{name}")
    assert http.host in caught.value.message
    assert store.graph.list() == ()


def test_a_hostile_layer_leaves_nothing(http: LoopbackRegistry, store: Store) -> None:
    hostile = Archive().add("../../escaped", data=b"x").bytes
    image = build_busybox(extra_layers=[hostile])
    push(http.url, "hostile", "1", image)
    with pytest.raises(InvalidArgument):
        store.pull(f"{http.host}/hostile:1")
    assert store.graph.list() == ()
    content = store.graph.content
    assert image.layers[1].digest not in {*content.digests(), *(ingest.digest for ingest in content.ingests())}


def test_a_registry_that_is_killed_and_comes_back(store: Store) -> None:
    with LoopbackRegistry() as registry:
        image = build_busybox(extra_layers=[BIG])
        push(registry.url, "big", "1", image)

        def tell(step: PullProgress) -> None:
            if step.stage is PullStage.DOWNLOADING and step.total > 20 << 20 and 0 < step.current < step.total:
                os.kill(registry.pid, signal.SIGKILL)

        with pytest.raises(Unavailable):
            store.pull(f"{registry.host}/big:1", store.config(retries=0), tell=tell)
        registry.kill()
        assert store.graph.list() == ()
        left = next(each for each in store.graph.content.ingests() if each.digest == image.layers[1].digest)
        assert left.size
        registry.start()
        assert store.pull(f"{registry.host}/big:1").id == image.id
        assert f"GET /v2/big/blobs/{left.digest}" in registry.log()
        resumed = [step.current for step in store.steps if step.digest == left.digest and step.current]
        assert min(resumed) > left.size
        assert store.graph.content.ingests() == []


def test_cancelling(http: LoopbackRegistry, store: Store) -> None:
    image = build_busybox(extra_layers=[BIG])
    push(http.url, "big", "1", image)
    cancel = CancelToken()

    def tell(step: PullProgress) -> None:
        if step.stage is PullStage.DOWNLOADING and step.total > 20 << 20:
            cancel.cancel("interrupted")

    with pytest.raises(Cancelled, match="interrupted"):
        store.pull(f"{http.host}/big:1", cancel=cancel, tell=tell)
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith(("moorage-pull", "moorage-unpack"))]
    assert store.graph.list() == ()
    assert store.pull(f"{http.host}/big:1").id == image.id


def test_pulls_at_once(http: LoopbackRegistry, store: Store) -> None:
    layers = [tar_layer({f"file{i}": os.urandom(1 << 20)}) for i in range(4)]
    images: list[BuiltImage] = [build_image(layers[: n + 1]) for n in range(4)]
    for n, image in enumerate(images):
        push(http.url, f"shared/{n}", "1", image)
    client = Client(store.config())
    puller = Puller(store.graph, client)

    def pull(n: int) -> Image:
        return puller.pull(parse(f"{http.host}/shared/{n}:1"), AMD64, None, store.steps.append, CancelToken())

    with ThreadPoolExecutor(8) as pool:
        pulled = list(pool.map(pull, [0, 1, 2, 3] * 2))
    client.close()
    assert [image.id for image in pulled] == [image.id for image in images] * 2
    log = http.log()
    for layer in images[3].layers:
        assert sum(log.count(f'"GET /v2/shared/{n}/blobs/{layer.digest}') for n in range(4)) == 1


def test_errors_name_registry_and_repository(http: LoopbackRegistry, store: Store) -> None:
    with pytest.raises(MoorageError) as caught:
        store.pull(f"{http.host}/no/such/thing:1")
    assert http.host in caught.value.message
    assert "no/such/thing" in caught.value.message
