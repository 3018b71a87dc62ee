"""Projects to build: a directory with a Dockerfile, and what a build of it told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon
from tests.registry import LoopbackRegistry

BASE = "registry.example/test/busybox:1"


class Built:
    """What `moorage build --progress=json` printed."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.error = done.stderr
        self.messages: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["kind"] == kind]

    @property
    def image(self) -> dict[str, Any]:
        """The image; only of a build that succeeded."""
        (image,) = self._of("image")
        return image

    @property
    def steps(self) -> dict[str, str]:
        """How each step ended, `cached`, `done` or `failed`, by its instruction."""
        names = {each["step"]: each["name"].partition("] ")[2] or each["name"] for each in self._of("begun")}
        return {
            names[each["step"]]: "failed" if each["error"] else "cached" if each["cached"] else "done"
            for each in self._of("ended")
        }

    @property
    def output(self) -> str:
        """All that commands wrote."""
        return "".join(each["data"] for each in self._of("output") if each["stream"] != "status")

    @property
    def warnings(self) -> list[str]:
        return [each["message"] for each in self._of("warning")]


class Project:
    """A directory to build."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.daemon = daemon
        self.directory = directory

    def write(self, files: Mapping[str, str | bytes]) -> None:
        for name, data in files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if isinstance(data, bytes) else data.encode())

    def build(self, dockerfile: str = "", *options: str, tag: str = "app:1", check: bool = True) -> Built:
        """Build; `BASE` in the Dockerfile is the image that is there."""
        if dockerfile:
            self.write({"Dockerfile": dockerfile.replace("BASE", BASE)})
        done = self.daemon.cli("build", "--progress", "json", "-t", tag, *options, str(self.directory), check=False)
        built = Built(done)
        if check and built.code:
            raise AssertionError(f"build failed: {built.error}\n{built.output}")
        return built

    def run(self, *command: str, tag: str = "app:1") -> str:
        """What a command of the image prints."""
        return self.daemon.out("run", "--rm", tag, *command)


@pytest.fixture(scope="module")
def daemon(registry: LoopbackRegistry) -> Iterator[Daemon]:
    """One for the builds of a module; import it there."""
    with Daemon.temporary({"registry.example": registry.url}) as daemon:
        daemon.warm_up(BASE)
        yield daemon


@pytest.fixture
def project(daemon: Daemon, tmp_path: Path) -> Project:
    return Project(daemon, tmp_path)
