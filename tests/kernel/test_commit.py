"""Commits, tags and history on a real daemon."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.images import build_busybox, push
from tests.registry import LoopbackRegistry

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with LoopbackRegistry() as registry, Daemon.temporary({"docker.io": registry.url}) as daemon:
        push(registry.url, "library/busybox", "latest", build_busybox(config={"Labels": {"from": "base"}}))
        daemon.warm_up("busybox")
        yield daemon


@pytest.fixture(autouse=True)
def no_containers(daemon: Daemon) -> Iterator[None]:
    yield
    daemon.remove_containers()


def test_a_commit_is_an_image_of_the_changes(daemon: Daemon) -> None:
    script = "echo new >/new; rm /etc/passwd; mkdir -m 700 /d; ln /new /d/hard; ln -s new /soft; chown 7:8 /d"
    daemon.cli("run", "--name", "box", "-e", "A=1", "--label", "own=2", "busybox", "sh", "-c", script)
    made = daemon.out(
        "commit", "-q", "-a", "me", "-m", "why", "-c", "CMD cat /new", "-c", "WORKDIR /d", "box", "team/made:1"
    )
    daemon.cli("rm", "box")
    assert daemon.out("run", "--rm", "team/made:1") == "new"
    look = "pwd; test ! -e /etc/passwd && stat -c '%a %u:%g' /d; stat -c %h hard; readlink /soft; echo $A"
    assert daemon.out("run", "--rm", "team/made:1", "sh", "-c", look).split() == ["/d", "700", "7:8", "2", "new", "1"]
    image = daemon.inspect("team/made:1")
    assert image["id"] == made
    assert image["labels"] == {"from": "base", "own": "2"}
    assert len(image["layers"]) == 2
    steps = json.loads(daemon.out("history", "--format", "json", "team/made:1"))
    assert (steps[0]["comment"], steps[0]["author"], steps[0]["size_bytes"]) == ("why", "me", 4)
    assert steps[0]["diff_id"] == image["layers"][1]["diff_id"]
    assert script in steps[0]["created_by"]
    daemon.cli("rmi", "team/made:1")


def test_a_running_container_is_held_still_and_goes_on(daemon: Daemon) -> None:
    daemon.cli("run", "-d", "--name", "busy", "busybox", "sh", "-c", "while :; do date >/tick; rm /tick; done")
    for _ in range(3):
        image = daemon.out("commit", "-q", "busy")
        assert daemon.inspect("busy")["state"] == "running"
        daemon.cli("rmi", image)
    assert daemon.out("exec", "busy", "echo", "alive") == "alive"


def test_refusals_name_the_cause_and_leave_nothing(daemon: Daemon) -> None:
    daemon.cli("run", "--name", "box", "busybox", "sh", "-c", "echo x >/.wh.etc")
    before = daemon.out("images", "-q", "--no-trunc")
    for arguments, message in (
        (("box", "x@sha256:" + "0" * 64), "has a digest"),
        (("-c", "RUN make", "box"), "no such instruction"),
        (("box",), 'cannot pack ".wh.etc"'),
        (("nosuch",), "no such container"),
    ):
        refused = daemon.cli("commit", *arguments, check=False)
        assert refused.returncode == 1
        assert message in refused.stderr
    assert daemon.out("images", "-q", "--no-trunc") == before
    assert list((daemon.root / "content" / "drafts").iterdir()) == []
    assert list((daemon.root / "overlay" / "staging").iterdir()) == []


def test_tags_are_names_that_move(daemon: Daemon) -> None:
    daemon.cli("tag", "busybox", "other:1")
    daemon.cli("run", "--name", "box", "busybox", "touch", "/x")
    made = daemon.out("commit", "-q", "box")
    daemon.cli("tag", made[7:19], "other:1")
    assert daemon.inspect("other:1")["id"] == made
    assert daemon.inspect("busybox")["tags"] == ["docker.io/library/busybox:latest"]
    assert "is not here" in daemon.cli("tag", "nosuch", "x", check=False).stderr
    daemon.cli("rmi", "other:1")


def test_rmi_says_which_containers_are_in_the_way_and_force_leaves_them(daemon: Daemon) -> None:
    daemon.cli("run", "--name", "box", "busybox", "touch", "/x")
    made = daemon.out("commit", "-q", "box", "held:1")
    daemon.cli("run", "-d", "--name", "holder", "held:1", "sleep", "100")
    refused = daemon.cli("rmi", "held:1", check=False)
    assert refused.returncode == 1
    assert "container holder is made from it" in refused.stderr
    assert "untagged: docker.io/library/held:1" in daemon.out("rmi", "-f", "held:1")
    assert daemon.out("exec", "holder", "ls", "/x") == "/x"
    assert made in daemon.out("images", "-q", "--no-trunc")
    daemon.cli("rm", "-f", "holder")
    assert made not in daemon.out("images", "-q", "--no-trunc")


def test_df_equals_du_and_prune_gives_back_what_it_says(daemon: Daemon) -> None:
    for number in range(3):
        daemon.cli("run", "--name", "box", "busybox", "sh", "-c", f"dd if=/dev/urandom of=/d{number} bs=1M count=2")
        daemon.cli("commit", "-q", "box")
        daemon.cli("rm", "box")
    daemon.cli("run", "-d", "--name", "writer", "busybox", "sh", "-c", "dd if=/dev/zero of=/z bs=1M count=3; sleep 100")
    before = agreed(daemon)
    assert (before["containers"]["count"], before["containers"]["in_use"]) == (1, 1)
    daemon.cli("image", "prune", "-f")
    after = agreed(daemon)
    assert after["images"] == 1
    assert before["total_bytes"] - after["total_bytes"] > 11 << 20
    assert "digraph" in daemon.out("viz")


def agreed(daemon: Daemon) -> dict[str, Any]:
    """What df says, which must be what du says within 1%."""
    daemon.out("run", "--rm", "busybox", "true")
    usage: dict[str, Any] = json.loads(daemon.out("df", "--format", "json"))
    du = int(subprocess.run(["du", "-s", "-B1", daemon.root], check=True, capture_output=True).stdout.split()[0])
    assert abs(usage["total_bytes"] - du) <= du / 100
    assert (
        sum(usage[part]["bytes"] for part in ("layers", "containers", "blobs")) + usage["other_bytes"]
        == usage["total_bytes"]
    )
    return usage
