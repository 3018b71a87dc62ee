"""The command line on a terminal of its own: raw bytes, resize, detach keys, and the terminal as it was before."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from moorage.v1 import image_pb2, runtime_pb2
from tests.api.fake_daemon import FakeDaemon

PATIENCE = 60
ID = "c0ffee" + "0" * 58


class Terminal:
    """A pseudo-terminal with `moorage` on it."""

    def __init__(self, process: subprocess.Popen[bytes], master: int, slave: int) -> None:
        self.process = process
        self.master = master
        self.slave = slave
        self.seen = b""

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def expect(self, text: bytes) -> None:
        """Read until the terminal has shown `text`, and forget all before its end."""
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0], (
                f"{text!r} in {self.seen!r}"
            )
            self.seen += os.read(self.master, 65536)
        self.seen = self.seen[self.seen.index(text) + len(text) :]

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON


@contextmanager
def terminal(daemon: FakeDaemon, *arguments: str, columns: int = 100, rows: int = 30) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    moorage = [sys.executable, "-m", "moorage.client.main", "-H", daemon.url, *arguments]
    try:
        # The kernel signals a new size to the terminal's session only.
        with subprocess.Popen(
            ["setsid", "--ctty", "--wait", *moorage], stdin=slave, stdout=slave, stderr=slave
        ) as process:
            try:
                yield Terminal(process, master, slave)
                process.wait(PATIENCE)
            finally:
                process.kill()
    finally:
        os.close(slave)
        os.close(master)


def shell(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[runtime_pb2.AttachResponse]:
    """Tells what it is sent, and ends by `q`."""
    opening = next(requests).open
    yield runtime_pb2.AttachResponse(started=runtime_pb2.Started(pid=7))
    yield runtime_pb2.AttachResponse(stdout=f"{opening.size.width}x{opening.size.height} {opening.stderr}\r\n".encode())
    for request in requests:
        kind = request.WhichOneof("message")
        if kind == "resize":
            yield runtime_pb2.AttachResponse(stdout=f"now {request.resize.width}x{request.resize.height}\r\n".encode())
        elif kind == "signal":
            yield runtime_pb2.AttachResponse(stdout=request.signal.encode())
        else:
            yield runtime_pb2.AttachResponse(stdout=f"got {request.stdin.hex()}\r\n".encode())
            if request.stdin == b"q":
                break
    yield runtime_pb2.AttachResponse(exited=runtime_pb2.Exited(exit_code=3))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path)
    daemon.script["CreateContainer"] = runtime_pb2.CreateContainerResponse(id=ID)
    daemon.script["Attach"] = shell
    with daemon.serving():
        yield daemon


def test_a_terminal_passes_every_byte_as_it_is(daemon: FakeDaemon) -> None:
    with terminal(daemon, "run", "-it", "busybox") as screen:
        screen.expect(b"100x30 False\r\n")
        for key in (b"\x03", b"\x1a", b"\r", b"\x04"):  # Ctrl-C, Ctrl-Z, Enter, Ctrl-D: a cooked terminal acts on each
            screen.type(key)
            screen.expect(f"got {key.hex()}\r\n".encode())
        assert screen.is_raw()
        screen.type(b"q")
        screen.expect(b"got 71\r\n")
        screen.process.wait(PATIENCE)
        assert not screen.is_raw()
    assert screen.process.returncode == 3


def test_a_new_size_is_passed_on(daemon: FakeDaemon) -> None:
    with terminal(daemon, "run", "-it", "busybox") as screen:
        screen.expect(b"100x30")
        screen.resize(80, 25)
        screen.expect(b"now 80x25\r\n")
        screen.type(b"q")
    assert screen.process.returncode == 3


def test_detach_keys_leave_the_container_alone(daemon: FakeDaemon) -> None:
    with terminal(daemon, "run", "-it", "busybox") as screen:
        screen.expect(b"100x30")
        screen.type(b"\x10")
        screen.type(b"x")
        screen.expect(b"got 1078\r\n")  # Ctrl-P alone is held back until it is clear that it is nothing more
        screen.type(b"\x10\x11")
        screen.process.wait(PATIENCE)
        assert not screen.is_raw()
    assert screen.process.returncode == 0
    assert not daemon.requests("KillContainer")


def test_other_detach_keys(daemon: FakeDaemon) -> None:
    with terminal(daemon, "run", "-it", "--detach-keys", "ctrl-x,d", "busybox") as screen:
        screen.expect(b"100x30")
        screen.type(b"\x10\x11")
        screen.expect(b"got 1011\r\n")
        screen.type(b"\x18d")
    assert screen.process.returncode == 0


def test_a_signal_to_the_client_restores_the_terminal(daemon: FakeDaemon) -> None:
    with terminal(daemon, "run", "-it", "busybox") as screen:
        screen.expect(b"100x30")
        os.kill(screen.process.pid, signal.SIGTERM)
        screen.process.wait(PATIENCE)
        assert not screen.is_raw()
    assert screen.process.returncode == 128 + signal.SIGTERM


def test_without_interactive_ctrl_c_is_a_signal(daemon: FakeDaemon) -> None:
    with terminal(daemon, "run", "-t", "busybox") as screen:
        screen.expect(b"100x30")
        assert not screen.is_raw()
        screen.type(b"\x03")
        screen.expect(b"SIGINT")
        os.kill(screen.process.pid, signal.SIGKILL)


def test_exec_has_a_terminal_too(daemon: FakeDaemon) -> None:
    def whoami(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[runtime_pb2.ExecResponse]:
        opening = next(requests).open
        yield runtime_pb2.ExecResponse(started=runtime_pb2.Started(pid=8))
        yield runtime_pb2.ExecResponse(stdout=f"{opening.tty} {opening.size.width}\r\n".encode())
        yield runtime_pb2.ExecResponse(exited=runtime_pb2.Exited(exit_code=0))

    daemon.script["Exec"] = whoami
    with terminal(daemon, "exec", "-it", "box", "sh", columns=77) as screen:
        screen.expect(b"True 77\r\n")
    assert screen.process.returncode == 0


def test_pull_draws_bars(daemon: FakeDaemon) -> None:
    digest = "sha256:" + "ab" * 32
    daemon.script["PullImage"] = [
        image_pb2.PullImageResponse(
            digest=digest, stage=image_pb2.PULL_STAGE_DOWNLOADING, current_bytes=5_000_000, total_bytes=10_000_000
        ),
        image_pb2.PullImageResponse(digest=digest, stage=image_pb2.PULL_STAGE_DONE, total_bytes=10_000_000),
        image_pb2.PullImageResponse(image=image_pb2.Image(id=digest, size_bytes=20_000_000)),
    ]
    with terminal(daemon, "pull", "busybox") as screen:
        screen.expect(b"abababababab")
        screen.expect(b"10.0/10.0 MB")
        screen.expect(f"busybox: {digest} (20MB)".encode())
    assert screen.process.returncode == 0


def test_stats_are_drawn_in_place(daemon: FakeDaemon) -> None:
    def samples(request: Any, context: grpc.ServicerContext) -> Iterator[runtime_pb2.GetStatsResponse]:
        for share in (500_000_000, 250_000_000):
            stats = runtime_pb2.ContainerStats(
                id=ID, name="box", cpu_usage_nano_cores=share, memory_limit_bytes=1 << 30
            )
            yield runtime_pb2.GetStatsResponse(stats=[stats])

    daemon.script["GetStats"] = samples
    with terminal(daemon, "stats") as screen:
        screen.expect(b"\x1b[2J\x1b[H")
        screen.expect(b"\x1b[HCONTAINER ID")
        screen.expect(b"50.00%")
        screen.expect(b"\x1b[HCONTAINER ID")
        screen.expect(b"25.00%")
    assert screen.process.returncode == 0
