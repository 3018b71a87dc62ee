"""The parts of a start that need no container."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.server.libcontainer import channel, command, rlimits, sysctls
from moorage.server.libcontainer.errors import StartError, doing
from moorage.server.libcontainer.paths import open_directory, open_file, open_in_root, read_file
from moorage.server.libcontainer.validate import validate, validate_process


@pytest.mark.parametrize(
    ("beginning", "interpreter"),
    [
        (b"", ""),
        (b"\x7fELF", ""),
        (b"#!/bin/sh\necho", "/bin/sh"),
        (b"#! \t/bin/sh -e x\n", "/bin/sh"),
        (b"#!\n", ""),
        (b"#!/proc/self/exe", "/proc/self/exe"),
        (b"#!/a\0b\n", "/a"),
    ],
)
def test_shebang(beginning: bytes, interpreter: str) -> None:
    assert command.shebang(beginning) == interpreter


def test_environment() -> None:
    variables = ["PATH=/bin", "A=1", "A=x=y", "EMPTY=", "NOTHING", "=x"]
    assert command.environment_of(variables) == {"PATH": "/bin", "A": "x=y", "EMPTY": ""}
    assert command.environment_of(["HOME=/x"]) == {"HOME": "/x"}
    assert command.environment_of(["HOME=/x", "HOME="]) == {}


def test_search(tmp_path: Path) -> None:
    for directory in ("a", "b"):
        (tmp_path / directory).mkdir()
    (tmp_path / "a/tool").write_text("")
    (tmp_path / "b/tool").write_text("")
    (tmp_path / "b/tool").chmod(0o755)
    (tmp_path / "a/only").write_text("")
    environment = {"PATH": f"/nosuch:{tmp_path}/a:{tmp_path}/b"}
    assert command.find("tool", environment) == f"{tmp_path}/b/tool"
    for name, code in {"only": 126, "nothing": 127}.items():
        with pytest.raises(StartError) as caught:
            command.find(name, environment)
        assert caught.value.exit_code == code


limits = st.integers(-1, 100)


@given(limits, limits, limits)
def test_clamped_limits(soft: int, hard: int, allowed: int) -> None:
    def number(limit: int) -> float:
        return float("inf") if limit == -1 else limit

    low, high = rlimits.clamp(soft, hard, allowed)
    assert number(high) == min(number(hard), number(allowed))
    assert number(low) == min(number(soft), number(high))


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
        ("kernel.shmmax", "kernel/shmmax"),
    ],
)
def test_sysctls_of_namespaces(key: str, path: str) -> None:
    assert sysctls.path_of(key) == path


@pytest.mark.parametrize(
    "key",
    [
        "kernel.core_pattern",
        "vm.swappiness",
        "net",
        "",
        "net/../kernel/core_pattern",
        "net..x",
        "/net/x",
        "net/ipv4/./x",
        "net.ipv4.x y",
        "net.ipv4.x\n",
        "kernel.shmmax.x",
        "kernel/shm_rmid_forced+",
    ],
)
def test_sysctls_of_the_machine(key: str) -> None:
    with pytest.raises(StartError, match="does not belong to a namespace"):
        sysctls.path_of(key)


def test_messages() -> None:
    with pytest.raises(StartError) as caught, doing("mount tmpfs at", "/x"):
        raise OSError(errno.ENOENT, "whatever")
    assert (caught.value.message, caught.value.errno, caught.value.path, caught.value.exit_code) == (
        "cannot mount tmpfs at /x: no such file or directory",
        errno.ENOENT,
        "/x",
        128,
    )
    with pytest.raises(ValueError), doing("nothing"):
        raise ValueError


class Listener:
    """Both ends of a channel, the child's in `report`."""

    def __init__(self) -> None:
        self.ours, theirs = channel.pair()
        self.report = channel.Reporter(theirs, "at once")
        self.stages: list[str] = []
        self.consoles: list[int] = []

    def listen(self) -> tuple[channel.Credentials | None, str]:
        self.report.close()
        with ExitStack() as stack, self.ours:
            return channel.listen(self.ours, lambda name, at_ns=0: self.stages.append(name), self.consoles, stack)


