"""The operations of a supervisor: one session a connection, requests answered in order."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from moorage.server.libcontainer.channel import StageListener
from moorage.server.supervisor import ociexec
from moorage.server.supervisor.attach import Attachment
from moorage.server.supervisor.connection import Connection
from moorage.server.supervisor.dialling import Dial
from moorage.server.supervisor.execs import start_execution
from moorage.server.supervisor.failures import Failure, describe
from moorage.server.supervisor.protocol import MESSAGE, VERSION, Frame, ProtocolError

if TYPE_CHECKING:
    from moorage.server.supervisor.container import Container
    from moorage.server.supervisor.supervisor import Supervisor

Operation = Callable[["Session", dict[str, Any], Sequence[int]], "dict[str, Any] | None"]
"""Answers a request; with None it has answered itself, or will."""


class Session:
    """A connection that asks. `attach` and `exec` take it over for good."""

    def __init__(self, supervisor: Supervisor, sock: socket.socket) -> None:
        self.supervisor = supervisor
        self.connection = Connection(supervisor.loop, sock, self._frame)

    def _frame(self, frame: Frame) -> None:
        if frame.kind != MESSAGE:
            raise ProtocolError("stream data before attach")
        message = frame.message
        try:
            answer = self._answer(message, frame.fds)
            if answer is not None:
                self.connection.send({"id": message.get("id"), **answer})
        except Exception as error:
            self.connection.send({"id": message.get("id"), "error": describe(error)})
        finally:
            for fd in frame.fds:
                os.close(fd)

    def _answer(self, message: dict[str, Any], fds: Sequence[int]) -> dict[str, Any] | None:
        name = message.get("op", "")
        if message.get("version") != VERSION:
            self.connection.send({"error": describe(Failure("Unimplemented", f"supervisor speaks version {VERSION}"))})
            self.connection.end()
            return None
        operation = OPERATIONS.get(name)
        if operation is None:
            raise Failure("Unimplemented", f"supervisor knows no operation {name!r}")
        return operation(self, message, fds)

    def stage(self, message: dict[str, Any], kept: list[tuple[str, int]]) -> StageListener:
        """Tells the caller of a request how far it has come; what was before is `kept`, to be told with the answer."""

        def tell(name: str, at_ns: int = 0) -> None:
            if at_ns:
                kept.append((name, at_ns))
            else:
                self.connection.send({"id": message.get("id"), "stage": name})

        return tell


def status(session: Session, _message: dict[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    return session.supervisor.describe()


def watch(session: Session, _message: dict[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    session.supervisor.watch(session.connection)
    return session.supervisor.describe()


def start(session: Session, message: dict[str, Any], fds: Sequence[int]) -> None:
    stages: list[tuple[str, int]] = []
    supervisor = session.supervisor
    container = supervisor.start(message, fds[0] if fds else None, session.stage(message, stages))
    answer, way = container.entry(supervisor.user)
    run = {"pid": container.pid, "user": container.user, "started_ns": container.started_ns}
    session.connection.send({"id": message.get("id"), **run, "stages": stages, **answer}, way)


def entry(session: Session, message: dict[str, Any], _fds: Sequence[int]) -> None:
    container = _running(session.supervisor, message)
    answer, fds = container.entry(session.supervisor.user)
    session.connection.send({"id": message.get("id"), **answer}, fds)


def _running(supervisor: Supervisor, message: dict[str, Any]) -> Container:
    container = supervisor.container(message["container"])
    if container.ending:
        raise Failure("FailedPrecondition", f"container {container.id} is not running")
    return container


def send_signal(session: Session, message: dict[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    number = message["signal"]
    if number not in signal.valid_signals():
        raise Failure("InvalidArgument", f"no signal {number}")
    session.supervisor.container(message["container"]).signal(number)
    return {}


def kill(session: Session, message: dict[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    session.supervisor.container(message["container"]).kill()
    return {}


def reopen(session: Session, message: dict[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    session.supervisor.container(message["container"]).reopen_log()
    return {}


def attach(session: Session, message: dict[str, Any], _fds: Sequence[int]) -> None:
    supervisor, connection = session.supervisor, session.connection
    container = supervisor.containers.get(message["container"])
    connection.send({"id": message.get("id"), "pid": container.pid if container else 0})
    supervisor.attach(message["container"], Attachment(connection, message, supervisor.forget_attachment))


def execute(session: Session, message: dict[str, Any], fds: Sequence[int]) -> None:
    supervisor = session.supervisor
    container = _running(supervisor, message)
    if container.runtime is not None:
        ociexec.Start(supervisor, container, container.runtime, message, fds, session.connection)
        return
    execution = start_execution(
        supervisor.loop, container, supervisor.oom_score, supervisor.user, message, fds, session.connection
    )
    supervisor.executions[execution.pid] = execution


def forget(session: Session, message: dict[str, Any], _fds: Sequence[int]) -> None:
    session.supervisor.forget(message["container"], lambda: session.connection.send({"id": message.get("id")}))


def dial(session: Session, message: dict[str, Any], _fds: Sequence[int]) -> None:
    Dial(session.supervisor.loop, session.connection, message.get("id"), message["port"])


def stop(session: Session, _message: dict[str, Any], _fds: Sequence[int]) -> dict[str, Any]:
    session.supervisor.stop()
    return {}


def remove(session: Session, message: dict[str, Any], _fds: Sequence[int]) -> None:
    supervisor = session.supervisor
    supervisor.remove(lambda: session.connection.send({"id": message.get("id"), **supervisor.remains()}))


OPERATIONS: dict[str, Operation] = {
    "status": status,
    "watch": watch,
    "start": start,
    "signal": send_signal,
    "kill": kill,
    "reopen": reopen,
    "attach": attach,
    "entry": entry,
    "exec": execute,
    "forget": forget,
    "dial": dial,
    "stop": stop,
    "remove": remove,
}
