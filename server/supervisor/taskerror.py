"""The failure of a task."""

from __future__ import annotations


class TaskError(Exception):
    """A failure told to the caller: `kind` names a class of `moorage.server.errors`, `metadata` goes with it."""

    def __init__(self, kind: str, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.metadata = metadata
