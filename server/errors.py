"""Typed errors: raised anywhere in the daemon, mapped to a gRPC status in one place (`api/status.py`).

A message is lower case, has no full stop, and names the thing and the cause: `cannot mount overlay at /x: lowerdir /y does not
exist`. `hint` says what to do about it. `metadata` goes to `google.rpc.ErrorInfo` with the stage, path or errno.
"""

from __future__ import annotations


class MoorageError(Exception):
    """Base of all errors that a caller is told about. `code` is the gRPC status name."""

    code = "INTERNAL"

    def __init__(self, message: str, *, reason: str = "", hint: str = "", **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.code
        self.hint = hint
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidArgument(MoorageError):
    """What was asked for makes no sense, whatever the state."""

    code = "INVALID_ARGUMENT"


class NotFound(MoorageError):
    """The thing named does not exist."""

    code = "NOT_FOUND"


class AlreadyExists(MoorageError):
    """The name, port or address is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(MoorageError):
    """Right in itself, not in the present state."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(MoorageError):
    """A limit, a cap, an address pool or the disk is used up."""

    code = "RESOURCE_EXHAUSTED"


class PermissionDenied(MoorageError):
    """Known, and not allowed."""

    code = "PERMISSION_DENIED"


class Unauthenticated(MoorageError):
    """Credentials are missing or wrong."""

    code = "UNAUTHENTICATED"


class Unavailable(MoorageError):
    """Something outside does not answer; later it may."""

    code = "UNAVAILABLE"


class DeadlineExceeded(MoorageError):
    """Time ran out."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(MoorageError):
    """The caller hung up, or the job was cancelled."""

    code = "CANCELLED"


class Unimplemented(MoorageError):
    """Not offered here."""

    code = "UNIMPLEMENTED"


class DataLoss(MoorageError):
    """Content is not what its digest, or the database, says."""

    code = "DATA_LOSS"


class Internal(MoorageError):
    """A fault of the daemon or of the kernel underneath."""

    code = "INTERNAL"
