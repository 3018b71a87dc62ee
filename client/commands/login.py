"""`moorage login`."""

from __future__ import annotations

import sys

import click

from moorage.client.auth import message
from moorage.client.console import Settings, pass_settings, say, tell
from moorage.client.credentials import Credentials, Store, registry_named


@click.command()
@click.argument("registry", default="docker.io")
@click.option("-u", "--username", default="", help="User name.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
@pass_settings
def command(settings: Settings, registry: str, username: str, password_stdin: bool) -> None:
    """Log in to REGISTRY.

    The credentials are tried there, and kept in $DOCKER_CONFIG/config.json (~/.docker/config.json) or in the credential helper that it
    names. Without REGISTRY: Docker Hub.
    """
    registry = registry_named(registry)
    username = username or _ask("Username")
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else _ask("Password", hide=True)
    if not password:
        raise click.UsageError("the password is empty")
    credentials = Credentials(username, password)
    with settings.client() as client:
        if not client.registry.authenticate(registry, message(credentials, registry)):
            tell(f"warning: {registry} asks for no credentials: whether they are right cannot be known")
    where = Store().put(registry, credentials)
    say(f"logged in to {registry}; the credentials are in {where}")


def _ask(what: str, *, hide: bool = False) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError("stdin is not a terminal: give --username and --password-stdin")
    answer: str = click.prompt(what, hide_input=hide, err=True)
    return answer