def test_channel_of_a_start_that_succeeds() -> None:
    listener = Listener()
    listener.report.stage("rootfs")
    listener.report.console(1)
    listener.report.stage("exec")
    listener.report.ready((5, 6, (6, 7)))
    assert listener.listen() == ((5, 6, (6, 7)), "exec")
    assert listener.stages == ["rootfs", "exec"] and len(listener.consoles) == 1


def test_channel_of_a_death() -> None:
    listener = Listener()
    listener.report.stage("rootfs")
    assert listener.listen() == (None, "rootfs")


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StartError("cannot x", errno=2, path="/x", exit_code=127), ("cannot x", "user", 2, "/x", 127)),
        (StartError("cannot x", stage="other"), ("cannot x", "other", 0, "", 128)),
        (OSError(errno.EPERM, "No"), ("user: [Errno 1] No", "user", 1, "", 128)),
        (ValueError("bad"), ("user: bad", "user", 0, "", 128)),
        (StartError("x" * 100_000, path="\udc80ö" * 9000), ("x" * 4096, "user", 0, ("\udc80ö" * 9000)[:4096], 128)),
    ],
)
def test_channel_of_a_failure(ready: bool, error: Exception, expected: tuple[Any, ...]) -> None:
    listener = Listener()
    listener.report.stage("user")
    if ready:
        listener.report.ready((0, 0, ()))
    listener.report.failed(error)
    with pytest.raises(StartError) as caught:
        listener.listen()
    got = caught.value
    assert (got.message, got.stage, got.errno, got.path, got.exit_code) == expected


def test_channel_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "TIMEOUT_SECONDS", 0.01)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    with ours, theirs, ExitStack() as stack, pytest.raises(StartError, match="no progress"):
        channel.listen(ours, lambda _name, _at=0: None, [], stack)


def test_paths_inside_a_root(tmp_path: Path) -> None:
    (tmp_path / "root/real").mkdir(parents=True)
    (tmp_path / "root/absolute").symlink_to("/real")
    (tmp_path / "root/climbing").symlink_to("../../../real")
    (tmp_path / "root/dangling").symlink_to("/nowhere")
    (tmp_path / "root/proc").symlink_to("/real")
    root = os.open(tmp_path / "root", os.O_PATH)
    for path in ("/absolute/a/b", "/climbing/a/b", "/real/a/b"):
        os.close(open_directory(root, path))
    os.close(open_file(root, "/new/file"))
    for path in ("/dangling/x", "/proc", "/proc/x"):
        with pytest.raises(OSError):
            open_directory(root, path)
    with pytest.raises(OSError):
        open_in_root(root, "/proc")
    os.close(root)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "a",
        "absolute",
        "b",
        "climbing",
        "dangling",
        "file",
        "new",
        "proc",
        "real",
        "root",
    ]


def test_reading_inside_a_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    root = os.open(tmp_path, os.O_PATH)
    assert read_file(root, "/file", 5) == b"12345"
    with pytest.raises(FileNotFoundError):
        read_file(root, "/nosuch", 5)
    for path, limit in {"/file": 4, "/link": 9, "/fifo": 9, "/": 9}.items():
        with pytest.raises(StartError, match=f"cannot read {path}"):
            read_file(root, path, limit)
    os.close(root)


@pytest.mark.parametrize(
    "change",
    [
        {"hooks": {"poststart": [{"path": "/x"}]}},
        {"linux": {"uidMappings": [{}]}},
        {"linux": {"personality": {"domain": "LINUX32"}}},
        {"process": None},
        {"process": {"args": []}},
        {"process": {"args": [""]}},
        {"process": {"args": ["a\0"]}},
        {"process": {"args": ["a"], "env": ["a=\0"]}},
        {"process": {"args": ["a"], "cwd": "b"}},
        {"process": {"args": ["a"], "scheduler": {"policy": "SCHED_FIFO"}}},
        {"mounts": [{"destination": "x"}]},
        {"mounts": [{"destination": "/x", "uidMappings": [{}]}]},
    ],
)
def test_validation(change: dict[str, Any]) -> None:
    fine: dict[str, Any] = {"process": {"args": ["a"], "cwd": "/"}, "mounts": [], "linux": {}}
    validate(fine)
    validate_process(fine["process"])
    with pytest.raises(StartError) as caught:
        validate({**fine, **change})
    assert caught.value.stage == "config"
