"""Pulling with progress, and creating a container whose image may have to be pulled first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from moorage.client import format
from moorage.client.auth import auth_for
from moorage.client.console import tell
from moorage.client.errors import NotFound
from moorage.client.progress import progress

if TYPE_CHECKING:
    from moorage.client.sdk import Client
    from moorage.v1 import image_pb2, runtime_pb2


def pull(
    client: Client,
    reference: str,
    *,
    platform: image_pb2.Platform | None = None,
    auth: image_pb2.RegistryAuth | None = None,
    policy: Literal["always", "missing", "never"] = "always",
    quiet: bool = False,
) -> image_pb2.Image:
    """Pull an image and show progress on stderr: bars on a terminal, a line a stage otherwise, nothing when `quiet`."""
    auth = auth or auth_for(reference)
    running = client.images.pull(reference, platform=platform, auth=auth, policy=policy)
    with running as pulling, progress(quiet) as show:
        for step in pulling:
            show(step)
        return pulling.result()


def create(
    client: Client,
    config: runtime_pb2.ContainerConfig,
    *,
    name: str,
    policy: Literal["missing", "always", "never"],
    platform: image_pb2.Platform | None,
) -> str:
    """Create a container, pulling its image as `policy` says; answers its ID. Warnings go to stderr."""
    if policy == "always" or (policy == "missing" and platform and not _is_here(client, config.image, platform)):
        pull(client, config.image, platform=platform)
    try:
        created = client.containers.create(config, name=name)
    except NotFound as error:
        if policy == "never" or _names_an_id(config.image) or _is_here(client, config.image, None):
            raise error
        tell(f"image {config.image} is not here: pulling")
        pull(client, config.image, platform=platform)
        created = client.containers.create(config, name=name)
    for warning in created.warnings:
        tell(f"warning: {format.printable(warning)}")
    return created.id


def _names_an_id(reference: str) -> bool:
    return re.fullmatch(r"(sha256:)?[0-9a-f]{64}", reference) is not None


def _is_here(client: Client, reference: str, platform: image_pb2.Platform | None) -> bool:
    try:
        image = client.images.get(reference)
    except NotFound:
        return False
    if platform is None:
        return True
    wanted, found = platform, image.platform
    return (wanted.os, wanted.architecture) == (found.os, found.architecture) and wanted.variant in ("", found.variant)
