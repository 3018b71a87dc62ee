"""`moorage push`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moorage.client import format, names
from moorage.client.auth import auth_for, auth_options
from moorage.client.console import Settings, each, format_option, image_argument, pass_settings, say, say_json, tell
from moorage.client.jsonout import to_dict

if TYPE_CHECKING:
    from moorage.client.sdk import Client
    from moorage.v1 import image_pb2


@click.command()
@image_argument()
@click.argument("destination", default="")
@auth_options
@click.option(
    "--all-platforms", is_flag=True, help="Send the index that IMAGE was pulled by, with the images of all platforms."
)
@click.option("-a", "--all-tags", is_flag=True, help="Every tag that the repository IMAGE has here.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; print only the digest.")
@format_option
@pass_settings
def command(
    settings: Settings,
    image: str,
    destination: str,
    username: str,
    password_stdin: bool,
    all_platforms: bool,
    all_tags: bool,
    quiet: bool,
    output: str,
) -> None:
    """Send IMAGE to its registry.

    Under the name that IMAGE is, or under DESTINATION.
    """
    if all_tags and (destination or not names.is_repository(image)):
        raise click.UsageError(
            "--all-tags goes with a repository alone: there is a DESTINATION, or IMAGE has a tag or a digest"
        )
    auth = auth_for(destination or image, username, password_stdin)
    with settings.client() as client:

        def one(name: str) -> bool:
            _push(client, name, destination, auth, all_platforms, quiet, output)
            return False

        if all_tags:
            tags = [tag for found in client.images.list(image) for tag in found.tags]
            if not tags:
                raise click.ClickException(f"no image here has a tag in {image}")
            each(tags, one)
        else:
            one(image)


def _push(
    client: Client,
    image: str,
    destination: str,
    auth: image_pb2.RegistryAuth | None,
    all_platforms: bool,
    quiet: bool,
    output: str,
) -> None:
    from moorage.client.progress import progress

    running = client.images.push(image, destination, auth=auth, all_platforms=all_platforms)
    with running as pushing, progress(quiet or output == "json") as show:
        for step in pushing:
            show(step)
        pushed = pushing.result()
    if pushed.rewritten:
        tell("warning: the blob of a layer was gone: it was packed again, and the digest is not that of the image here")
    if output == "json":
        say_json(to_dict(pushed))
    elif quiet:
        say(pushed.digest)
    else:
        say(f"{pushed.reference}: {pushed.digest} ({format.size(pushed.size_bytes)})")
