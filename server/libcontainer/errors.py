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


@contextmanager
def doing(action: str, path: str = "", exit_code: int = SETUP_FAILED) -> Iterator[None]:
    """Turn an OSError of the block into a StartError that says what could not be done, and to which path."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        what = f"{action} {path}" if path else action
        raise StartError(
            f"cannot {what}: {os.strerror(number).lower()}", errno=number, path=path, exit_code=exit_code
        ) from error
