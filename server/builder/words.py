"""Words and variables of a Dockerfile, in the manner of a shell: quotes, escapes, and `${name…}` in all its forms."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?!$-]")
_OPERATORS = (":-", ":+", ":?", "##", "%%", "//", "-", "+", "?", "#", "%", "/")


class WordError(ValueError):
    """Text that cannot be taken apart; says why."""


def split_words(text: str, escape: str = "\\", *, lenient: bool = False) -> list[str]:
    """Split at blanks outside quotes and `${…}`, leaving quotes and escapes in the words.

    Raises WordError when a quote is not closed; `lenient` takes the rest as the last word then.
    """
    words, word, quote, at, depth = [], "", "", 0, 0
    while at < len(text):
        char = text[at]
        if char == escape and quote != "'" and at + 1 < len(text):
            word += text[at : at + 2]
            at += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif text.startswith("${", at):
            depth += 1
        elif char == "}" and depth:
            depth -= 1
        elif char in " \t\n" and not depth:
            if word:
                words.append(word)
            word, at = "", at + 1
            continue
        word += char
        at += 1
    if (quote or depth) and not lenient:
        raise WordError(f"{quote or '${'} is not closed in {text!r}")
    return [*words, word] if word else words


class Expander:
    """Expands words in an environment. `used` collects the names that were looked at, `unset` those that nothing had."""

    def __init__(self, variables: Mapping[str, str], escape: str = "\\") -> None:
        self._variables = variables
        self._escape = escape
        self.used: set[str] = set()
        self.unset: set[str] = set()

    def word(self, text: str) -> str:
        """A word with its variables replaced and its quotes and escapes removed. Raises WordError."""
        return _Scanner(text, self, self._escape).scan("")

    def words(self, text: str) -> list[str]:
        """A line's words, each expanded; an unquoted variable does not make several of one."""
        return [self.word(word) for word in split_words(text, self._escape)]

    def document(self, text: str) -> str:
        """A here-document: variables and escapes, and quotes like any other character."""
        return _Scanner(text, self, self._escape, quotes=False).scan("")

    def value(self, name: str) -> str | None:
        self.used.add(name)
        found = self._variables.get(name)
        if found is None:
            self.unset.add(name)
        return found


class _Scanner:
    def __init__(self, text: str, expander: Expander, escape: str, quotes: bool = True) -> None:
        self._text = text
        self._at = 0
        self._expander = expander
        self._escape = escape
        self._quotes = quotes

    def scan(self, stop: str) -> str:
        """Text up to a character of `stop` (not taken), or the end."""
        found: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in stop:
                break
            if char == "'" and self._quotes:
                found.append(self._single())
            elif char == '"' and self._quotes:
                found.append(self._double())
            elif char == "$":
                found.append(self._variable())
            elif char == self._escape:
                found.append(self._escaped())
            else:
                found.append(char)
                self._at += 1
        return "".join(found)

    def _escaped(self) -> str:
        """What follows an escape, as it is; in a here-document only what would mean something."""
        following = self._text[self._at + 1 : self._at + 2]
        self._at += 1 + len(following)
        if not self._quotes and following not in ("$", self._escape):
            return self._escape + following
        return following

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise WordError(f"' is not closed in {self._text!r}")
        found, self._at = self._text[self._at + 1 : end], end + 1
        return found

    def _double(self) -> str:
        found: list[str] = []
        self._at += 1
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return "".join(found)
            following = self._text[self._at + 1 : self._at + 2]
            if char == "$":
                found.append(self._variable())
            elif char == self._escape and following in ('"', "$", self._escape) and following:
                found.append(following)
                self._at += 2
            else:
                found.append(char)
                self._at += 1
        raise WordError(f'" is not closed in {self._text!r}')

    def _variable(self) -> str:
        self._at += 1
        if self._text.startswith("{", self._at):
            return self._braced()
        match = _NAME.match(self._text, self._at)
        if match is None:
            return "$"
        self._at = match.end()
        return self._expander.value(match[0]) or ""

    def _braced(self) -> str:
        start = self._at - 1
        match = _NAME.match(self._text, self._at + 1)
        if match is None:
            raise WordError(f"bad substitution in {self._text[start:]!r}: no name after ${{")
        name, self._at = match[0], match.end()
        operator = next((each for each in _OPERATORS if self._text.startswith(each, self._at)), "")
        self._at += len(operator)
        first = self._raw("/}" if operator in ("/", "//") else "}") if operator else ""
        second = ""
        if operator in ("/", "//") and self._text.startswith("/", self._at):
            self._at += 1
            second = self._raw("}")
        if not self._text.startswith("}", self._at):
            unknown = not operator and self._at < len(self._text)
            why = f"unknown operator {self._text[self._at]!r}" if unknown else "} is missing"
            raise WordError(f"bad substitution in {self._text[start:]!r}: {why}")
        self._at += 1
        return _substituted(name, operator, first, second, self._expander)

    def _raw(self, stop: str) -> str:
        """The operand of an operator, expanded."""
        return self.scan(stop)


def _substituted(name: str, operator: str, first: str, second: str, expander: Expander) -> str:
    value = expander.value(name)
    present = bool(value) if operator.startswith(":") else value is not None
    match operator:
        case ":-" | "-":
            expander.unset.discard(name)
            return value or "" if present else first
        case ":+" | "+":
            expander.unset.discard(name)
            return first if present else ""
        case ":?" | "?":
            if not present:
                raise WordError(f"{name}: {first or 'not set'}")
            return value or ""
        case "#" | "##":
            return _without_prefix(value or "", first, longest=operator == "##")
        case "%" | "%%":
            return _without_suffix(value or "", first, longest=operator == "%%")
        case "/" | "//":
            pattern = re.compile(_pattern(first), re.DOTALL)
            return (
                pattern.sub(lambda _: second, value or "", count=0 if operator == "//" else 1) if first else value or ""
            )
    return value or ""


def _without_prefix(value: str, pattern: str, *, longest: bool) -> str:
    compiled = re.compile(_pattern(pattern), re.DOTALL)
    ends = [end for end in range(len(value) + 1) if compiled.fullmatch(value, 0, end)]
    return value[(max(ends) if longest else min(ends)) :] if ends else value


def _without_suffix(value: str, pattern: str, *, longest: bool) -> str:
    compiled = re.compile(_pattern(pattern), re.DOTALL)
    starts = [start for start in range(len(value) + 1) if compiled.fullmatch(value, start)]
    return value[: (min(starts) if longest else max(starts))] if starts else value


def _pattern(pattern: str) -> str:
    """A shell's pattern as a regular expression."""
    found, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if char == "*":
            found += ".*"
        elif char == "?":
            found += "."
        elif char == "\\" and at + 1 < len(pattern):
            at += 1
            found += re.escape(pattern[at])
        else:
            found += re.escape(char)
        at += 1
    return found
