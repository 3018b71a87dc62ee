"""The instructions of a Dockerfile as data: what was written, with variables not yet replaced."""

from __future__ import annotations

from dataclasses import dataclass

from moorage.server.builder.lexer import Heredoc
from moorage.server.builder.source import Place


@dataclass(frozen=True)
class Command:
    """A command: the words of the exec form, or one text for the shell."""

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True)
class Instruction:
    """Any instruction; `text` is how it is shown, in one line."""

    place: Place
    text: str


@dataclass(frozen=True)
class From(Instruction):
    """FROM [--platform=] image [AS name]."""

    image: str
    name: str = ""
    platform: str = ""


@dataclass(frozen=True)
class Arg(Instruction):
    """ARG name[=default] …"""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True)
class Env(Instruction):
    """ENV name=value …"""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Label(Instruction):
    """LABEL name=value … (and MAINTAINER)"""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Run(Instruction):
    """RUN; the flags `--mount` as written."""

    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[str, ...] = ()
    network: str = ""


@dataclass(frozen=True)
class Copy(Instruction):
    """COPY and ADD (`add`). `sources` may name here-documents."""

    sources: tuple[str, ...]
    target: str
    heredocs: tuple[Heredoc, ...] = ()
    add: bool = False
    origin: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    checksum: str = ""
    unpack: bool | None = None
    parents: bool = False
    exclude: tuple[str, ...] = ()
    keep_git_dir: bool = False

    @property
    def keyword(self) -> str:
        return "ADD" if self.add else "COPY"


@dataclass(frozen=True)
class Workdir(Instruction):
    """WORKDIR path."""

    path: str


@dataclass(frozen=True)
class User(Instruction):
    """USER name[:group]."""

    user: str


@dataclass(frozen=True)
class Volume(Instruction):
    """VOLUME path …"""

    paths: tuple[str, ...]


@dataclass(frozen=True)
class Expose(Instruction):
    """EXPOSE port[/protocol] …"""

    ports: tuple[str, ...]


@dataclass(frozen=True)
class Cmd(Instruction):
    """CMD."""

    command: Command


@dataclass(frozen=True)
class Entrypoint(Instruction):
    """ENTRYPOINT."""

    command: Command


@dataclass(frozen=True)
class Shell(Instruction):
    """SHELL [words]."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class StopSignal(Instruction):
    """STOPSIGNAL name."""

    signal: str


@dataclass(frozen=True)
class Healthcheck(Instruction):
    """HEALTHCHECK; no command is NONE. Times in nanoseconds, 0 for the default."""

    command: Command | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True)
class Onbuild(Instruction):
    """ONBUILD instruction; `trigger` is the instruction's text, checked for its form."""

    trigger: str
