"""`moorage pull`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import click

from moorage.client import format, names, parse
from moorage.client.auth import auth_for, auth_options
from moorage.client.console import Parsed, Settings, each, pass_settings, say, tell
from moorage.client.errors import Unimplemented

if TYPE_CHECKING:
    from moorage.v1 import image_pb2

REFERRERS = re.compile(r"sha256-[0-9a-f]{64}(\.\w+)?")
"""Tags that list what refers to an image, or hold its signatures."""


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
@click.option("-a", "--all-tags", is_flag=True, help="Every tag of the repository IMAGE that is an image.")
@auth_options
@click.option("-q", "--quiet", is_flag=True, help="No progress; print only the ID.")
@pass_settings
def command(
    settings: Settings,
    image: str,
    platform: image_pb2.Platform | None,
    policy: Literal["always", "missing", "never"],
    all_tags: bool,
    username: str,
    password_stdin: bool,
    quiet: bool,
) -> None:
    """Bring IMAGE from its registry."""
    from moorage.client.pulling import pull

    if all_tags and not names.is_repository(image):
        raise click.UsageError("--all-tags goes with a repository: IMAGE has a tag or a digest")
    auth = auth_for(image, username, password_stdin)
    with settings.client() as client:

        def one(name: str) -> bool:
            try:
                pulled = pull(client, name, platform=platform, auth=auth, policy=policy, quiet=quiet)
            except Unimplemented as error:
                if not all_tags or error.reason != "NOT_AN_IMAGE":
                    raise
                tell(f"{name} is passed over: {error.message}")
                return False
            say(pulled.id if quiet else f"{name}: {pulled.id} ({format.size(pulled.size_bytes)})")
            return False

        if all_tags:
            tags = client.registry.tags(image, auth=auth)
            each([f"{image}:{tag}" for tag in tags if not REFERRERS.fullmatch(tag)], one)
        else:
            one(image)
