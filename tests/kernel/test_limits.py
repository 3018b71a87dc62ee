"""Limits hold, and the kernel's own account says so."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from tests.daemon import Daemon

pytestmark = pytest.mark.kernel

IMAGE = "registry.example/test/busybox:1"
EAT = ("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")


def test_a_process_that_eats_memory_is_killed_and_that_is_said(daemon: Daemon) -> None:
    eaten = daemon.cli("run", "--rm", "-m", "32m", IMAGE, *EAT, check=False)
    assert eaten.returncode == 137
    assert "OOMKilled" in eaten.stderr


def test_an_oom_kill_is_in_the_state_and_the_events(daemon: Daemon) -> None:
    daemon.cli("run", "-d", "--name", "eater", "-m", "32m", IMAGE, *EAT)
    assert daemon.out("wait", "eater") == "137"
    found = daemon.inspect("eater")
    assert (found["state"], found["exit_code"], found["oom_killed"], found["reason"]) == (
        "exited",
        137,
        True,
        "OOMKilled",
    )
    actions = daemon.out(
        "events", "--after", "0", "--until", "0s", "-f", "object=eater", "--format", "json"
    ).splitlines()
    assert "oom" in [json.loads(line)["action"] for line in actions]


def test_a_killed_child_counts_as_an_oom_kill(daemon: Daemon) -> None:
    daemon.cli("run", "--name", "parent", "-m", "32m", IMAGE, "sh", "-c", f"{' '.join(EAT)}; exit 0")
    assert daemon.inspect("parent")["oom_killed"] is True


def cpu_account(daemon: Daemon, name: str) -> tuple[float, dict[str, Any]]:
    answer = json.loads(daemon.out("stats", "--no-stream", "--format", "json", name))
    stats: dict[str, Any] = answer[0] if isinstance(answer, list) else answer
    return datetime.fromisoformat(stats["time"][:26].rstrip("Z")).timestamp(), stats


def test_half_a_cpu_is_half_a_cpu(daemon: Daemon) -> None:
    daemon.cli("run", "-d", "--name", "spinner", "--cpus", "0.5", IMAGE, "sh", "-c", "while :; do :; done")
    begun, first = cpu_account(daemon, "spinner")
    ended, second = begun, first
    while ended - begun < 2:
        ended, second = cpu_account(daemon, "spinner")
    used = (int(second["cpu_usage_nanos"]) - int(first["cpu_usage_nanos"])) / 1e9
    period = 0.1
    # However the sample falls into the quota's periods, it holds at most one more period's half than its time has.
    assert used <= 0.5 * (ended - begun + 2 * period)
    assert int(second["cpu_throttled_nanos"]) > int(first["cpu_throttled_nanos"])


def test_the_pids_limit_stops_a_fork_bomb(daemon: Daemon) -> None:
    script = "i=0; while [ $i -lt 50 ]; do sleep 100 & i=$((i+1)); done; echo all"
    done = daemon.cli("run", "--rm", "--pids-limit", "10", IMAGE, "sh", "-c", script, check=False)
    assert done.returncode != 0
    assert "all" not in done.stdout
