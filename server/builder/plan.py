"""The plan: which stages a build needs, and what each begins with. Nothing is pulled and nothing runs yet.

ARG VERSION=1              the global arguments, known to FROM lines
FROM base:$VERSION AS a    a stage begins with an image, with an earlier stage, or with nothing (`scratch`)
COPY --from=a …            and may take files from images and earlier stages
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from moorage.server.builder import instructions as ins
from moorage.server.builder.instructions import Instruction
from moorage.server.builder.parse import Dockerfile
from moorage.server.builder.runmounts import origin_of
from moorage.server.builder.source import Place, suggestion
from moorage.server.builder.words import Expander, WordError
from moorage.server.errors import InvalidArgument
from moorage.server.model import Platform

SCRATCH = "scratch"
PROXIES = frozenset(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
"""Build arguments that need no ARG; RUN gets them, and no cache key knows of them."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class NamedContext:
    """Files that were given beside the context (`--build-context`), by their name in lower case."""

    name: str


Origin = int | str | NamedContext
"""What files are taken from: an earlier stage by its index, an image, or a named context."""


@dataclass(frozen=True)
class Stage:
    """One FROM with what follows it. `parent` is the stage it begins with; without, the files of `context`, or `image` (`scratch`:
    nothing)."""

    index: int
    name: str
    place: Place
    text: str
    image: str
    parent: int | None
    instructions: tuple[Instruction, ...]
    context: NamedContext | None = None

    @property
    def label(self) -> str:
        """How progress calls it."""
        return self.name or f"stage-{self.index}"


@dataclass(frozen=True)
class Plan:
    """The stages of a Dockerfile, the one to build, and those it needs (its own among them), in order."""

    stages: tuple[Stage, ...]
    target: int
    needed: tuple[int, ...]
    arguments: dict[str, str]
    """Global arguments by name: build arguments over the defaults above the first FROM, and the platform's."""
    given: dict[str, str]
    """Build arguments as given."""
    escape: str
    unused: tuple[str, ...] = ()
    """Build arguments that no ARG takes."""
    names: _Names = field(default_factory=lambda: _Names({}))

    def origin(self, text: str, before: int, place: Place, flag: str) -> Origin:
        """What `--from=text` of a stage means. Raises InvalidArgument."""
        return _origin(text, before, place, flag, self.names, len(self.stages))


@dataclass(frozen=True)
class _Names:
    """What names mean: `contexts` (see `plan`) before `stages`."""

    contexts: Mapping[str, str]
    stages: dict[str, int] = field(default_factory=dict)

    def given(self, text: str) -> str | NamedContext | None:
        """The image or the files that a name was given, if it was."""
        name = text.lower()
        return self.contexts[name] or NamedContext(name) if name in self.contexts else None


def plan(
    dockerfile: Dockerfile,
    *,
    target: str = "",
    arguments: Mapping[str, str] | None = None,
    contexts: Mapping[str, str] | None = None,
    platform: Platform,
) -> Plan:
    """Arrange a Dockerfile's stages. `contexts` are names that mean an image, or (empty) files. Raises InvalidArgument with the place."""
    given = dict(arguments or {})
    known, rest = _global_arguments(dockerfile, given, platform)
    names = _Names({name.lower(): image for name, image in (contexts or {}).items()})
    stages = _stages(dockerfile, rest, known, platform, names)
    chosen = _target(target, stages, names, dockerfile)
    needed = _needed(stages, chosen, names)
    taken = {name for each in dockerfile.instructions if isinstance(each, ins.Arg) for name, _ in each.pairs}
    unused = tuple(sorted(given.keys() - taken - PROXIES - platform_arguments(platform).keys() - {"SOURCE_DATE_EPOCH"}))
    return Plan(stages, chosen, needed, known, given, dockerfile.escape, unused, names)


def platform_arguments(platform: Platform) -> dict[str, str]:
    """The arguments that tell of the platform; builds are for the one they run on."""
    whole = "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)
    parts = {"PLATFORM": whole, "OS": platform.os, "ARCH": platform.architecture, "VARIANT": platform.variant}
    return {f"{side}{name}": value for side in ("TARGET", "BUILD") for name, value in parts.items()}


def _global_arguments(
    dockerfile: Dockerfile, given: Mapping[str, str], platform: Platform
) -> tuple[dict[str, str], Sequence[Instruction]]:
    """The arguments above the first FROM, and the instructions from there on."""
    known = platform_arguments(platform)
    for number, each in enumerate(dockerfile.instructions):
        if isinstance(each, ins.From):
            return known, dockerfile.instructions[number:]
        if not isinstance(each, ins.Arg):
            raise each.place.error(f"{each.text.partition(' ')[0]} before FROM: only ARG may stand there")
        for name, default in each.pairs:
            value = given.get(name)
            if value is None and default is not None:
                value = _expanded(default, known, dockerfile.escape, each.place, "ARG")
            if value is not None:
                known[name] = value
    raise InvalidArgument(f"{dockerfile.file} has no FROM", field="dockerfile", path=dockerfile.file)


