"""What a Dockerfile says that works, and is seldom what was meant: rules by the names that BuildKit's users know.

A directive `# check=skip=RULE,RULE` (or `all`) leaves rules out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from moorage.server.builder import instructions as ins
from moorage.server.builder.instructions import Instruction
from moorage.server.builder.parse import Dockerfile
from moorage.server.builder.source import Place

_SECRET = re.compile(
    r"(?:^|_)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_PUBLIC = re.compile(r"(?:^|_)(?:public|file|path)(?:_|$)", re.IGNORECASE)
_LEGACY = re.compile(r"(?:ENV|LABEL) [^\s=]+ ")
_RESERVED = ("scratch", "context")


@dataclass(frozen=True)
class Finding:
    """What a rule found, at a place."""

    place: Place
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message} ({self.rule})"


@dataclass
class _Stage:
    """What there was of a stage by now."""

    commands: dict[str, Instruction] = field(default_factory=dict)
    has_shell: bool = False
    has_directory: bool = False


def lint(dockerfile: Dockerfile) -> list[Finding]:
    """All that the rules find, in order."""
    skipped = {rule.lower() for rule in _skipped(dockerfile.checks)}
    found = [each for each in _findings(dockerfile.instructions) if each.rule.lower() not in skipped]
    return [] if "all" in skipped else sorted(found, key=lambda each: (each.place.line, each.rule))


def _skipped(directive: str) -> list[str]:
    """The rules of `skip=A,B;error=true`."""
    settings = dict(part.strip().partition("=")[::2] for part in directive.split(";"))
    return [rule.strip() for rule in settings.get("skip", "").split(",")]


def _findings(instructions: tuple[Instruction, ...]) -> Iterator[Finding]:
    stage, names = _Stage(), set[str]()
    for each in instructions:
        if isinstance(each, ins.From):
            stage = _Stage(has_directory=each.image.lower() in names)
            names.add(each.name.lower())
        for rule, place, message in (*_on_its_own(each), *_in_stage(each, stage)):
            yield Finding(place, rule, message)


def _on_its_own(each: Instruction) -> Iterator[tuple[str, Place, str]]:
    match each:
        case ins.From() if each.name in _RESERVED:
            yield "ReservedStageName", each.place, f"FROM … AS {each.name}: a name with a meaning of its own"
        case ins.Label() if each.text.startswith("MAINTAINER"):
            yield "MaintainerDeprecated", each.place, "MAINTAINER: say it with LABEL org.opencontainers.image.authors="
        case ins.Env() | ins.Label() if _LEGACY.match(each.text):
            yield "LegacyKeyValueFormat", each.place, f"{each.text.partition(' ')[0]}: write name=value"
    if isinstance(each, ins.Env | ins.Arg):
        for name in (name for name, _ in each.pairs if _SECRET.search(name) and not _PUBLIC.search(name)):
            keyword = "ENV" if isinstance(each, ins.Env) else "ARG"
            message = f"{keyword} {name}: it is in the image for all to read; give secrets to RUN --mount=type=secret"
            yield "SecretsUsedInArgOrEnv", each.place, message


def _in_stage(each: Instruction, stage: _Stage) -> Iterator[tuple[str, Place, str]]:
    match each:
        case ins.Shell():
            stage.has_shell = True
        case ins.Workdir():
            if not stage.has_directory and not each.path.startswith(("/", "$")):
                message = f"WORKDIR {each.path}: relative to what the image says, which may change"
                yield "WorkdirRelativePath", each.place, message
            stage.has_directory = True
        case ins.Cmd() | ins.Entrypoint() | ins.Healthcheck():
            keyword = each.text.partition(" ")[0]
            earlier = stage.commands.get(keyword)
            if earlier is not None:
                message = f"{keyword}: the one in line {each.place.line} is what counts"
                yield "MultipleInstructionsDisallowed", earlier.place, message
            stage.commands[keyword] = each
            if not isinstance(each, ins.Healthcheck) and each.command.shell and not stage.has_shell:
                message = f"{keyword}: a shell stands between it and its signals; write it as a JSON array"
                yield "JSONArgsRecommended", each.place, message
