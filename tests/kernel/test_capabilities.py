"""Capabilities of child processes, as /proc shows them, and filters that the kernel has accepted."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from moorage.server.libcontainer import capabilities, seccomp
from moorage.server.libcontainer.seccomp_default import default_profile

pytestmark = pytest.mark.kernel

PR_SET_NO_NEW_PRIVS = 38
WANTED = ["CAP_CHOWN", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE"]
"""By number, as `sets` answers them."""


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` answers in a process of its own; an OSError or ValueError as its text."""
    answer, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                result = work()
            except (OSError, ValueError) as error:
                result = str(error)
            os.write(tell, json.dumps(result).encode())
        finally:
            os._exit(0)
    os.close(tell)
    with open(answer, "rb") as file:
        content = file.read()
    os.waitpid(pid, 0)
    return json.loads(content)


def sets() -> dict[str, list[str]]:
    """The five sets of the calling process, by the letters of /proc/self/status."""
    with open("/proc/self/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    masks = {key: int(lines[f"Cap{key}"], 16) for key in ("Bnd", "Eff", "Prm", "Inh", "Amb")}
    return {
        key: [name for number, name in enumerate(capabilities.ALL) if mask >> number & 1] for key, mask in masks.items()
    }


def same(names: list[str], **more: list[str]) -> dict[str, list[str]]:
    return {"bounding": names, "effective": names, "permitted": names, **more}


def test_as_root() -> None:
    def work() -> Any:
        capabilities.drop_bounding(same(WANTED))
        capabilities.apply(same(WANTED))
        return sets()

    assert in_child(work) == {"Bnd": WANTED, "Eff": WANTED, "Prm": WANTED, "Inh": [], "Amb": []}


def test_over_a_change_of_user() -> None:
    def work() -> Any:
        capabilities.drop_bounding(same(WANTED))
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        capabilities.apply(same(WANTED, inheritable=["CAP_CHOWN"], ambient=["CAP_CHOWN"]))
        return sets()

    found = in_child(work)
    assert found["Eff"] == found["Prm"] == found["Bnd"] == WANTED
    assert found["Inh"] == found["Amb"] == ["CAP_CHOWN"]


def test_none() -> None:
    def work() -> Any:
        capabilities.drop_bounding({})
        capabilities.apply({})
        return sets()

    assert in_child(work) == {"Bnd": [], "Eff": [], "Prm": [], "Inh": [], "Amb": []}


def test_what_is_outside_the_bounding_set_is_left_out() -> None:
    def work() -> Any:
        capabilities.drop_bounding({"bounding": ["CAP_CHOWN", "CAP_SETPCAP"]})
        capabilities.apply({"effective": list(capabilities.ALL), "permitted": list(capabilities.ALL)})
        return [sets()["Eff"], sorted(capabilities.bounding_set())]

    assert in_child(work) == [["CAP_CHOWN", "CAP_SETPCAP"], ["CAP_CHOWN", "CAP_SETPCAP"]]


@pytest.mark.parametrize("apply", [capabilities.drop_bounding, capabilities.apply])
def test_unknown_names_are_refused(apply: Callable[[Any], None]) -> None:
    assert in_child(lambda: apply(same(["CAP_FLY"]))) == "unknown capability 'CAP_FLY'"


def test_bounding_set_is_the_kernels() -> None:
    assert sorted(capabilities.bounding_set()) == sorted(sets()["Bnd"])


# --- seccomp ----------------------------------------------------------------------------------------------------------


def errors_of_calls() -> dict[str, int]:
    libc = ctypes.CDLL(None, use_errno=True)
    calls = {"unshare": (0x20000,), "mount": (None,) * 5, "umount2": (None, 0), "getppid": (), "syscall": (1000,)}
    found = {}
    for name, arguments in calls.items():
        found[name] = ctypes.get_errno() if getattr(libc, name)(*arguments) < 0 else 0
    return found


def test_the_kernel_takes_the_default_filter() -> None:
    program = seccomp.compile(default_profile(capabilities.DEFAULT))

    def work() -> Any:
        seccomp.load(program)
        return errors_of_calls()

    assert in_child(work) == {
        "unshare": errno.EPERM,
        "mount": errno.EPERM,
        "umount2": errno.EPERM,
        "getppid": 0,
        "syscall": errno.ENOSYS,
    }


def test_without_privileges_a_filter_needs_no_new_privs() -> None:
    program = seccomp.compile(default_profile(capabilities.DEFAULT))

    def work(no_new_privs: bool) -> Any:
        capabilities.apply({})
        if no_new_privs:
            ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        seccomp.load(program)
        return errors_of_calls()["unshare"]

    assert "cannot load the seccomp filter" in in_child(lambda: work(False))
    assert in_child(lambda: work(True)) == errno.EPERM


def test_threads_still_start_under_the_filter() -> None:
    program = seccomp.compile(default_profile(capabilities.DEFAULT))

    def work() -> Any:
        seccomp.load(program)
        results: list[int] = []
        thread = threading.Thread(target=results.append, args=(7,))
        thread.start()
        thread.join()
        return results

    assert in_child(work) == [7]
