"""Mount options and namespaces of a config, as data."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.libcontainer import namespaces, syscalls
from moorage.server.libcontainer.cgroupfs import Hierarchy, own_directories
from moorage.server.libcontainer.errors import StartError
from moorage.server.libcontainer.mounts import MountOptions, parse_options, plan
from moorage.server.libcontainer.paths import clean, system_path

RO, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], MountOptions()),
        (["defaults"], MountOptions()),
        (["nosuid", "noexec", "nodev", "ro"], MountOptions(RO | NOSUID | NODEV | NOEXEC)),
        (["ro", "rw"], MountOptions()),
        (["rw", "ro"], MountOptions(RO)),
        (["nosuid", "suid", "exec", "dev"], MountOptions()),
        (["rbind", "ro", "rprivate"], MountOptions(RO, 0, syscalls.MS_PRIVATE, True, True)),
        (["bind", "slave"], MountOptions(0, 0, syscalls.MS_SLAVE, True, False)),
        (["rbind", "rro", "rnosuid"], MountOptions(0, RO | NOSUID, 0, True, True)),
        (["rbind", "rro", "rrw"], MountOptions(0, 0, 0, True, True)),
        (["noatime"], MountOptions(syscalls.MOUNT_ATTR_NOATIME)),
        (["strictatime", "mode=755", "size=64k"], MountOptions(0x20, parameters=(("mode", "755"), ("size", "64k")))),
        (["newinstance", "gid=5"], MountOptions(parameters=(("newinstance", None), ("gid", "5")))),
        (["relatime"], MountOptions()),
        (["lowerdir=/a:/b", "x="], MountOptions(parameters=(("lowerdir", "/a:/b"), ("x", "")))),
    ],
)
def test_options(options: list[str], expected: MountOptions) -> None:
    assert parse_options(options) == expected


@given(st.lists(st.text(max_size=12)))
def test_any_option_is_taken_or_passed_on(options: list[str]) -> None:
    parsed = parse_options(options)
    passed = {key if value is None else f"{key}={value}" for key, value in parsed.parameters}
    assert passed <= set(options)


@given(st.text(alphabet="/.ab", max_size=20))
def test_clean_paths_do_not_climb(path: str) -> None:
    parts = clean(path).split("/")
    assert parts[0] == "" and ".." not in parts and "." not in parts
    assert clean(clean(path)) == clean(path)


@pytest.mark.parametrize(
    ("path", "yes"),
    [("/proc", True), ("/proc/x", True), ("/dev", True), ("/sys/fs", True), ("/", False), ("/devices", False)],
)
def test_system_paths(path: str, yes: bool) -> None:
    assert system_path(path) == yes


def test_plan() -> None:
    mounts = plan(
        [
            {"destination": "/proc/", "type": "proc", "source": "proc"},
            {"destination": "/a/../b", "source": "/x", "options": ["rbind"]},
            {"destination": "/c", "type": "none", "source": "/x", "options": ["bind"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup2"},
            {"destination": "/proc/meminfo", "type": "bind", "source": "/var/lib/lxcfs/proc/meminfo"},
        ]
    )
    assert [(mount.destination, mount.kind) for mount in mounts] == [
        ("/proc", "proc"),
        ("/b", "bind"),
        ("/c", "bind"),
        ("/sys/fs/cgroup", "cgroup"),
        ("/proc/meminfo", "bind"),
    ]


@pytest.mark.parametrize(
    "mount",
    [
        {"destination": "/", "type": "tmpfs"},
        {"destination": "/..", "type": "tmpfs"},
        {"destination": "/proc", "type": "tmpfs"},
        {"destination": "/proc/self", "type": "tmpfs"},
        {"destination": "/x/../proc/1", "type": "bind", "source": "/y"},
        {"destination": "/x", "type": "bind", "source": "y"},
        {"destination": "/x", "type": "bind", "source": "/y", "options": ["size=1"]},
    ],
)
def test_refused(mount: dict[str, Any]) -> None:
    with pytest.raises(StartError, match="cannot mount at"):
        plan([mount])


def test_namespaces() -> None:
    planned = namespaces.plan(
        [
            {"type": "pid"},
            {"type": "mount"},
            {"type": "cgroup"},
            {"type": "ipc", "path": "/i"},
            {"type": "uts"},
            {"type": "network", "path": ""},
        ]
    )
    new = syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNET
    assert planned == namespaces.Namespaces(new, ((syscalls.CLONE_NEWIPC, "/i"),), "", "")
    assert planned.own_uts


def test_mount_namespace_is_always_new() -> None:
    planned = namespaces.plan([{"type": "pid", "path": "/p"}])
    assert planned == namespaces.Namespaces(0, (), "/p", None)


@pytest.mark.parametrize(
    "namespace", [{"type": "user"}, {"type": "time"}, {"type": "mount", "path": "/m"}, {"type": ""}]
)
def test_namespaces_that_cannot_be_had(namespace: dict[str, str]) -> None:
    with pytest.raises(StartError, match="not supported"):
        namespaces.plan([namespace])


V1 = Hierarchy(1, "/cg/cpu,cpuacct", frozenset({"rw", "cpuacct", "cpu"}))
NAMED = Hierarchy(1, "/cg/systemd", frozenset({"rw", "xattr", "name=systemd"}))
V2 = Hierarchy(2, "/cg/unified", frozenset({"rw", "nsdelegate"}))


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([V1, NAMED, V2], [(NAMED, "/cg/systemd/"), (V1, "/cg/cpu,cpuacct/a/b:c")]),
        ([V2], [(V2, "/cg/unified/d")]),
        ([], []),
    ],
)
def test_own_cgroups(known: list[Hierarchy], expected: list[tuple[Hierarchy, str]]) -> None:
    lines = ["3:name=systemd:/\n", "2:cpu,cpuacct:/a/b:c\n", "1:memory:/m\n", "0::/d\n"]
    assert own_directories(lines, known) == expected
