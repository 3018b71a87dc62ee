"""Places in a Dockerfile, and errors that name them: `Dockerfile:7: COPY --from=bulid: no such stage (did you mean "build"?)`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from moorage.server.errors import InvalidArgument


@dataclass(frozen=True)
class Place:
    """A line of a Dockerfile; lines count from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def error(self, message: str, hint: str = "") -> InvalidArgument:
        """An error about this line."""
        return InvalidArgument(
            f"{self}: {message}", reason="DOCKERFILE", hint=hint, field="dockerfile", path=self.file, line=self.line
        )


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean "build"?)` where something known is near, else nothing."""
    found = get_close_matches(word, list(known), 1)
    return f' (did you mean "{found[0]}"?)' if found else ""
