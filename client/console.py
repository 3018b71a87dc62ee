"""What the commands of the CLI share: settings, output, option types, exit codes.

Nothing here loads gRPC before a command asks for the client.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import click

from moorage.client import format
from moorage.client.connection import TLS
from moorage.client.errors import MoorageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from google.protobuf.message import Message

    from moorage.client.sdk import Client

F = TypeVar("F", bound=Callable[..., Any])

ENGINE_FAILED = 125
"""Exit code of run, create and exec when it is not the container's command that failed."""


@dataclass(frozen=True)
class Settings:
    """The global options."""

    host: str
    tls: TLS
    insecure: bool

    def client(self, timeout: float | None = None) -> Client:
        """Connect to the daemon. Use it as a context manager."""
        from moorage.client.sdk import Client

        return Client(self.host, tls=self.tls, insecure=self.insecure, timeout=timeout)


def pass_settings(function: F) -> F:
    """Give a command the Settings as its first argument."""
    return cast(F, click.make_pass_decorator(Settings)(function))


class Failure(Exception):
    """A command failed with an exit code of its own. `error` is what to print; None when all has been said."""

    def __init__(self, exit_code: int, error: MoorageError | None = None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code
        self.error = error


@contextmanager
def engine_failure() -> Iterator[None]:
    """Turn errors of the daemon into exit code 126 or 127 where the command could not be run, else 125.

    Also a decorator.
    """
    try:
        yield
    except MoorageError as error:
        raise Failure(error.exit_code or ENGINE_FAILED, error) from error


def say(text: str) -> None:
    """A line on stdout."""
    click.echo(text, color=coloured(sys.stdout))


def tell(text: str) -> None:
    """A line on stderr, for people."""
    click.echo(text, err=True, color=coloured(sys.stderr))


def coloured(stream: IO[str]) -> bool:
    """Whether colours are welcome there (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def tell_error(error: MoorageError) -> None:
    """`moorage: message`, and the hint on a line of its own."""
    tell(f"{click.style('moorage:', fg='red', bold=True)} {format.printable(error.message)}")
    if error.hint:
        tell(f"{click.style('hint:', bold=True)} {format.printable(error.hint)}")


def say_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """An aligned table on stdout."""
    say("\n".join(format.table(headers, rows)))


def say_json(value: object, *, indent: int | None = None) -> None:
    """A JSON document on stdout."""
    say(json.dumps(value, indent=indent, ensure_ascii=False))


def say_messages(messages: Iterable[Message]) -> None:
    """Messages of the API as one JSON list on stdout."""
    from moorage.client.jsonout import to_dict

    say_json([to_dict(message) for message in messages])


def each(names: Iterable[str], action: Callable[[str], object]) -> None:
    """Do `action` to every name and print the name, unless it answers False; tell errors as they come and fail at the
    end if there were any.
    """
    failed = False
    for name in names:
        try:
            done = action(name)
        except MoorageError as error:
            tell_error(error)
            failed = True
        else:
            if done is not False:
                say(name)
    if failed:
        raise Failure(1)


class Parsed(click.ParamType[Any]):
    """An option or argument read by a function of `moorage.client.parse`."""

    def __init__(self, name: str, function: Callable[[str], object]) -> None:
        self.name = name
        self._function = function

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._function(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def format_option(function: F) -> F:
    """--format table|json, as `output`."""
    return click.option(
        "--format",
        "output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="How to print.",
    )(function)


def detach_keys_option(function: F) -> F:
    """--detach-keys, as bytes."""
    from moorage.client import parse

    return click.option(
        "--detach-keys",
        type=Parsed("KEYS", parse.detach_keys),
        default="ctrl-p,ctrl-q",
        show_default=True,
        help="Keys that leave the container running; empty for none.",
    )(function)


def _complete(fetch: Callable[[Client], Iterable[str]]) -> Callable[..., list[CompletionItem]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        settings = ctx.find_object(Settings)
        if settings is None:  # completion parses the line without running the group
            root = ctx.find_root().params
            settings = Settings(root.get("host") or "", TLS(), bool(root.get("insecure_loopback")))
        with suppress(MoorageError), settings.client(timeout=1.0) as client:
            return [CompletionItem(name) for name in fetch(client) if name.startswith(incomplete)]
        return []

    return complete


def container_argument(*, many: bool = False, all: bool = True) -> Callable[[F], F]:
    """The CONTAINER argument, completed from the daemon: of those that run, or of `all`."""
    complete = _complete(lambda client: [container.name for container in client.containers.list(all=all)])
    if many:
        return click.argument("containers", metavar="CONTAINER...", nargs=-1, required=True, shell_complete=complete)
    return click.argument("container", shell_complete=complete)


def image_argument(*, many: bool = False) -> Callable[[F], F]:
    """The IMAGE argument, completed from the daemon."""
    complete = _complete(lambda client: [tag for image in client.images.list() for tag in image.tags])
    if many:
        return click.argument("images", metavar="IMAGE...", nargs=-1, required=True, shell_complete=complete)
    return click.argument("image", shell_complete=complete)


def network_argument(*, many: bool = False) -> Callable[[F], F]:
    """The NETWORK argument, completed from the daemon."""
    complete = _complete(lambda client: [network.name for network in client.networks.list()])
    if many:
        return click.argument("networks", metavar="NETWORK...", nargs=-1, required=True, shell_complete=complete)
    return click.argument("network", shell_complete=complete)
