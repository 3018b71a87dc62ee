"""What containers are to the out-of-memory killer, whatever the daemon is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from moorage.server.supervisor import oom


@pytest.fixture
def score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stands for /proc/self/oom_score_adj."""
    path = tmp_path / "oom_score_adj"
    monkeypatch.setattr(oom, "_OWN", path)
    oom.usual.cache_clear()
    yield path
    oom.usual.cache_clear()


@pytest.mark.parametrize(("daemon", "containers"), [(0, 0), (300, 300), (-999, 0)])
def test_containers_run_as_the_daemon_but_not_protected_as_it_is(score: Path, daemon: int, containers: int) -> None:
    score.write_text(f"{daemon}\n")
    oom.protect()
    assert score.read_text() == str(oom.LEAST)
    assert oom.usual() == containers
    oom.unprotect()
    assert score.read_text() == str(containers)
