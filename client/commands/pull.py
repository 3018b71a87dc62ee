"""`moorage pull`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from moorage.client import format, parse
from moorage.client.auth import auth_for, auth_options
from moorage.client.console import Parsed, Settings, pass_settings, say

if TYPE_CHECKING:
    from moorage.v1 import image_pb2


@click.command()
@click.argument("image")
@click.option("--platform", type=Parsed("OS/ARCH[/VARIANT]", parse.platform), default=None, help="Platform to choose.")
@click.option(
    "--policy",
    type=click.Choice(["always", "missing", "never"]),
    default="always",
    show_default=True,
    help="When to ask the registry.",
)
@auth_options
@click.option("-q", "--quiet", is_flag=True, help="No progress; print only the ID.")
@pass_settings
def command(
    settings: Settings,
    image: str,
    platform: image_pb2.Platform | None,
    policy: Literal["always", "missing", "never"],
    username: str,
    password_stdin: bool,
    quiet: bool,
) -> None:
    """Bring IMAGE from its registry."""
    from moorage.client.pulling import pull

    auth = auth_for(image, username, password_stdin)
    with settings.client() as client:
        pulled = pull(client, image, platform=platform, auth=auth, policy=policy, quiet=quiet)
    if quiet:
        say(pulled.id)
    else:
        say(f"{image}: {pulled.id} ({format.size(pulled.size_bytes)})")
