"""`moorage push`."""

from __future__ import annotations

import click

from moorage.client import format
from moorage.client.auth import auth_for, auth_options
from moorage.client.console import Settings, format_option, image_argument, pass_settings, say, say_json, tell
from moorage.client.jsonout import to_dict


@click.command()
@image_argument()
@click.argument("destination", default="")
@auth_options
@click.option(
    "--all-platforms", is_flag=True, help="Send the index that IMAGE was pulled by, with the images of all platforms."
)
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
    quiet: bool,
    output: str,
) -> None:
    """Send IMAGE to its registry.

    Under the name that IMAGE is, or under DESTINATION.
    """
    from moorage.client.progress import progress

    auth = auth_for(destination or image, username, password_stdin)
    with settings.client() as client:
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
