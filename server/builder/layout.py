"""From a stage to its steps: every variable replaced, the image's settings after each step, and what each does to the files.

Given the settings of what the stage begins with, all of this is known before anything runs.
"""

from __future__ import annotations

import posixpath
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from moorage.server.builder import instructions as ins
from moorage.server.builder import modes, runmounts
from moorage.server.builder.gitsource import COMMIT, GitSource, git_source
from moorage.server.builder.imagespec import ImageSpec
from moorage.server.builder.instructions import Command, Instruction
from moorage.server.builder.lexer import Line
from moorage.server.builder.parse import parse_trigger
from moorage.server.builder.patterns import expression
from moorage.server.builder.plan import PROXIES, Origin, Plan, Stage
from moorage.server.builder.runmounts import RunMount
from moorage.server.builder.source import Place
from moorage.server.builder.words import Expander, WordError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_PORT = 65535
RESERVED_LABELS = "moorage."

_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.ASCII | re.IGNORECASE)
_USER = re.compile(r"[^\s:\x00-\x1f]+(?::[^\s:\x00-\x1f]+)?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


@dataclass(frozen=True)
class RunAction:
    """Run `args` in a container. `script` is a file they run, `hidden` is environment that no cache key knows."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    working_dir: str
    user: str
    network: str = ""
    mounts: tuple[RunMount, ...] = ()
    origins: tuple[Origin | None, ...] = ()
    """For every mount: what it shows; None for the context, or where it shows none."""
    script: str = ""
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class InlineFile:
    """A file that the Dockerfile itself holds."""

    name: str
    data: bytes


@dataclass(frozen=True)
class CopyAction:
    """Copy `sources` (of `origin`, or with None of the context), `urls` and `inline` files to `target`.

    `target` is absolute, with a slash at the end where it must be a directory. `unpack`: local archives are unpacked (ADD). With
    `parents` the directories of sources are kept, from a `/./` in them on. `exclude` are regular expressions of names below the target.
    """

    keyword: str
    sources: tuple[str, ...]
    urls: tuple[str, ...]
    inline: tuple[InlineFile, ...]
    target: str
    origin: Origin | None = None
    owner: str = ""
    mode: str = ""
    unpack: bool = False
    checksum: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    repositories: tuple[GitSource, ...] = ()
    keep_git_dir: bool = False


@dataclass(frozen=True)
class DirectoryAction:
    """Have a directory (WORKDIR)."""

    path: str


Action = RunAction | CopyAction | DirectoryAction


@dataclass(frozen=True)
class Step:
    """One step of a stage; without `action` it changes settings only."""

    place: Place
    text: str
    action: Action | None = None


@dataclass
class Layout:
    """The steps of a stage, and its settings after the last."""

    stage: Stage
    steps: list[Step]
    spec: ImageSpec
    needs: set[int] = field(default_factory=set)
    """Stages that steps take files from."""


def lay_out(plan: Plan, stage: Stage, base: ImageSpec) -> Layout:
    """Work out a stage that begins with the settings `base`. Raises InvalidArgument with the place."""
    return _Layouter(plan, stage, base).run()


class _Layouter:
    def __init__(self, plan: Plan, stage: Stage, base: ImageSpec) -> None:
        self._plan = plan
        self._stage = stage
        self._spec = base.copy()
        self._arguments: dict[str, str] = {}
        self._declared: set[str] = set()
        self._needs: set[int] = set()

    def run(self) -> Layout:
        if "PATH" not in self._spec.env:
            self._spec.set_env("PATH", DEFAULT_PATH)
        steps = [self._step(each) for each in (*self._triggers(), *self._stage.instructions)]
        return Layout(self._stage, steps, self._spec, self._needs)

    def _triggers(self) -> Iterator[Instruction]:
        for text in self._spec.take_triggers():
            keyword = text.split(None, 1)[0].upper() if text.split() else ""
            line = Line(self._stage.place, "ONBUILD", text)
            if keyword in ("", "FROM", "MAINTAINER", "ONBUILD"):
                raise self._stage.place.error(f"the image's ONBUILD {text[:80]!r} is not allowed")
            yield parse_trigger(text, line, "\\")

    def _step(self, each: Instruction) -> Step:
        try:
            action = self._apply(each)
        except WordError as error:
            raise each.place.error(f"{each.text.partition(' ')[0]}: {error}") from None
        return Step(each.place, each.text, action)

    # --- variables ----------------------------------------------------------------------------------------------------

    def _expander(self) -> Expander:
        return Expander({**self._arguments, **self._spec.env}, self._plan.escape)

    def _word(self, text: str) -> str:
        return self._expander().word(text)

    def _apply(self, each: Instruction) -> Action | None:
        match each:
            case ins.Run():
                return self._run(each)
            case ins.Copy():
                return self._copy(each)
            case ins.Workdir():
                path = posixpath.normpath(posixpath.join(self._spec.working_dir, self._needed(each, each.path)))
                path = "/" + path.lstrip("/")
                self._spec.set("WorkingDir", path)
                return DirectoryAction(path)
            case ins.Arg():
                self._arg(each)
            case _:
                self._settings(each)
        return None

    def _settings(self, each: Instruction) -> None:
        match each:
            case ins.Env():
                expander = self._expander()
                for name, value in [(expander.word(name), expander.word(value)) for name, value in each.pairs]:
                    if not name or "\0" in value:
                        raise each.place.error(f"ENV: {name!r} is not a variable")
                    self._spec.set_env(name, value)
            case ins.Label():
                self._labels(each)
            case ins.User():
                user = self._needed(each, each.user)
                if not _USER.fullmatch(user):
                    raise each.place.error(f"USER {user}: not name or name:group")
                self._spec.set("User", user)
            case ins.Volume():
                self._spec.add_keys("Volumes", [self._volume(each, path) for path in each.paths])
            case ins.Expose():
                self._spec.add_keys("ExposedPorts", [port for text in each.ports for port in self._ports(each, text)])
            case ins.StopSignal():
                self._spec.set("StopSignal", self._signal(each))
            case ins.Onbuild():
                self._spec.members["OnBuild"] = [*(self._spec.members.get("OnBuild") or ()), each.trigger]
            case _:
                self._commands(each)

    def _commands(self, each: Instruction) -> None:
        match each:
            case ins.Cmd():
                self._spec.set("Cmd", self._argv(each.command))
                self._spec.command_set = True
            case ins.Entrypoint():
                self._spec.set("Entrypoint", self._argv(each.command))
                if not self._spec.command_set:
                    self._spec.set("Cmd", None)
            case ins.Shell():
                self._spec.set("Shell", list(each.words))
            case ins.Healthcheck():
                self._spec.set("Healthcheck", self._healthcheck(each))

    def _needed(self, each: Instruction, text: str) -> str:
        found = self._word(text)
        if not found:
            raise each.place.error(f"{each.text}: nothing is left when its variables are replaced")
        return found

    def _arg(self, each: ins.Arg) -> None:
        for name, default in each.pairs:
            value = self._plan.given.get(name)
            if value is None and default is not None:
                value = self._word(default)
            if value is None:
                value = self._plan.arguments.get(name)
            self._declared.add(name)
            if value is not None:
                self._arguments[name] = value

    def _labels(self, each: ins.Label) -> None:
        expander = self._expander()
        labels = {expander.word(name): expander.word(value) for name, value in each.pairs}
        for name in labels:
            if name.startswith(RESERVED_LABELS):
                raise each.place.error(f"LABEL {name}: names that begin with {RESERVED_LABELS} are the engine's own")
        self._spec.add_labels(labels)

    def _volume(self, each: Instruction, text: str) -> str:
        path = self._needed(each, text)
        if ".." in path.split("/"):
            raise each.place.error(f"VOLUME {path}: there is a .. in it")
        return posixpath.normpath(posixpath.join("/", path))

    def _ports(self, each: Instruction, text: str) -> list[str]:
        found = []
        for word in self._expander().word(text).split():
            match = _PORT.fullmatch(word)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
            if match is None or not 1 <= first <= last <= MAX_PORT:
                raise each.place.error(f"EXPOSE {word}: not a port, such as 80, 53/udp or 8000-8010")
            found += [f"{port}/{(match[3] or 'tcp').lower()}" for port in range(first, last + 1)]
        return found

    def _signal(self, each: ins.StopSignal) -> str:
        text = self._needed(each, each.signal)
        name = text.upper().removeprefix("SIG")
        number = int(name[:4]) if name.isascii() and name.isdigit() else 0
        real_time = re.fullmatch(r"RT(MIN|MAX)([+-]\d{1,2})?", name)
        if not (1 <= number <= signal.SIGRTMAX or f"SIG{name}" in signal.Signals.__members__ or real_time):
            raise each.place.error(f"STOPSIGNAL {text}: unknown signal", "a name like SIGTERM or a number from 1 to 64")
        return text

    def _healthcheck(self, each: ins.Healthcheck) -> dict[str, object]:
        if each.command is None:
            return {"Test": ["NONE"]}
        test = ["CMD-SHELL" if each.command.shell else "CMD", *each.command.words]
        times = {
            "Interval": each.interval,
            "Timeout": each.timeout,
            "StartPeriod": each.start_period,
            "StartInterval": each.start_interval,
            "Retries": each.retries,
        }
        return {"Test": test, **{name: value for name, value in times.items() if value}}

    def _argv(self, command: Command) -> list[str]:
        return [*self._spec.shell, *command.words] if command.shell and command.words else list(command.words)

    # --- steps that change files --------------------------------------------------------------------------------------

    def _run(self, each: ins.Run) -> RunAction:
        mounts = tuple(self._at_work(runmounts.read(self._plain(text), each.place, self._word)) for text in each.mounts)
        origins = tuple(
            self._origin(mount.origin, each.place, f"RUN --mount=…,from={mount.origin}") for mount in mounts
        )
        args, script = self._run_args(each)
        hidden = {name: value for name, value in self._plan.given.items() if name in PROXIES - self._declared}
        env = {**self._arguments, **self._spec.env}
        return RunAction(
            args=args,
            env=tuple(f"{name}={value}" for name, value in env.items()),
            working_dir=self._spec.working_dir,
            user=self._spec.user,
            network=each.network if each.network != "default" else "",
            mounts=mounts,
            origins=origins,
            script=script,
            hidden=tuple(f"{name}={value}" for name, value in hidden.items() if name not in env),
        )

    def _at_work(self, mount: RunMount) -> RunMount:
        """A mount with its target made absolute; a secret that is only a variable has none."""
        if not mount.target:
            return mount
        return replace(mount, target=posixpath.normpath(posixpath.join(self._spec.working_dir, mount.target)))

    def _plain(self, text: str) -> str:
        """A flag without the quotes around it; its variables are replaced value by value."""
        return text[1:-1] if text[:1] == text[-1:] in ("'", '"') and len(text) > 1 else text

    def _run_args(self, each: ins.Run) -> tuple[tuple[str, ...], str]:
        """The words to execute, and the text of the file they are to find as `SCRIPT`, if any."""
        if not each.heredocs:
            return tuple(self._argv(each.command)), ""
        (text,) = each.command.words or ("",)
        if len(each.heredocs) == 1 and text.strip() == each.heredocs[0].word:
            script = each.heredocs[0].text
            if script.startswith("#!"):
                return (SCRIPT,), script
            return (*self._spec.shell, script), ""
        documents = "".join(f"\n{document.text}{document.name}" for document in each.heredocs)
        return (*self._spec.shell, f"{text}{documents}\n"), ""

    def _origin(self, text: str, place: Place, flag: str) -> Origin | None:
        if not text:
            return None
        origin = self._plan.origin(text, self._stage.index, place, flag)
        if isinstance(origin, int):
            self._needs.add(origin)
        return origin

    def _copy(self, each: ins.Copy) -> CopyAction:
        expander = self._expander()
        documents = {document.word: document for document in each.heredocs}
        inline, urls, repositories, sources = [], [], [], []
        for word in each.sources:
            if word in documents:
                document = documents[word]
                text = expander.document(document.text) if document.expand else document.text
                inline.append(InlineFile(document.name, text.encode()))
                continue
            source = expander.word(word)
            repository = self._repository(each, source) if each.add else None
            if repository is not None:
                repositories.append(repository)
            elif each.add and re.match(r"https?://", source):
                urls.append(source)
            elif each.add and re.match(r"(git@|git://|ssh://|[a-z]+://)", source):
                raise each.place.error(f"ADD {source} is not offered: only http and https are fetched")
            else:
                sources.append(self._source(each, source))
        checksum = expander.word(each.checksum)
        count = len(sources) + len(urls) + len(repositories) + len(inline)
        known = COMMIT if repositories else _DIGEST
        if checksum and (not known.fullmatch(checksum) or count != 1 or not urls + repositories):
            raise each.place.error(
                f"ADD --checksum={checksum}: needs sha256:… (sha384, sha512) and one URL, or a commit and one repository"
            )
        return CopyAction(
            keyword=each.keyword,
            sources=tuple(sources),
            urls=tuple(urls),
            inline=tuple(inline),
            target=self._copy_target(each, expander, count),
            origin=self._origin(each.origin, each.place, f"COPY --from={each.origin}"),
            owner=self._owner(each, expander),
            mode=self._mode(each, expander),
            unpack=each.add and each.unpack is not False,
            checksum=checksum,
            link=each.link,
            repositories=tuple(repositories),
            keep_git_dir=each.keep_git_dir,
            parents=each.parents,
            exclude=tuple(self._excluded(each, expander.word(text)) for text in each.exclude),
        )

    def _repository(self, each: ins.Copy, text: str) -> GitSource | None:
        try:
            found = git_source(text)
        except ValueError as error:
            raise each.place.error(f"ADD {text}: {error}") from None
        if each.keep_git_dir and found is not None and found.directory:
            raise each.place.error(f"ADD --keep-git-dir {text}: the repository of a part of its files is of no use")
        return found

    def _source(self, each: ins.Copy, text: str) -> str:
        """A source relative to the top of the context, stage or image; `..` does not lead out of it."""
        if "\0" in text:
            raise each.place.error(f"{each.keyword}: a source has a NUL in it")
        if not each.parents:
            return _inside(text)
        before, pivot, after = text.partition("/./")
        above, kept = (_inside(before), _inside(after)) if pivot else (".", _inside(text))
        if "**" in above or any("**" in part and part != "**" for part in kept.split("/")):
            raise each.place.error(f"COPY --parents {text}: ** is for whole directories that are kept", "d/**/*.txt")
        return f"{above}/./{kept}" if above != "." else kept

    def _excluded(self, each: ins.Copy, text: str) -> str:
        pattern = _inside(text)
        if text.startswith("!") or pattern == ".":
            raise each.place.error(f"{each.keyword} --exclude={text}: not a pattern of files to leave out")
        return expression(pattern)

    def _copy_target(self, each: ins.Copy, expander: Expander, count: int) -> str:
        text = expander.word(each.target)
        if not text or "\0" in text:
            raise each.place.error(f"{each.keyword} {each.target!r}: not a target")
        is_directory = each.parents or text.endswith("/") or posixpath.basename(text) in (".", "..")
        if count > 1 and not is_directory:
            raise each.place.error(
                f"{each.keyword} {text}: with several sources the target must be a directory", "end it with a slash"
            )
        path = posixpath.normpath(posixpath.join(self._spec.working_dir, text))
        path = "/" + path.lstrip("/")
        return path if not is_directory or path == "/" else f"{path}/"

    def _owner(self, each: ins.Copy, expander: Expander) -> str:
        owner = expander.word(each.chown)
        if owner and not _USER.fullmatch(owner):
            raise each.place.error(f"{each.keyword} --chown={owner}: not name or name:group")
        return owner

    def _mode(self, each: ins.Copy, expander: Expander) -> str:
        mode = expander.word(each.chmod)
        try:
            if mode:
                modes.parse(mode)
        except ValueError as error:
            raise each.place.error(f"{each.keyword} --chmod={mode}: {error}") from None
        return mode


def _inside(text: str) -> str:
    """A path relative to the top; `..` does not lead out of it."""
    return posixpath.normpath(posixpath.join("/", text)).lstrip("/") or "."


SCRIPT = "/dev/moorage-script"
"""Where a RUN that is a here-document with a `#!` line finds it."""
