"""A pull that is interrupted leaves no image, and the next one takes up where it stopped."""

from __future__ import annotations

import random
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.criclient import until
from tests.daemon import Daemon
from tests.images import build_busybox, push, tar_layer
from tests.registry import LoopbackRegistry

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

IMAGE = "registry.example/test/large:1"
LAYER = 40 << 20  # more behind the gate than the sockets on the way can hold
GATE = 16 << 20
STORED = 12 << 20  # of what passes the gate, what is waited for before the pull is cut short
CHUNK = 1 << 16


class Gate:
    """A TCP relay in front of a registry that lets `limit` bytes come from it, and then holds back until it is opened."""

    def __init__(self, port: int, limit: int) -> None:
        self.passed = 0
        self.reached, self.opened = threading.Event(), threading.Event()
        self._port, self._limit = port, limit
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._server]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def open(self) -> None:
        """Nothing is held back any more; counting begins anew."""
        self.passed = 0
        self.opened.set()

    def close(self) -> None:
        self.opened.set()
        for each in self._sockets:
            with suppress(OSError):  # not connected any more
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:  # shut down
                return
            self._sockets.append(client)
            try:
                upstream = socket.create_connection(("127.0.0.1", self._port))
            except ConnectionRefusedError:
                client.shutdown(socket.SHUT_RDWR)
                continue
            self._sockets.append(upstream)
            for source, target, counted in ((client, upstream, False), (upstream, client, True)):
                thread = threading.Thread(target=self._relay, args=(source, target, counted))
                self._threads.append(thread)
                thread.start()

    def _relay(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with suppress(OSError):  # one of the two has gone
            while data := source.recv(CHUNK):
                target.sendall(data)
                if counted:
                    self._count(len(data))
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _count(self, size: int) -> None:
        with self._lock:
            self.passed += size
            held = self.passed >= self._limit and not self.opened.is_set()
        if held:
            self.reached.set()
            self.opened.wait()


@contextmanager
def gated() -> Iterator[tuple[LoopbackRegistry, Gate, Daemon]]:
    """A registry with a large image, a gate in front of it, and a daemon that pulls through the gate."""
    content = random.Random(7).randbytes(LAYER)
    with ExitStack() as exits:
        registry = exits.enter_context(LoopbackRegistry())
        push(registry.url, "test/large", "1", build_busybox(extra_layers=[tar_layer({"large": content})]))
        gate = Gate(registry.port, GATE)
        exits.callback(gate.close)
        settings = "[registry]\nretries = 1\n"
        yield registry, gate, exits.enter_context(Daemon.temporary({"registry.example": gate.url}, settings=settings))


def stored(daemon: Daemon) -> int:
    """The bytes of blobs on their way that the daemon has; one that arrives at this moment does not count."""
    total = 0
    for path in (daemon.root / "content" / "ingest").iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def wait_until_held(daemon: Daemon, gate: Gate) -> None:
    """Wait until the gate holds, and what has passed it is not in the sockets on the way any more but with the daemon."""
    assert gate.reached.wait(60)
    until(lambda: stored(daemon) >= STORED, 60)


def resumes(daemon: Daemon, gate: Gate) -> None:
    """The image is not there; the next pull brings what is missing, not all of it."""
    assert daemon.out("images", "-q") == ""
    gate.open()
    daemon.cli("pull", "-q", IMAGE)
    assert 0 < gate.passed < LAYER - GATE // 2
    assert daemon.out("run", "--rm", IMAGE, "wc", "-c", "/large") == f"{LAYER} /large"


def test_an_interrupt_stops_the_pull_and_the_next_resumes() -> None:
    with gated() as (_, gate, daemon):
        with daemon.popen("pull", IMAGE) as pulling:
            wait_until_held(daemon, gate)
            pulling.send_signal(signal.SIGINT)
            pulling.communicate(timeout=60)
        assert pulling.returncode == 130
        resumes(daemon, gate)


def test_a_registry_that_dies_fails_the_pull_and_the_next_resumes() -> None:
    with gated() as (registry, gate, daemon):
        with daemon.popen("pull", IMAGE) as pulling:
            wait_until_held(daemon, gate)
            registry.kill()
            gate.opened.set()
            _, printed = pulling.communicate(timeout=100)
        assert pulling.returncode == 1
        assert b"from registry 127.0.0.1" in printed
        registry.start()
        resumes(daemon, gate)
