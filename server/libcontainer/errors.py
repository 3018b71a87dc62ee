"""The error of a process that could not be started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOT_FOUND = 127
NOT_EXECUTABLE = 126
SETUP_FAILED = 128


class StartError(Exception):
    """A process could not be started; nothing of it is left.

    `stage` is where it failed (see `process.start`), `errno` and `path` are 0 and empty where there is none. `exit_code`
    is what a shell's user expects: 127 the command was not found, 126 it may not or cannot be executed or its user is
    unknown, 128 any other failure.
    """

    def __init__(
        self, message: str, *, stage: str = "", errno: int = 0, path: str = "", exit_code: int = SETUP_FAILED
    ) -> None:
        super().__init__(message)
        self.message = message
        self.stage = stage
        self.errno = errno
        self.path = path
        self.exit_code = exit_code


class doing:
    """Turns an OSError of its block into a StartError that says what could not be done, and to which path."""

    __slots__ = ("_action", "_exit_code", "_path")

    def __init__(self, action: str, path: str = "", exit_code: int = SETUP_FAILED) -> None:
        self._action, self._path, self._exit_code = action, path, exit_code

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            number = error.errno or 0
            what = f"{self._action} {self._path}" if self._path else self._action
            message = f"cannot {what}: {os.strerror(number).lower()}"
            raise StartError(message, errno=number, path=self._path, exit_code=self._exit_code) from error


@contextmanager
def stating(stage: str) -> Iterator[None]:
    """Turns an OSError or ValueError of its block, whose text says what could not be done, into a StartError of this stage."""
    try:
        yield
    except OSError as error:
        path = str(error.filename or "")
        raise StartError(str(error), stage=stage, errno=error.errno or 0, path=path) from error
    except ValueError as error:
        raise StartError(str(error), stage=stage) from error
