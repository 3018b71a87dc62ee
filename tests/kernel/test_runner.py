"""Commands that runners execute, see server/libcontainer/runner.py: what is not as with a fork, and must look as if it were."""

from __future__ import annotations

import os
import signal

import pytest

from moorage.server.libcontainer import cgroups
from tests.supervised import EXECS, Image, begin, command, config, image, runner_exec, supervised
from tests.supervised import Running as Target

pytestmark = pytest.mark.kernel

__all__ = ["image"]


def sh(script: str) -> dict[str, object]:
    return command("sh", "-c", script)


def beginning(image: Image) -> Target:
    target = begin(image, config(sh("echo ready; exec sleep 1000")))
    assert target.line() == "ready"
    return target


@supervised
def test_the_command_is_as_a_fork_would_have_it(image: Image) -> None:
    """Signals, descriptors, limits, namespaces, privileges: line by line the same."""
    target = beginning(image)
    look = sh(
        "busybox ls /proc/$$/fd; for ns in /proc/self/ns/*; do busybox readlink $ns; done;"
        "busybox grep -E '^(Sig|Cap|Uid|Gid|Groups|NoNewPrivs|Seccomp|Umask)' /proc/self/status | busybox grep -v SigQ;"
        "cat /proc/self/limits /proc/self/oom_score_adj; test $(busybox ps -o pid,sid | busybox grep -c '^ *'$$' *'$$) = 1; echo $?"
    )
    forked, ran = (execute(target, look).finish() for execute in EXECS.values())
    target.kill()
    # The signals 32 and 33 belong to the C library, which has them ignored in what it spawns.
    ignored = "SigIgn:\t0000000180000000", "SigIgn:\t0000000000000000"
    assert forked.code == 0
    assert ran == forked._replace(output=forked.output.replace(ignored[1], ignored[0]))


@supervised
def test_the_runner_leaves_the_cgroup(image: Image) -> None:
    target = beginning(image)
    execution = runner_exec(target, sh("echo here; exec sleep 1000"))
    assert execution.line() == "here"
    cgroup = cgroups.detect().cgroup(f"/moorage-test-{target.process.pid}")
    for _ in range(1000):
        if cgroup.pids() == [execution.process.pid]:
            break
    assert cgroup.pids() == [execution.process.pid]
    os.kill(execution.process.pid, signal.SIGTERM)
    assert execution.finish().code == -signal.SIGTERM
    target.kill()
