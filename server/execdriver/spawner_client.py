"""The daemon's way to its spawner: starts it, starts it again when it has died, and has tasks and pod supervisors forked there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import moorage.server.supervisor
from moorage.server import errors
from moorage.server.cancel import CancelToken
from moorage.server.libcontainer.channel import pair
from moorage.server.supervisor.protocol import BEGUN, Channel, pack_message, send_all

PACKAGE = Path(moorage.server.supervisor.__file__ or "").parent
"""Not resolved: in an editable install the way through the links is the import root."""

BOOT = PACKAGE / "boot.py"
IMPORT_ROOT = PACKAGE.parents[2]

STOP_SECONDS = 5.0

PATIENCE_SECONDS = 5.0


def raise_error(error: Mapping[str, Any]) -> NoReturn:
    """Raise the "error" of an answer as the typed error that it names."""
    details = dict(error)
    kind = getattr(errors, str(details.pop("kind", "Internal")), errors.Internal)
    message = str(details.pop("message", "unknown error"))
    if not (isinstance(kind, type) and issubclass(kind, errors.MoorageError)):
        kind = errors.Internal
    raise kind(message, **details)


class SpawnerClient:
    """Thread-safe; calls run side by side. `start` early, before gRPC has threads; a call starts it too."""

    def __init__(self, spares: int = 0, patience: float = PATIENCE_SECONDS) -> None:
        """`spares` is how many supervisors are forked ahead of their pods; they leave these to their keepers (supervisor/keeper.py) when
        nothing has happened for about `patience` seconds.
        """
        self._spares = spares
        self._patience = patience
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._profiles: dict[str, str] = {}
        self._runners: deque[socket.socket] = deque()

    @property
    def filters(self) -> Collection[str]:
        """The names of the profiles that all have been told: their SHA-256."""
        return self._profiles.keys()

    @property
    def pid(self) -> int:
        """The spawner's pid, 0 when none runs."""
        process = self._process
        return process.pid if process is not None else 0

    def start(self) -> None:
        """Have a spawner run."""
        with self._lock:
            self._ensure()

    def close(self) -> None:
        """End the spawner, and with it every task; supervisors live on."""
        with self._lock:
            self._discard()

    def prime(self, profile: Mapping[str, Any]) -> None:
        """Have every supervisor from now on know the compiled form of a seccomp profile (an OCI `linux.seccomp` object)."""
        text = json.dumps(profile)
        name = hashlib.sha256(text.encode()).hexdigest()
        self._call({"op": "prime", "profile": text, "name": name}, ())
        with self._lock:
            self._profiles[name] = text
            # Those that are there do not know it.
            self._discard_runners()

    def run_task(
        self, name: str, args: Mapping[str, Any], fds: Sequence[int] = (), cancel: CancelToken | None = None
    ) -> dict[str, Any]:
        """Run the function `name` of `supervisor/tasks.py`'s table in a child process, and answer what it returns.

        Blocks; `fds` stay the caller's. When it returns or raises, the process has ended. Raises the error the task raised (TaskError names
        its class, OSError becomes Internal with `errno` and `path`), Cancelled or DeadlineExceeded when `cancel` was set (the process
        is killed), Unavailable when the spawner died under it.
        """
        message = {"op": "task", "name": name, "args": dict(args)}
        answer = self._attempt(message, fds, cancel) or self._attempt(message, fds, cancel)
        if cancel is not None and "result" not in answer:
            cancel.check()
        if not answer:
            raise errors.Unavailable("spawner died again and again", reason="SPAWNER_DIED")
        if "error" in answer:
            raise_error(answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def order_pod(self, spec: Mapping[str, Any], directory: int) -> Callable[[], tuple[int, Channel]]:
        """Have a pod's supervisor made; `directory` is the pod's own, open, and the caller's until the answer has been called: that waits
        for the supervisor, and answers its pid and its first connection, which is a watch.
        """
        message = {"op": "pod", **spec}
        first = self._send(message, (directory,))

        def arrival() -> tuple[int, Channel]:
            # Again when it dies on the way, the spawner or the supervisor: nothing was done by then that counts.
            found = _supervisor(first) or _supervisor(self._send(message, (directory,)))
            if found is None:
                what = f"supervisor of pod {spec['id']} died before it answered"
                raise errors.Unavailable(what, reason="SUPERVISOR_DIED")
            return found

        return arrival

    def take_runner(self) -> socket.socket:
        """The socket to a runner, see libcontainer/runner.py; the caller's. It was asked for ahead if `replace_runners` has been called."""
        with self._lock:
            ready = self._runners.popleft() if self._runners else None
        return ready or self._ask_for_runner()

    def replace_runners(self) -> None:
        """Have as many runners as spares wait for `take_runner`. Not while one has just been given an order: it wakes the spawner."""
        with self._lock:
            missing = self._spares - len(self._runners)
        for _ in range(missing):
            another = self._ask_for_runner()
            with self._lock:
                self._runners.append(another)

    def _ask_for_runner(self) -> socket.socket:
        ours, theirs = pair()
        try:
            with theirs:
                self._deliver(pack_message({"op": "runner"}, (theirs.fileno(),)), (theirs.fileno(),))
        except BaseException:
            ours.close()
            raise
        return ours

    def _attempt(self, message: Mapping[str, Any], fds: Sequence[int], cancel: CancelToken | None) -> dict[str, Any]:
        """Have a task run; {} when the spawner died before the task began."""
        if cancel is not None:
            cancel.check()
        with contextlib.closing(self._send(message, fds)) as channel:
            return _outcome(channel, cancel)

    def _call(self, message: Mapping[str, Any], fds: Sequence[int]) -> None:
        with contextlib.closing(self._send(message, fds)) as channel:
            frame = channel.receive()
        if frame is None:
            raise errors.Unavailable("spawner died", reason="SPAWNER_DIED")
        if "error" in frame.message:
            raise_error(frame.message["error"])

    def _send(self, message: Mapping[str, Any], fds: Sequence[int]) -> Channel:
        """Send a request with a reply socket of its own; answer our end of it."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                passed = (theirs.fileno(), *fds)
                self._deliver(pack_message(message, passed), passed)
        except BaseException:
            ours.close()
            raise
        return Channel(ours)

    def _deliver(self, frame: bytes, fds: Sequence[int]) -> None:
        with self._lock:
            try:
                send_all(self._ensure(), frame, fds)
            except (BrokenPipeError, ConnectionResetError):
                # It died, with nothing of this request done: a request counts when it is there as a whole.
                self._discard()
                send_all(self._ensure(), frame, fds)

    def _ensure(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self._discard()
        if self._sock is None:
            self._sock = self._launch()
        return self._sock

    def _launch(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-I", "-S", os.fspath(BOOT), os.fspath(IMPORT_ROOT)]
            command += [str(theirs.fileno()), str(self._spares), str(self._patience)]
            # A session of its own: Ctrl-C at the daemon's terminal is not for it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                start_new_session=True,
            )
        for name, profile in self._profiles.items():
            _prime(ours, name, profile)
        return ours

    def _discard(self) -> None:
        self._discard_runners()
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._process is not None:
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _discard_runners(self) -> None:
        while self._runners:
            self._runners.popleft().close()


def _prime(spawner: socket.socket, name: str, profile: str) -> None:
    """Tell a new spawner a profile that an old one had compiled; nobody waits for the answer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fds = (theirs.fileno(),)
        send_all(spawner, pack_message({"op": "prime", "profile": profile, "name": name}, fds), fds)


def _supervisor(channel: Channel) -> tuple[int, Channel] | None:
    """What a supervisor says of itself when it is there; None when it has died."""
    frame = channel.receive()
    if frame is not None and "pid" in frame.message:
        return int(frame.message["pid"]), channel
    channel.close()
    if frame is not None:
        raise_error(frame.message["error"])
    return None


def _outcome(channel: Channel, cancel: CancelToken | None) -> dict[str, Any]:
    """Wait for the end of a task's process; answer the first message it or the spawner sent, {} if it never began."""
    answers: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        if cancel is not None:
            stack.enter_context(cancel.on_cancel(lambda: _hang_up(channel.sock)))
        with contextlib.suppress(ConnectionResetError):
            while (frame := channel.receive()) is not None:
                answers.append(frame.message)
    died = {"error": {"kind": "Unavailable", "message": "spawner died while it ran a task", "reason": "SPAWNER_DIED"}}
    if answers == [BEGUN]:
        return died
    return next((answer for answer in answers if answer != BEGUN), {})


def _hang_up(sock: socket.socket) -> None:
    """Shut our side down: the spawner kills the task then, and closes its side when it has ended."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
