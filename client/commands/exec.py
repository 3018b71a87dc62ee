"""`moorage exec`: one more process in a running container."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moorage.client import parse
from moorage.client.console import (
    Settings,
    container_argument,
    detach_keys_option,
    engine_failure,
    pass_settings,
)
from moorage.client.createoptions import CONTEXT

if TYPE_CHECKING:
    from moorage.client.streams import Session


@click.command(context_settings=CONTEXT)
@container_argument(all=False)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-i", "--interactive", is_flag=True, help="Pass stdin on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a pseudo-terminal.")
@click.option("-d", "--detach", is_flag=True, help="Leave it running.")
@click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="Environment; KEY alone takes the value here.")
@click.option("--env-file", multiple=True, metavar="FILE", help="Environment, a KEY=VALUE a line.")
@click.option("-w", "--workdir", default="", metavar="DIR", help="Directory to start in.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="User, by name or number.")
@click.option("--privileged", is_flag=True, help="Every capability.")
@detach_keys_option
@pass_settings
@engine_failure()
def command(
    settings: Settings,
    container: str,
    command: tuple[str, ...],
    interactive: bool,
    tty: bool,
    detach: bool,
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    workdir: str,
    user: str,
    privileged: bool,
    detach_keys: bytes,
) -> int:
    """Run COMMAND in a running CONTAINER, and exit as it does."""
    from moorage.client import terminal
    from moorage.client.interact import Wishes, interact

    environment = _environment(env, env_file)
    wishes = Wishes(stdin=interactive and not detach, tty=tty, detach_keys=detach_keys)
    wishes.check()
    with settings.client() as client:

        def open_session() -> Session:
            return client.containers.exec(
                container,
                command,
                env=environment,
                working_dir=workdir,
                user=user,
                tty=tty,
                stdin=wishes.stdin,
                size=terminal.size() if tty else None,
                detach=detach,
                privileged=privileged,
            )

        if detach:
            with open_session() as session:
                for _ in session:
                    continue
            return 0
        exited = interact(open_session, wishes)
        return exited.exit_code if exited is not None else 0


def _environment(env: tuple[str, ...], env_file: tuple[str, ...]) -> list[str]:
    try:
        return parse.environment([*(entry for path in env_file for entry in parse.env_file(path)), *env])
    except ValueError as error:
        raise click.UsageError(str(error)) from None
