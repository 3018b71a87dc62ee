"""`moorage attach`: connect to a running container's streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moorage.client.console import Settings, container_argument, detach_keys_option, pass_settings
from moorage.client.errors import FailedPrecondition

if TYPE_CHECKING:
    from moorage.client.sdk import Client
    from moorage.client.streams import Session
    from moorage.v1 import runtime_pb2


@click.command()
@container_argument(all=False)
@click.option("--no-stdin", is_flag=True, help="Only look on.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on (not with a terminal).")
@detach_keys_option
@pass_settings
def command(settings: Settings, container: str, no_stdin: bool, sig_proxy: bool, detach_keys: bytes) -> int:
    """Connect to a running CONTAINER, and exit as it does."""
    from moorage.v1 import runtime_pb2

    with settings.client() as client:
        found = client.containers.get(container)
        if found.state != runtime_pb2.CONTAINER_STATE_RUNNING:
            raise FailedPrecondition(f"container {found.name} is not running", hint=f"moorage start -a {found.name}")
        return stay(client, found, start=False, stdin=not no_stdin, forward_signals=sig_proxy, detach_keys=detach_keys)


def stay(
    client: Client,
    container: runtime_pb2.Container,
    *,
    start: bool,
    stdin: bool,
    forward_signals: bool,
    detach_keys: bytes,
) -> int:
    """Attach to a container made before, as its own configuration asks; answers its exit code, 0 after a detach."""
    from moorage.client import terminal
    from moorage.client.interact import Wishes, interact

    config = container.config
    wishes = Wishes(
        stdin=stdin and config.stdin_open, tty=config.tty, detach_keys=detach_keys, forward_signals=forward_signals
    )
    wishes.check()

    def open_session() -> Session:
        return client.containers.attach(
            container.id,
            start=start,
            stdin=wishes.stdin,
            stderr=not config.tty,
            size=terminal.size() if config.tty else None,
            lossless=start,
        )

    exited = interact(open_session, wishes)
    return exited.exit_code if exited is not None else 0
