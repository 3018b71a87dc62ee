"""`moorage rmi`."""

from __future__ import annotations

import click

from moorage.client import format
from moorage.client.console import Failure, Settings, image_argument, pass_settings, say, tell, tell_error
from moorage.client.errors import MoorageError, NotFound


@click.command()
@image_argument(many=True)
@click.option("-f", "--force", is_flag=True, help="Although containers hold it; one that is not there is fine.")
@pass_settings
def command(settings: Settings, images: tuple[str, ...], force: bool) -> None:
    """Remove images.

    A tag, or by ID the image with all its tags. With --force the names of an image that containers hold go now, and the image with the
    last of these.
    """
    failed = False
    reclaimed = 0
    with settings.client() as client:
        for reference in images:
            try:
                removed = client.images.remove(reference, force=force)
            except MoorageError as error:
                tell_error(error)
                failed = failed or not (force and isinstance(error, NotFound))
                continue
            for name in removed.untagged:
                say(f"untagged: {name}")
            for identifier in removed.deleted:
                say(f"deleted: {identifier}")
            reclaimed += removed.reclaimed_bytes
    if reclaimed:
        tell(f"reclaimed {format.size(reclaimed)}")
    if failed:
        raise Failure(1)