def _stages(
    dockerfile: Dockerfile, rest: Sequence[Instruction], known: Mapping[str, str], platform: Platform, names: _Names
) -> tuple[Stage, ...]:
    """The stages, whose names are added to `names`."""
    starts = [number for number, each in enumerate(rest) if isinstance(each, ins.From)]
    stages: list[Stage] = []
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], len(rest)], strict=True)):
        head = rest[start]
        assert isinstance(head, ins.From)
        image = _image(head, known, dockerfile.escape, platform)
        given = names.given(image)
        context = given if isinstance(given, NamedContext) else None
        parent = names.stages.get(image.lower()) if given is None else None
        image = given if isinstance(given, str) else image
        instructions = tuple(rest[start + 1 : end])
        stages.append(Stage(index, head.name, head.place, head.text, image, parent, instructions, context))
        if head.name in names.stages:
            other = stages[names.stages[head.name]].place
            raise head.place.error(f"FROM … AS {head.name}: {other} has that name already")
        if head.name:
            names.stages[head.name] = index
    for stage in stages:
        _check_references(stage, names, len(stages))
    return tuple(stages)


def _image(head: ins.From, known: Mapping[str, str], escape: str, platform: Platform) -> str:
    image = _expanded(head.image, known, escape, head.place, "FROM")
    if not image:
        raise head.place.error(f"FROM {head.image}: no image is left when its variables are replaced")
    wanted = _expanded(head.platform, known, escape, head.place, "FROM --platform").lower()
    own = known["BUILDPLATFORM"]
    if wanted and wanted not in (own, f"{platform.os}/{platform.architecture}", platform.os, platform.architecture):
        raise head.place.error(f"FROM --platform={wanted} is not offered: images are built for this host, {own}")
    return image


def _target(target: str, stages: Sequence[Stage], names: _Names, dockerfile: Dockerfile) -> int:
    if not target:
        return len(stages) - 1
    if target.lower() in names.stages:
        return names.stages[target.lower()]
    if target.isascii() and target.isdigit() and int(target) < len(stages):
        return int(target)
    raise InvalidArgument(
        f"{dockerfile.file}: target {target}: no such stage{suggestion(target, names.stages)}",
        field="target",
        target=target,
    )


def references(stage: Stage) -> list[tuple[str, Place, str]]:
    """What COPY --from and RUN --mount from= of a stage name, with place and flag."""
    found = []
    for each in stage.instructions:
        if isinstance(each, ins.Copy) and each.origin:
            found.append((each.origin, each.place, f"COPY --from={each.origin}"))
        elif isinstance(each, ins.Run):
            found += [
                (origin, each.place, f"RUN --mount=…,from={origin}") for origin in map(origin_of, each.mounts) if origin
            ]
    return found


def _check_references(stage: Stage, names: _Names, count: int) -> None:
    for text, place, flag in references(stage):
        _origin(text, stage.index, place, flag, names, count)


def _origin(text: str, before: int, place: Place, flag: str, names: _Names, count: int) -> Origin:
    given = names.given(text)
    if given is not None:
        return given
    index = names.stages.get(text.lower())
    if index is None and text.isascii() and text.isdigit():
        index = int(text)
        if index >= count:
            raise place.error(f"{flag}: no such stage, there are {count}, counted from 0")
    if index is not None:
        if index >= before:
            what = "that is the stage itself" if index == before else "that stage comes later"
            raise place.error(f"{flag}: {what}")
        return index
    near = suggestion(
        text.lower(), [*names.contexts, *(name for name, number in names.stages.items() if number < before)]
    )
    if near and _BARE.fullmatch(text):
        raise place.error(f"{flag}: no such stage{near}", "an image of that name is written with its tag")
    return text


def _needed(stages: Sequence[Stage], target: int, names: _Names) -> tuple[int, ...]:
    needed, pending = set[int](), [target]
    while pending:
        index = pending.pop()
        if index in needed:
            continue
        needed.add(index)
        stage = stages[index]
        if stage.parent is not None:
            pending.append(stage.parent)
        for text, place, flag in references(stage):
            origin = _origin(text, index, place, flag, names, len(stages))
            if isinstance(origin, int):
                pending.append(origin)
    return tuple(sorted(needed))


def _expanded(text: str, known: Mapping[str, str], escape: str, place: Place, what: str) -> str:
    try:
        return Expander(known, escape).word(text)
    except WordError as error:
        raise place.error(f"{what}: {error}") from None
