"""Pulling with progress, and creating a container whose image may have to be pulled first."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from moorage.client import format
from moorage.client.console import tell
from moorage.client.errors import NotFound
from moorage.client.jsonout import enum_word

if TYPE_CHECKING:
    from moorage.client.sdk import Client
    from moorage.v1 import image_pb2, runtime_pb2

Show = Callable[["image_pb2.PullImageResponse"], None]


def pull(
    client: Client,
    reference: str,
    *,
    platform: image_pb2.Platform | None = None,
    auth: image_pb2.RegistryAuth | None = None,
    quiet: bool = False,
) -> image_pb2.Image:
    """Pull an image and show progress on stderr: bars on a terminal, a line a stage otherwise, nothing when `quiet`."""
    with client.images.pull(reference, platform=platform, auth=auth) as pulling, _progress(quiet) as show:
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


@contextmanager
def _progress(quiet: bool) -> Iterator[Show]:
    if quiet:
        yield lambda step: None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _lines()


def _word(step: image_pb2.PullImageResponse) -> str:
    from moorage.v1 import image_pb2

    return enum_word(image_pb2.PullStage.DESCRIPTOR, step.stage)


def _lines() -> Show:
    """A line whenever an item comes to a new stage."""
    stages: dict[str, int] = {}

    def show(step: image_pb2.PullImageResponse) -> None:
        if stages.get(step.digest) == step.stage or not step.stage:
            return
        stages[step.digest] = step.stage
        size = f" {format.size(step.total_bytes)}" if step.total_bytes else ""
        tell(f"{format.short_id(step.digest) or 'image'}: {_word(step)}{size}")

    return show


@contextmanager
def _bars() -> Iterator[Show]:
    """A bar an item: its digest, stage, and bytes of total."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

    columns = (TextColumn("{task.description}"), TextColumn("{task.fields[stage]:<11}"), BarColumn(), DownloadColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as bars:

        def show(step: image_pb2.PullImageResponse) -> None:
            if not step.digest or not step.stage:
                return
            if step.digest not in tasks:
                tasks[step.digest] = bars.add_task(format.short_id(step.digest), stage="", total=None)
            total = step.total_bytes or None
            stage = _word(step)
            ended = stage in ("done", "exists") and total is not None
            bars.update(tasks[step.digest], stage=stage, total=total, completed=total if ended else step.current_bytes)

        yield show
