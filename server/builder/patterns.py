"""Patterns as in a .dockerignore file: what `COPY --exclude` leaves out, for names below the target, and `**` of `COPY --parents`."""

from __future__ import annotations

import re

_PIECE = re.compile(r"\*\*/?|\[\^?(?:\\.|[^\]\\])+\]|\\.|.", re.DOTALL)
_WILD = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def expression(pattern: str) -> str:
    """A regular expression that matches what a pattern names, and all below it."""
    return f"(?s:{named(pattern)}(?:/.*)?)"


def named(pattern: str) -> str:
    """A regular expression that matches what a pattern names: Go's filepath.Match, and `**` for any number of directories."""
    found = ""
    for piece in _PIECE.findall(pattern):
        if piece in _WILD:
            found += _WILD[piece]
        elif piece[0] == "[" and len(piece) > 1:
            inner = piece[1:-1].replace("[", "\\[")
            found += f"(?!/)[{inner}]"
        else:
            found += re.escape(piece[-1])
    return f"(?s:{found})"
