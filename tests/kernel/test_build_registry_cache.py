"""Build caches in a registry: one daemon leaves what its steps made, another finds it done."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from tests.aftermath import whole
from tests.building import Project, daemon
from tests.daemon import Daemon
from tests.registry import LoopbackRegistry

__all__ = ["daemon"]

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

DOCKERFILE = """FROM BASE AS tools
RUN date +%N >/tool
RUN --mount=type=cache,target=/c date +%N >/unused
FROM BASE
WORKDIR /bin
COPY a /a
COPY --from=tools /tool /tool
RUN date +%N >/n; true
"""


@pytest.fixture
def project(daemon: Daemon, tmp_path: Path) -> Iterator[Project]:
    project = Project(daemon, tmp_path)
    project.write({"a": "1"})
    yield project
    forget(daemon)


def forget(daemon: Daemon) -> None:
    """Have neither the cache, nor images, nor contents that a build left."""
    daemon.cli("rmi", "-f", *daemon.out("images", "-q").split())
    daemon.cli("builder", "prune", "--all")
    daemon.cli("image", "prune", "-f")


def commands(steps: dict[str, str]) -> dict[str, str]:
    """How the steps ended that do something."""
    return {name: how for name, how in steps.items() if name.split()[0] in ("RUN", "COPY", "WORKDIR")}


def manifest(registry: LoopbackRegistry, repository: str, tag: str) -> dict[str, Any]:
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    with urllib3.PoolManager() as http:
        answer = http.request("GET", f"{registry.url}/v2/{repository}/manifests/{tag}", headers=accept)
    found: dict[str, Any] = json.loads(answer.data)
    return found


def digests(document: dict[str, Any]) -> set[str]:
    return {layer["digest"] for layer in document["layers"]}


def test_all_stages_are_found_done_on_another_daemon(
    project: Project, own_daemon: Daemon, registry: LoopbackRegistry
) -> None:
    ref = f"{registry.host}/test/buildcache:max"
    first = project.build(DOCKERFILE, "--cache-to", f"type=registry,ref={ref},mode=max")
    assert set(commands(first.steps).values()) == {"done"}
    document = manifest(registry, "test/buildcache", "max")
    assert document["artifactType"] == "application/vnd.moorage.buildcache.v1"
    # The working directory was there already: a step without a layer. The copied tool is the layer that it was made in.
    assert len(document["layers"]) == 4
    forget(project.daemon)
    for each in (project, Project(own_daemon, project.directory)):
        again = each.build("", "--cache-from", f"type=registry,ref={ref}")
        assert set(commands(again.steps).values()) == {"cached"}
        assert len(commands(again.steps)) == 6
        assert again.image["id"] == first.image["id"]
        assert each.run("cat", "/tool", "/n", "/a").splitlines()[2] == "1"
        whole(each.daemon)
    # What it made of them can be left elsewhere, though their blobs are not kept here.
    other = f"{registry.host}/test/buildcache:again"
    third = Project(own_daemon, project.directory).build("", "--cache-to", f"type=registry,ref={other},mode=max")
    assert third.warnings == []
    assert digests(manifest(registry, "test/buildcache", "again")) == digests(document)


def test_with_mode_min_only_the_steps_of_the_image(project: Project, registry: LoopbackRegistry) -> None:
    ref = f"{registry.host}/test/buildcache:min"
    project.build(DOCKERFILE, "--cache-to", f"type=registry,ref={ref}")
    forget(project.daemon)
    again = project.build("", "--cache-from", ref)
    steps = commands(again.steps)
    assert [steps[name] for name in ("WORKDIR /bin", "COPY a /a", "RUN date +%N >/tool")] == [
        "cached",
        "cached",
        "done",
    ]
    # The tool is another one now, and so is all that is on top of it.
    assert [steps[name] for name in ("COPY --from=tools /tool /tool", "RUN date +%N >/n; true")] == ["done", "done"]


def test_the_layer_of_a_linked_copy_is_fetched_for_another_base(project: Project, registry: LoopbackRegistry) -> None:
    ref = f"{registry.host}/test/buildcache:linked"
    dockerfile = "FROM BASE\nARG v\nRUN echo $v >/v\nCOPY --link a /a\nCOPY a /b\n"
    project.build(dockerfile, "--build-arg", "v=1", "--cache-to", f"type=registry,ref={ref}")
    forget(project.daemon)
    again = project.build("", "--build-arg", "v=2", "--cache-from", ref)
    assert list(commands(again.steps).values()) == ["done", "cached", "done"]
    assert project.run("cat", "/v", "/a", "/b") == "2\n11"
    whole(project.daemon)


def test_a_layer_that_is_gone_from_the_registry_is_made_again(project: Project, registry: LoopbackRegistry) -> None:
    ref = f"{registry.host}/test/lossy:1"
    project.build("FROM BASE\nRUN date +%N >/n\n", "--cache-to", f"type=registry,ref={ref}")
    (layer,) = manifest(registry, "test/lossy", "1")["layers"]
    with urllib3.PoolManager() as http:
        gone = http.request("DELETE", f"{registry.url}/v2/test/lossy/blobs/{layer['digest']}")
    assert gone.status == 202
    forget(project.daemon)
    again = project.build("", "--cache-from", ref)
    assert commands(again.steps) == {"RUN date +%N >/n": "done"}
    assert "a cached layer cannot be had, and is made again" in again.warnings[0]


def test_a_cache_is_no_image_and_a_cache_that_cannot_be_left_fails_the_build(
    project: Project, registry: LoopbackRegistry
) -> None:
    ref = f"{registry.host}/test/buildcache:plain"
    project.build("FROM BASE\nRUN true\n", "--cache-to", f"type=registry,ref={ref}")
    assert "it is no container image" in project.daemon.cli("pull", ref, check=False).stderr
    lost = project.build("", "--cache-to", "type=registry,ref=127.0.0.1:1/x:1", tag="unnamed:1", check=False)
    assert "127.0.0.1:1" in lost.error
    assert "unnamed" not in project.daemon.out("images")
