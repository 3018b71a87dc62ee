"""Clients in Go and Node, generated from protos/, run a container through moorage.v1 and a pod through CRI."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.clients import build
from tests.daemon import Daemon
from tests.kernel.conftest import IMAGE

# Building needs a while on a cold cache.
pytestmark = [pytest.mark.kernel, pytest.mark.clients, pytest.mark.timeout(600)]

# How a status is called in each language's library.
NOT_FOUND = {"go": "NotFound", "node": "NOT_FOUND"}


class Client:
    """A built client; `run` answers what it saw."""

    def __init__(self, language: str, command: list[str]) -> None:
        self.language = language
        self._command = command

    def run(self, what: str, daemon: Daemon) -> dict[str, Any]:
        arguments = [what, daemon.url, IMAGE] + ([str(build.PROTOS)] if self.language == "node" else [])
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, f"{self.language} {what}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen


def need(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session", params=["go", "node"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Client:
    directory = tmp_path_factory.mktemp("moorage-clients")
    if request.param == "go":
        need("go")
        return Client("go", build.build_go(directory / "go"))
    need("node", "npm")
    return Client("node", build.build_node(directory / "node"))


def test_a_container_runs_to_its_end(client: Client, daemon: Daemon) -> None:
    seen = client.run("container", daemon)
    assert seen.pop("image_id").startswith("sha256:")
    assert seen == {
        "stdout": "got a line\n",
        "stderr": "complaint\n",
        "attached_exit": 7,
        "exit_code": 7,
        "reason": "Error",
        "logged_stdout": "got a line\n",
        "logged_stderr": "complaint\n",
        "gone": NOT_FOUND[client.language],
    }


def test_a_pod_runs_and_goes(client: Client, daemon: Daemon) -> None:
    seen = client.run("pod", daemon)
    assert seen.pop("image_ref").startswith("sha256:")
    assert seen == {
        "runtime_api": "v1",
        "pod_state": "SANDBOX_READY",
        "stdout": "from exec\n",
        "stderr": "complaint\n",
        "exec_exit": 3,
        "running": "CONTAINER_RUNNING",
        "labels": "client",
        "stopped": "CONTAINER_EXITED",
        "exit_code": 137,
        "gone": NOT_FOUND[client.language],
    }
