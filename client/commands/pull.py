"""`moorage pull`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from moorage.client import format, parse
from moorage.client.console import Parsed, Settings, pass_settings, say

if TYPE_CHECKING:
    from moorage.v1 import image_pb2


@click.command()
@click.argument("image")
@click.option("--platform", type=Parsed("OS/ARCH[/VARIANT]", parse.platform), default=None, help="Platform to choose.")
@click.option("-u", "--username", default="", help="User name for the registry, for this pull only.")
@click.option("--password-stdin", is_flag=True, help="Read its password from stdin.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; print only the ID.")
@pass_settings
def command(
    settings: Settings,
    image: str,
    platform: image_pb2.Platform | None,
    username: str,
    password_stdin: bool,
    quiet: bool,
) -> None:
    """Bring IMAGE from its registry."""
    from moorage.client.pulling import pull

    auth = _auth(username, password_stdin)
    with settings.client() as client:
        pulled = pull(client, image, platform=platform, auth=auth, quiet=quiet)
    if quiet:
        say(pulled.id)
    else:
        say(f"{image}: {pulled.id} ({format.size(pulled.size_bytes)})")


def _auth(username: str, password_stdin: bool) -> image_pb2.RegistryAuth | None:
    if bool(username) != password_stdin:
        raise click.UsageError("--username and --password-stdin belong together")
    if not username:
        return None
    from moorage.v1 import image_pb2

    password = sys.stdin.readline().rstrip("\r\n")
    return image_pb2.RegistryAuth(username=username, password=password)
