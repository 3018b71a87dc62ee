"""Credentials for a call to a registry: those of the command line, else those that `moorage login` keeps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moorage.client.console import tell_error
from moorage.client.credentials import Credentials, Store, registry_of
from moorage.client.errors import MoorageError

if TYPE_CHECKING:
    from moorage.v1 import image_pb2

F = TypeVar("F", bound=Callable[..., Any])


def auth_options(function: F) -> F:
    """--username and --password-stdin."""
    function = click.option("--password-stdin", is_flag=True, help="Read its password from stdin.")(function)
    return click.option("-u", "--username", default="", help="User name for the registry, for this call only.")(
        function
    )


def auth_for(reference: str, username: str = "", password_stdin: bool = False) -> image_pb2.RegistryAuth | None:
    """What to show the registry of a reference. Trouble with what is kept is told, and the call goes on without."""
    if bool(username) != password_stdin:
        raise click.UsageError("--username and --password-stdin belong together")
    if username:
        return message(Credentials(username, sys.stdin.readline().rstrip("\r\n")))
    registry = registry_of(reference)
    try:
        kept = Store().get(registry)
    except MoorageError as error:
        tell_error(error)
        return None
    return message(kept, registry) if kept else None


def message(credentials: Credentials, registry: str = "") -> image_pb2.RegistryAuth:
    """Credentials as the API takes them; shown to `registry` alone where one is named."""
    from moorage.v1 import image_pb2

    return image_pb2.RegistryAuth(
        username=credentials.username,
        password=credentials.password,
        identity_token=credentials.identity_token,
        registry=registry,
    )
