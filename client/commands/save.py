"""`moorage save`."""

from __future__ import annotations

import click

from moorage.client.console import Settings, image_argument, pass_settings
from moorage.client.files import write_archive


@click.command()
@image_argument(many=True)
@click.option("-o", "--output", metavar="FILE", default="", help="Write to FILE instead of stdout.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["oci", "docker"]),
    default="oci",
    show_default=True,
    help="oci: an OCI image layout that docker load reads too; docker: the older form, with plain layers.",
)
@click.option(
    "--all-platforms",
    is_flag=True,
    help="Save the indexes that the images were pulled by, with the images of all platforms.",
)
@pass_settings
def command(settings: Settings, images: tuple[str, ...], output: str, layout: str, all_platforms: bool) -> None:
    """Write images to one tar archive, which `moorage load`, skopeo and Docker read."""
    from moorage.v1 import image_pb2

    chosen = image_pb2.ARCHIVE_FORMAT_DOCKER if layout == "docker" else image_pb2.ARCHIVE_FORMAT_OCI
    with (
        settings.client() as client,
        client.images.save(images, format=chosen, all_platforms=all_platforms) as stream,
    ):
        write_archive((piece.data for piece in stream), output)
