"""The parser: instructions with their flags out of a Dockerfile's lines. Errors name file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from moorage.server.builder import instructions as ins
from moorage.server.builder import lexer
from moorage.server.builder.instructions import Command, Instruction
from moorage.server.builder.lexer import Line
from moorage.server.builder.source import suggestion
from moorage.server.builder.words import Expander, WordError, split_words

_ENV_NAME = re.compile(r"[^\s=]+")
_STAGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|us|µs|ns|s))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|us|µs|ns|s)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


@dataclass(frozen=True)
class Dockerfile:
    """A Dockerfile: its instructions in order, the escape character they were written with, and what `# check=` says."""

    file: str
    instructions: tuple[Instruction, ...]
    escape: str
    checks: str = ""


def parse(data: bytes, file: str = "Dockerfile") -> Dockerfile:
    """Read a Dockerfile. Raises InvalidArgument, `Dockerfile:7: …`."""
    lines = lexer.read(data, file)
    parser = Parser(lines.escape)
    return Dockerfile(
        file, tuple(parser.instruction(line) for line in lines.lines), lines.escape, lines.directives.get("check", "")
    )


def parse_trigger(text: str, line: Line, escape: str) -> Instruction:
    """The instruction that an ONBUILD holds, as if it stood at `line`."""
    inner = lexer.read(text.encode(), line.place.file).lines
    return Parser(escape).instruction(replace(inner[0], place=line.place))


class Flags:
    """The flags of one instruction; each is taken once, and what is left over is an error."""

    def __init__(self, line: Line, escape: str, known: tuple[str, ...]) -> None:
        self._line = line
        self._values: dict[str, list[str]] = {}
        self.rest = line.rest
        while match := re.match(r"--([a-z-]*)(=|(?=\s|$))", self.rest):
            name, value = match[1], "true"
            self.rest = self.rest[match.end() :]
            if match[2]:
                word = _first_word(self.rest, escape)
                self.rest = self.rest[len(word) :]
                value = word
            if not name and not match[2]:
                self.rest = self.rest.lstrip()
                break
            if name not in known:
                raise line.place.error(f"{line.keyword} --{name}: unknown flag{suggestion(name, known)}")
            self._values.setdefault(name, []).append(value)
            self.rest = self.rest.lstrip()

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._values)

    def one(self, name: str) -> str:
        values = self._values.get(name, [])
        if len(values) > 1:
            raise self._line.place.error(f"{self._line.keyword} --{name} is given twice")
        return values[0] if values else ""

    def many(self, name: str) -> tuple[str, ...]:
        return tuple(self._values.get(name, ()))

    def boolean(self, name: str) -> bool | None:
        value = self.one(name).lower()
        if value not in ("", "true", "false", "1", "0"):
            raise self._line.place.error(f"{self._line.keyword} --{name}={value}: neither true nor false")
        return None if not value else value in ("true", "1")

    def refuse(self, name: str, why: str) -> None:
        if name in self._values:
            raise self._line.place.error(f"{self._line.keyword} --{name} is not offered: {why}")


def _first_word(text: str, escape: str) -> str:
    words = split_words(text, escape, lenient=True)
    return words[0] if words and not text[:1].isspace() else ""


class Parser:
    """Makes an instruction of a line."""

    def __init__(self, escape: str) -> None:
        self._escape = escape
        self._table: dict[str, Callable[[Line], Instruction]] = {
            "FROM": self._from,
            "ARG": self._arg,
            "ENV": self._env,
            "LABEL": self._label,
            "MAINTAINER": self._maintainer,
            "RUN": self._run,
            "COPY": self._copy,
            "ADD": self._add,
            "WORKDIR": lambda line: ins.Workdir(line.place, shown(line), self._whole(line)),
            "USER": lambda line: ins.User(line.place, shown(line), self._whole(line)),
            "VOLUME": lambda line: ins.Volume(line.place, shown(line), self._list(line)),
            "EXPOSE": lambda line: ins.Expose(line.place, shown(line), self._words(line)),
            "CMD": lambda line: ins.Cmd(line.place, shown(line), self._command(line, line.rest)),
            "ENTRYPOINT": lambda line: ins.Entrypoint(line.place, shown(line), self._command(line, line.rest)),
            "SHELL": self._shell,
            "STOPSIGNAL": lambda line: ins.StopSignal(line.place, shown(line), self._whole(line)),
            "HEALTHCHECK": self._healthcheck,
            "ONBUILD": self._onbuild,
        }

    def instruction(self, line: Line) -> Instruction:
        """Raises InvalidArgument with the line."""
        make = self._table.get(line.keyword)
        if make is None:
            raise line.place.error(f"unknown instruction {line.keyword}{suggestion(line.keyword, self._table)}")
        try:
            return make(line)
        except WordError as error:
            raise line.place.error(f"{line.keyword}: {error}") from None

    # --- the pieces ---------------------------------------------------------------------------------------------------

    def _whole(self, line: Line) -> str:
        if not line.rest:
            raise line.place.error(f"{line.keyword} needs an argument")
        return line.rest

    def _words(self, line: Line) -> tuple[str, ...]:
        return tuple(split_words(self._whole(line), self._escape))

    def _list(self, line: Line) -> tuple[str, ...]:
        """A JSON list, or words."""
        listed = _json_list(self._whole(line))
        if listed is not None and not listed:
            raise line.place.error(f"{line.keyword} needs an argument")
        return listed if listed is not None else self._words(line)

    def _command(self, line: Line, text: str) -> Command:
        listed = _json_list(text)
        if listed is not None:
            return Command(listed, shell=False)
        return Command((text,) if text else (), shell=True)

    def _pairs(self, line: Line) -> tuple[tuple[str, str], ...]:
        """`name=value …`, or the old form `name value`."""
        words = self._words(line)
        if "=" not in words[0]:
            name, value = _old_pair(line.rest)
            if not value:
                raise line.place.error(f"{line.keyword} {name} needs a value", f"write {line.keyword} {name}=value")
            return ((name, value),)
        pairs = []
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                raise line.place.error(f"{line.keyword}: {word!r} is not name=value", "quote a value that has blanks")
            if not name:
                raise line.place.error(f"{line.keyword}: {word!r} has no name")
            pairs.append((name, value))
        return tuple(pairs)

    # --- the instructions ---------------------------------------------------------------------------------------------

    def _from(self, line: Line) -> Instruction:
        flags = Flags(line, self._escape, ("platform",))
        words = split_words(flags.rest, self._escape)
        if len(words) == 3 and words[1].upper() == "AS":
            name = words[2].lower()
            if not _STAGE_NAME.fullmatch(name):
                raise line.place.error(
                    f"FROM … AS {words[2]}: not a stage name", "a letter, then letters, digits, - _ and ."
                )
        elif len(words) == 1:
            name = ""
        else:
            raise line.place.error("FROM takes `image` or `image AS name`")
        return ins.From(line.place, shown(line), words[0], name, flags.one("platform"))

    def _arg(self, line: Line) -> Instruction:
        pairs: list[tuple[str, str | None]] = []
        for word in self._words(line):
            name, equals, value = word.partition("=")
            name = Expander({}, self._escape).word(name)
            if not _ENV_NAME.fullmatch(name):
                raise line.place.error(f"ARG: {word!r} is not name or name=default")
            pairs.append((name, value if equals else None))
        return ins.Arg(line.place, shown(line), tuple(pairs))

    def _env(self, line: Line) -> Instruction:
        return ins.Env(line.place, shown(line), self._pairs(line))

    def _label(self, line: Line) -> Instruction:
        return ins.Label(line.place, shown(line), self._pairs(line))

    def _maintainer(self, line: Line) -> Instruction:
        quoted = "'" + self._whole(line).replace("'", "'\"'\"'") + "'"
        return ins.Label(line.place, shown(line), (("maintainer", quoted),))

    def _run(self, line: Line) -> Instruction:
        flags = Flags(line, self._escape, ("mount", "network", "security", "device"))
        flags.refuse("device", "RUN gets no devices")
        if flags.one("security") not in ("", "sandbox"):
            raise line.place.error(f"RUN --security={flags.one('security')} is not offered: RUN is always confined")
        if flags.one("network") not in ("", "default", "none", "host"):
            raise line.place.error(f"RUN --network={flags.one('network')}: unknown network", "default, none or host")
        if not flags.rest:
            raise line.place.error("RUN needs a command")
        command = self._command(line, flags.rest)
        return ins.Run(line.place, shown(line), command, line.heredocs, flags.many("mount"), flags.one("network"))

    def _copy(self, line: Line) -> Instruction:
        flags = Flags(line, self._escape, ("from", "chown", "chmod", "link", "parents", "exclude"))
        return self._copied(line, flags, add=False)

    def _add(self, line: Line) -> Instruction:
        known = ("chown", "chmod", "link", "checksum", "keep-git-dir", "unpack", "exclude")
        flags = Flags(line, self._escape, known)
        return self._copied(line, flags, add=True)

    def _copied(self, line: Line, flags: Flags, *, add: bool) -> Instruction:
        listed = _json_list(flags.rest)
        words = listed if listed is not None else tuple(split_words(flags.rest, self._escape))
        if len(words) < 2:
            raise line.place.error(f"{line.keyword} needs at least a source and a target")
        if "$" in flags.one("from"):
            raise line.place.error(
                f"COPY --from={flags.one('from')}: no variables here", "name a stage with FROM … AS and use that"
            )
        return ins.Copy(
            line.place,
            shown(line),
            tuple(words[:-1]),
            words[-1],
            line.heredocs,
            add,
            origin=flags.one("from") if not add else "",
            chown=flags.one("chown"),
            chmod=flags.one("chmod"),
            link=bool(flags.boolean("link")),
            checksum=flags.one("checksum") if add else "",
            unpack=flags.boolean("unpack") if add else None,
            parents=bool(flags.boolean("parents")),
            exclude=flags.many("exclude"),
            keep_git_dir=bool(flags.boolean("keep-git-dir")),
        )

    def _shell(self, line: Line) -> Instruction:
        words = _json_list(self._whole(line))
        if not words:
            raise line.place.error("SHELL takes a JSON list of words", 'such as SHELL ["/bin/bash", "-c"]')
        return ins.Shell(line.place, shown(line), words)

    def _healthcheck(self, line: Line) -> Instruction:
        flags = Flags(line, self._escape, ("interval", "timeout", "start-period", "start-interval", "retries"))
        kind, _, rest = flags.rest.partition(" ")
        times = {
            name: self._duration(line, name, flags.one(name))
            for name in ("interval", "timeout", "start-period", "start-interval")
        }
        if kind.upper() == "NONE":
            if rest.strip() or flags.names:
                raise line.place.error("HEALTHCHECK NONE takes nothing else")
            return ins.Healthcheck(line.place, shown(line), None)
        if kind.upper() != "CMD" or not rest.strip():
            raise line.place.error("HEALTHCHECK takes CMD and a command, or NONE")
        retries = flags.one("retries") or "0"
        if not retries.isascii() or not retries.isdigit():
            raise line.place.error(f"HEALTHCHECK --retries={retries}: not a number")
        return ins.Healthcheck(
            line.place,
            shown(line),
            self._command(line, rest.strip()),
            times["interval"],
            times["timeout"],
            times["start-period"],
            times["start-interval"],
            int(retries),
        )

    @staticmethod
    def _duration(line: Line, name: str, text: str) -> int:
        if not text:
            return 0
        if not _DURATION.fullmatch(text):
            raise line.place.error(f"HEALTHCHECK --{name}={text}: not a duration", "such as 30s or 1m30s")
        total = sum(float(number) * _UNITS[unit] for number, unit in _DURATION_PART.findall(text))
        if 0 < total < 1_000_000:
            raise line.place.error(f"HEALTHCHECK --{name}={text}: less than 1ms")
        return int(total)

    def _onbuild(self, line: Line) -> Instruction:
        text = self._whole(line)
        keyword = text.split(None, 1)[0].upper()
        if keyword in ("FROM", "MAINTAINER", "ONBUILD"):
            raise line.place.error(f"ONBUILD {keyword} is not allowed")
        documents = "".join(f"\n{each.text}{each.name}" for each in line.heredocs)
        parse_trigger(text + documents, line, self._escape)
        return ins.Onbuild(line.place, shown(line), text + documents)


def shown(line: Line) -> str:
    """The instruction in one line, as progress and history tell it."""
    documents = "".join(f" # {each.name}: {' '.join(each.text.split())[:80]}" for each in line.heredocs)
    return f"{line.keyword} {' '.join(line.rest.split())}{documents}".strip()


def _json_list(text: str) -> tuple[str, ...] | None:
    """The words of a JSON list of texts; None for anything else."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if isinstance(found, list) and all(isinstance(word, str) for word in found):
        return tuple(found)
    return None


def _old_pair(text: str) -> tuple[str, str]:
    """`name value with blanks`."""
    name, _, value = text.replace("\t", " ").partition(" ")
    return name, value.strip()
