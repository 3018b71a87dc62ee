"""Commands that runners execute, see server/libcontainer/runner.py: what is not as with a fork, and must look as if it were."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from moorage.server.libcontainer import cgroups
from moorage.server.libcontainer.cgroups import files
from tests.supervised import EXECS, Image, begin, command, config, image, runner_exec, supervised
from tests.supervised import Running as Target

pytestmark = pytest.mark.kernel

__all__ = ["image"]


def sh(script: str) -> dict[str, object]:
    return command("sh", "-c", script)


def wait_until(condition: Callable[[], bool]) -> None:
    assert files.wait_until(condition, 5)


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
    wait_until(lambda: cgroup.pids() == [execution.process.pid])
    os.kill(execution.process.pid, signal.SIGTERM)
    assert execution.finish().code == 128 + signal.SIGTERM
    target.kill()


@supervised
def test_the_command_ends_with_who_asked_for_it(image: Image) -> None:
    target = beginning(image)
    execution = runner_exec(target, sh("sleep 1000 & echo here; exec sleep 1000"))
    assert execution.line() == "here"
    cgroup = cgroups.detect().cgroup(f"/moorage-test-{target.process.pid}")
    wait_until(lambda: len(cgroup.pids()) == 2)
    assert execution.runner is not None
    execution.runner.close()
    wait_until(lambda: not cgroup.pids())
    os.waitpid(-1, 0)
    os.close(execution.reader)
    execution.clean_up()
    target.kill()


@supervised
def test_what_a_command_leaves_behind_lives_on(image: Image) -> None:
    target = beginning(image)
    execution = runner_exec(target, sh("sleep 1000 >/dev/null 2>&1 & echo $!"))
    cgroup = cgroups.detect().cgroup(f"/moorage-test-{target.process.pid}")
    assert execution._replace(clean_up=lambda: None).finish().code == 0
    (left,) = cgroup.pids()
    os.kill(left, signal.SIGKILL)
    target.kill()
    execution.clean_up()
