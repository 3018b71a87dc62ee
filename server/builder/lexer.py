"""From a Dockerfile's text to its instructions: directives, comments, continued lines, here-documents.

Nothing here knows what an instruction means, but that RUN, COPY and ADD take here-documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from moorage.server.builder.source import Place
from moorage.server.builder.words import split_words
from moorage.server.errors import InvalidArgument

MAX_SIZE = 4 << 20
"""Bytes of a Dockerfile."""

WITH_HEREDOCS = ("RUN", "COPY", "ADD")
DIRECTIVES = ("syntax", "escape", "check")

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"\d*<<(-?)(?:\"([^\"<\s]+)\"|'([^'<\s]+)'|([^'\"<>|&;()\s]+))(?P<rest>.*)")
_OPERATORS = (";", "&", "|", ")", ">")
"""What a shell lets follow a here-document's name at once."""


@dataclass(frozen=True)
class Heredoc:
    """A here-document. `expand` says whether its name was written without quotes; `text` is as written, or without leading tabs (`<<-`)."""

    word: str
    """The word that stands for it in the instruction."""
    name: str
    text: str
    expand: bool


@dataclass(frozen=True)
class Line:
    """One instruction: its keyword in capitals, what follows it with continued lines joined, and its here-documents."""

    place: Place
    keyword: str
    rest: str
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True)
class Lines:
    """A Dockerfile's instructions, and the directives above them."""

    file: str
    lines: tuple[Line, ...]
    directives: dict[str, str]

    @property
    def escape(self) -> str:
        """The character that continues lines and escapes."""
        return self.directives.get("escape", "\\")


def read(data: bytes, file: str) -> Lines:
    """Take a Dockerfile apart. Raises InvalidArgument with the place."""
    if len(data) > MAX_SIZE:
        raise InvalidArgument(f"{file} of {len(data)} bytes is larger than {MAX_SIZE}", field="dockerfile", path=file)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Place(file, line).error(f"not UTF-8: byte {data[error.start]:#04x}") from None
    if "\0" in text:
        raise Place(file, text[: text.index("\0")].count("\n") + 1).error("there is a NUL in it")
    return _Reader(text.replace("\r\n", "\n"), file).read()


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self._lines = text.split("\n")
        self._file = file
        self._at = 0

    def read(self) -> Lines:
        directives = self._directives()
        continued = _continuation(directives.get("escape", "\\"))
        lines = tuple(self._instructions(continued, directives.get("escape", "\\")))
        if not lines:
            raise InvalidArgument(
                f"{self._file} has no instruction in it", field="dockerfile", hint="begin with FROM", path=self._file
            )
        return Lines(self._file, lines, directives)

    def _place(self, index: int) -> Place:
        return Place(self._file, index + 1)

    def _directives(self) -> dict[str, str]:
        """`# name=value` at the very top; the first line that is none ends them."""
        found: dict[str, str] = {}
        if self._lines and self._lines[0].startswith("#!"):
            self._at = 1
        while self._at < len(self._lines):
            match = _DIRECTIVE.fullmatch(self._lines[self._at].strip())
            name = match[1].lower() if match else ""
            if match is None or name not in DIRECTIVES:
                break
            place = self._place(self._at)
            if name in found:
                raise place.error(f"directive {name} is given twice")
            if name == "escape" and match[2] not in ("\\", "`"):
                raise place.error(f"escape character {match[2]!r} is neither \\ nor `")
            found[name] = match[2]
            self._at += 1
        return found

    def _instructions(self, continued: re.Pattern[str], escape: str) -> Iterator[Line]:
        while self._at < len(self._lines):
            start = self._at
            text = self._lines[self._at].strip()
            self._at += 1
            if not text or text.startswith("#"):
                continue
            joined = self._joined(text, continued).strip()
            if not joined:
                continue
            keyword, *rest = joined.split(None, 1)
            line = Line(self._place(start), keyword.upper(), rest[0].strip() if rest else "")
            yield self._with_heredocs(line, escape)

    def _joined(self, text: str, continued: re.Pattern[str]) -> str:
        """A line with those that continue it; comments and blank lines among them are left out."""
        pieces = []
        while match := continued.search(text):
            pieces.append(text[: match.start()])
            while self._at < len(self._lines) and self._is_nothing(self._lines[self._at]):
                self._at += 1
            if self._at >= len(self._lines):
                return "".join(pieces)
            text = self._lines[self._at]
            self._at += 1
        return "".join((*pieces, text))

    @staticmethod
    def _is_nothing(line: str) -> bool:
        text = line.strip()
        return not text or text.startswith("#")

    def _with_heredocs(self, line: Line, escape: str) -> Line:
        rest = line.rest
        keyword = rest.partition(" ")[0].upper() if line.keyword == "ONBUILD" else line.keyword
        if keyword not in WITH_HEREDOCS or "<<" not in rest:
            return line
        found = []
        for word in split_words(rest, escape, lenient=True):
            match = _HEREDOC.fullmatch(word)
            if match and (not match["rest"] or (keyword == "RUN" and match["rest"].startswith(_OPERATORS))):
                name = match[2] or match[3] or match[4]
                text = self._document(line, name, bool(match[1]))
                found.append(Heredoc(word, name, text, match[4] is not None))
        return replace(line, heredocs=tuple(found))

    def _document(self, line: Line, name: str, chomp: bool) -> str:
        """The lines up to the one that is the name alone."""
        text: list[str] = []
        while self._at < len(self._lines):
            current = self._lines[self._at]
            self._at += 1
            if chomp:
                current = current.lstrip("\t")
            if current == name:
                return "".join(f"{each}\n" for each in text)
            text.append(current)
        raise line.place.error(f"{line.keyword} <<{name}: the here-document has no end", f"end it with a line {name}")


def _continuation(escape: str) -> re.Pattern[str]:
    """An escape character at the end, itself not escaped."""
    mark = re.escape(escape)
    return re.compile(rf"(?<!{mark}){mark}[ \t]*$")
