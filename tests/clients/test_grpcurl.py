"""grpcurl, which knows of the API what reflection tells it, answers as the pages show; built here, so that no page's command is skipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.clients import build
from tests.daemon import Daemon
from tests.images import build_busybox, push
from tests.registry import LoopbackRegistry
from tools import readme

pytestmark = [pytest.mark.kernel, pytest.mark.clients, pytest.mark.timeout(600)]


def test_grpcurl_answers_as_the_pages_show(tmp_path: Path, registry: LoopbackRegistry) -> None:
    if shutil.which("go") is None:
        pytest.skip("not installed: go")
    programs = build.build_grpcurl(tmp_path / "bin")
    push(registry.url, "library/busybox", "latest", build_busybox())
    shown = [session for page in readme.PAGES for session in readme.sessions(page.read_text())]
    calls = [command for session in shown for command in session if command.program == "grpcurl"]
    assert len(calls) > 5
    with Daemon.temporary({"docker.io": registry.url}) as daemon:
        daemon.cli("pull", "busybox")
        environment = {**daemon.environment, "PATH": f"{programs}:{daemon.environment['PATH']}"}
        faults = [fault for command in calls for fault in readme.run(command, environment, daemon.url)]
    assert faults == []
