"""`moorage run`: create, start, and stay with a container."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from moorage.client.console import Settings, detach_keys_option, engine_failure, pass_settings, say, tell
from moorage.client.createoptions import CONTEXT, config_from, create_options
from moorage.client.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from moorage.client.interact import Wishes
    from moorage.client.sdk import Client
    from moorage.client.streams import Session


@click.command(context_settings=CONTEXT)
@create_options
@click.option("-d", "--detach", is_flag=True, help="Leave it running, and print its ID.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on (not with a terminal).")
@detach_keys_option
@pass_settings
@engine_failure()
def command(settings: Settings, image: str, command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND in a new container of IMAGE, and exit as it does."""
    from moorage.client.interact import Wishes
    from moorage.client.pulling import create

    config = config_from(image, command, options)
    wishes = Wishes(
        stdin=options["interactive"],
        tty=options["tty"],
        detach_keys=options["detach_keys"],
        forward_signals=options["sig_proxy"],
    )
    if not options["detach"]:
        wishes.check()
    with settings.client() as client:
        container = create(client, config, name=options["name"], policy=options["pull"], platform=options["platform"])
        if not options["detach"]:
            return _stay(client, container, wishes, auto_remove=options["auto_remove"])
        with _removed_on_failure(client, container, options["auto_remove"]):
            client.containers.start(container)
        say(container)
        return 0


def _stay(client: Client, container: str, wishes: Wishes, *, auto_remove: bool) -> int:
    from moorage.client import terminal
    from moorage.client.interact import interact

    def open_session() -> Session:
        with _removed_on_failure(client, container, auto_remove):
            return client.containers.attach(
                container,
                start=True,
                stdin=wishes.stdin,
                stderr=not wishes.tty,
                size=terminal.size() if wishes.tty else None,
                lossless=True,
            )

    exited = interact(open_session, wishes)
    if exited is None:
        return 0
    if exited.oom_killed:
        tell("moorage: the container ran out of memory (OOMKilled)")
    return exited.exit_code


@contextmanager
def _removed_on_failure(client: Client, container: str, auto_remove: bool) -> Iterator[None]:
    """A container that could not be started and was to be removed goes now; one whose daemon has gone may be running."""
    try:
        yield
    except Unavailable:
        raise
    except BaseException:
        if auto_remove:
            with suppress(NotFound):
                client.containers.remove(container, force=True)
        raise
