"""What `--chmod` says: an octal mode, or changes as chmod(1) takes them."""

from __future__ import annotations

import re

Mode = int | list[list[str]]
"""An octal mode, or changes, each [who, operation, what] as `supervisor/modes.py` applies them."""

_OCTAL = re.compile(r"[0-7]{1,4}")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_CHANGE = re.compile(r"([-+=])([ugo]|[rwxXst]*)")


def parse(text: str) -> Mode:
    """`755`, `u=rwX,go=rX`, `+x`. Raises ValueError."""
    if _OCTAL.fullmatch(text):
        return int(text, 8)
    found: list[list[str]] = []
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise ValueError("neither an octal mode, such as 755, nor a symbolic one, such as u=rwX,go=rX")
        who = "ugo" if not match[1] or "a" in match[1] else "".join(sorted(set(match[1])))
        found += [[who, operation, what] for operation, what in _CHANGE.findall(match[2])]
    return found
