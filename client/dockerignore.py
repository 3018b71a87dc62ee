"""`.dockerignore`: which files of a directory are no part of a build's context."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """One line. `keep` is for those that begin with `!`."""

    pattern: re.Pattern[str]
    keep: bool


class Ignore:
    """The lines of a file; of those that match a path, or a directory that it lies in, the last decides."""

    def __init__(self, text: str = "") -> None:
        self._rules = [rule for line in text.splitlines() if (rule := _rule(line)) is not None]
        self._keeps = any(rule.keep for rule in self._rules)

    def excludes(self, path: str) -> bool:
        """Whether a path, relative and with slashes, is left out."""
        parts = path.split("/")
        prefixes = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        excluded = False
        for rule in self._rules:
            if excluded == rule.keep and _matches(rule, prefixes):
                excluded = not rule.keep
        return excluded

    def excludes_all_below(self, directory: str) -> bool:
        """Whether nothing in a directory that is left out can be kept, so that it need not be read."""
        return not self._keeps and self.excludes(directory)


def _matches(rule: Rule, prefixes: Sequence[str]) -> bool:
    return any(rule.pattern.fullmatch(prefix) for prefix in prefixes)


def _rule(line: str) -> Rule | None:
    if line.startswith("#"):
        return None
    text = line.strip()
    keep = text.startswith("!")
    text = text[1:].strip() if keep else text
    if not text:
        return None
    pattern = posixpath.normpath(text).lstrip("/")
    return Rule(re.compile(_expression(pattern), re.DOTALL), keep) if pattern not in ("", ".") else None


def _expression(pattern: str) -> str:
    """Go's filepath.Match, and `**` for any number of directories."""
    found, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**", at):
            at += 2
            if pattern.startswith("/", at):
                found += "(?:.*/)?"
                at += 1
            else:
                found += ".*"
            continue
        char = pattern[at]
        end = pattern.find("]", at + 2) if char == "[" else -1
        if char == "*":
            found += "[^/]*"
        elif char == "?":
            found += "[^/]"
        elif end > 0:
            inner = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            found += f"(?!/)[{inner}]"
            at = end
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            found += re.escape(pattern[at])
        else:
            found += re.escape(char)
        at += 1
    return found
