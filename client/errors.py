"""What the client raises: one class a gRPC status, with what the daemon said about the cause.

The daemon sends a `google.rpc.Status` with an `ErrorInfo` in the trailing metadata; `from_rpc_error` reads it.
Importing this module does not load gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc


class MoorageError(Exception):
    """Base of all errors of the client.

    `code` is the name of the gRPC status, `reason` the daemon's finer name for it, `hint` what to do about it,
    `metadata` further facts (`stage`, `path`, `errno`, `exit_code`, …) as text.
    """

    code = "UNKNOWN"

    def __init__(
        self, message: str, *, reason: str = "", hint: str = "", metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.code
        self.hint = hint
        self.metadata = dict(metadata or {})

    @property
    def exit_code(self) -> int | None:
        """What the container's command would have exited with (126, 127 or 128), where the error is that it could not
        be run.
        """
        value = self.metadata.get("exit_code", "")
        return int(value) if value.isascii() and value.isdecimal() else None


class InvalidArgument(MoorageError):
    """What was asked for makes no sense."""

    code = "INVALID_ARGUMENT"


class NotFound(MoorageError):
    """The thing named does not exist."""

    code = "NOT_FOUND"


class AlreadyExists(MoorageError):
    """The name, port or address is taken."""

    code = "ALREADY_EXISTS"


class FailedPrecondition(MoorageError):
    """Not in the present state."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(MoorageError):
    """A limit, an address pool or the disk is used up."""

    code = "RESOURCE_EXHAUSTED"


class PermissionDenied(MoorageError):
    """Known, and not allowed."""

    code = "PERMISSION_DENIED"


class Unauthenticated(MoorageError):
    """Credentials are missing or wrong."""

    code = "UNAUTHENTICATED"


class Unavailable(MoorageError):
    """The daemon, or a registry behind it, does not answer."""

    code = "UNAVAILABLE"


class DeadlineExceeded(MoorageError):
    """Time ran out."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(MoorageError):
    """The call was hung up, or its job cancelled."""

    code = "CANCELLED"


class Aborted(MoorageError):
    """Lost a race; try again."""

    code = "ABORTED"


class OutOfRange(MoorageError):
    """Past the end."""

    code = "OUT_OF_RANGE"


class Unimplemented(MoorageError):
    """The daemon does not offer it."""

    code = "UNIMPLEMENTED"


class DataLoss(MoorageError):
    """Content is not what its digest says."""

    code = "DATA_LOSS"


class Internal(MoorageError):
    """A fault of the daemon."""

    code = "INTERNAL"


_BY_CODE: dict[str, type[MoorageError]] = {kind.code: kind for kind in MoorageError.__subclasses__()}


def from_rpc_error(error: grpc.RpcError) -> MoorageError:
    """The MoorageError for a failed call, with the `ErrorInfo` of its trailing metadata where there is one."""
    call: Any = error
    code: str = call.code().name
    kind = _BY_CODE.get(code, MoorageError)
    reason, metadata = _error_info(call)
    hint = metadata.pop("hint", "")
    return kind(call.details() or code.lower().replace("_", " "), reason=reason, hint=hint, metadata=metadata)


def _error_info(call: Any) -> tuple[str, dict[str, str]]:
    from google.rpc.error_details_pb2 import ErrorInfo
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(call)
    except ValueError:  # the status inside contradicts the one outside: believe the outer one
        return "", {}
    for detail in status.details if status is not None else ():
        info = ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}
