"""Failures as they are told to the daemon: the "error" of an answer, see protocol.py."""

from __future__ import annotations

import errno
import traceback
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
    # Not by `traceback`, which reads the source: by now its path may lead into a file system that is not ours.
    last = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        last = f"{frame.f_code.co_name}, line {line}"
    return last or "nowhere"
