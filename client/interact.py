"""Joins a session to the user's own stdin, stdout, stderr, signals and terminal.

Three threads: the main one writes output, one reads stdin, one passes on signals and sizes. Signal handlers do no
more than put a word on a `SimpleQueue`, whose `put` is reentrant, so that they cannot meet a lock that the
interrupted code holds.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType

from moorage.client import terminal
from moorage.client.errors import MoorageError, Unavailable
from moorage.client.streams import Session
from moorage.v1 import runtime_pb2

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
GIVE_UP_AFTER = 3
"""So many Ctrl-C end the client when the process does not end by them."""
CHUNK_BYTES = 64 << 10

Word = str | None
"""A signal's name, `resize`, or None for the end."""


@dataclass(frozen=True)
class Wishes:
    """What the user wants: to type into the process, a terminal, the keys that detach, signals passed on."""

    stdin: bool = False
    tty: bool = False
    detach_keys: bytes = b""
    forward_signals: bool = True

    @property
    def raw(self) -> bool:
        return self.tty and self.stdin and os.isatty(terminal.STDIN)

    def check(self) -> None:
        """A terminal for the container needs one here to type on."""
        if self.tty and self.stdin and not os.isatty(terminal.STDIN):
            raise MoorageError("stdin is not a terminal", hint="leave out -t, or run it from a terminal")


def interact(open_session: Callable[[], Session], wishes: Wishes) -> runtime_pb2.Exited | None:
    """Open a session and stay with it until its process ends; answers how it ended, None when the user detached.

    Raises MoorageError when the session cannot be opened or breaks off.
    """
    words: SimpleQueue[Word] = SimpleQueue()
    with ExitStack() as stack:
        stack.enter_context(_handlers(words, wishes))
        session = stack.enter_context(open_session())
        if wishes.raw:
            stack.enter_context(terminal.raw(terminal.STDIN))
        stack.enter_context(_thread(lambda: _pass_on(words, session), lambda: words.put(None)))
        detached = threading.Event()
        if wishes.stdin:
            stack.enter_context(_stdin_pump(session, wishes, detached))
        for output in session:
            terminal.write_all(terminal.STDOUT if output.stream == "stdout" else terminal.STDERR, output.data)
    if detached.is_set():
        return None
    if session.exited is None:
        raise Unavailable("the daemon closed the stream before the process ended")
    return session.exited


@contextmanager
def _handlers(words: SimpleQueue[Word], wishes: Wishes) -> Iterator[None]:
    interrupts = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        words.put(signal.Signals(number).name)
        interrupts += number == signal.SIGINT
        if interrupts >= GIVE_UP_AFTER:
            raise KeyboardInterrupt

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    def resize(number: int, frame: FrameType | None) -> None:
        words.put("resize")

    handlers = {signal.SIGWINCH: resize} if wishes.tty else {}
    if wishes.raw:  # Ctrl-C comes as a byte; a signal is for this process, which must still restore the terminal
        handlers |= dict.fromkeys((signal.SIGTERM, signal.SIGHUP), leave)
    elif wishes.forward_signals:
        handlers |= dict.fromkeys(FORWARDED, forward)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(words: SimpleQueue[Word], session: Session) -> None:
    while (word := words.get()) is not None:
        if word != "resize":
            session.signal(word)
        elif (size := terminal.size()) is not None:
            session.resize(*size)


@contextmanager
def _thread(run: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join()


@contextmanager
def _stdin_pump(session: Session, wishes: Wishes, detached: threading.Event) -> Iterator[None]:
    """Pass stdin on until it ends, the keys are typed, or the block is left."""
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC)
    keys = terminal.DetachKeys(wishes.detach_keys if wishes.raw else b"")

    def pump() -> None:
        for data in _chunks(wake_read):
            passed, detach = keys.feed(data)
            if passed and not session.write(passed):
                return
            if detach:
                detached.set()
                session.close()
                return
        session.write(keys.rest())
        session.close_stdin()

    def stop() -> None:
        session.close()  # wakes a write that waits for the daemon
        os.write(wake_write, b"\0")

    try:
        with _thread(pump, stop):
            yield
    finally:
        os.close(wake_read)
        os.close(wake_write)


def _chunks(wake: int) -> Iterator[bytes]:
    """Stdin piece by piece; ends at its end, and when `wake` has something to read."""
    poller = select.poll()
    poller.register(terminal.STDIN, select.POLLIN)
    poller.register(wake, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if wake in ready:
            return
        try:
            data = os.read(terminal.STDIN, CHUNK_BYTES)
        except BlockingIOError:
            continue
        except OSError:  # EIO: the terminal has gone
            return
        if not data:
            return
        yield data
