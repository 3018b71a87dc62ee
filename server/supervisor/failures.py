"""Failures as they are told to the daemon: the "error" of an answer, see protocol.py."""

from __future__ import annotations

import errno
from typing import Any

from moorage.server.libcontainer.process import StartError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Failure(Exception):
    """A failure to tell: `kind` names a class of `moorage.server.errors`, `metadata` goes with it."""

    def __init__(self, kind: str, message: str, **metadata: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.metadata = metadata


def describe(error: Exception) -> dict[str, Any]:
    """The "error" of an answer."""
    match error:
        case Failure():
            return {"kind": error.kind, "message": error.message, **error.metadata}
        case StartError():
            kind = "ResourceExhausted" if error.errno in NO_SPACE else "FailedPrecondition"
            details = {"stage": error.stage, "errno": error.errno, "path": error.path, "exit_code": error.exit_code}
            return {"kind": kind, "message": error.message, **details}
        case OSError():
            kind = "ResourceExhausted" if error.errno in NO_SPACE else "Internal"
            path = str(error.filename or "")
            return {"kind": kind, "message": str(error), "errno": error.errno or 0, "path": path}
        case _:
            return {"kind": "Internal", "message": f"{type(error).__name__}: {error} ({_place(error)})"}


def _place(error: Exception) -> str:
    # The source is not read: by now its path may lead into a file system that is not ours.
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return f"{at.tb_frame.f_code.co_name}, line {at.tb_lineno}" if at else "nowhere"
