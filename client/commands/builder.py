"""`moorage builder prune`."""

from __future__ import annotations

from datetime import timedelta

import click

from moorage.client import format, parse
from moorage.client.console import Parsed, Settings, pass_settings, say


@click.group(name="builder")
def command() -> None:
    """Look after the build cache."""


@command.command()
@click.option(
    "--unused-for",
    type=Parsed("DURATION", parse.duration),
    default="0s",
    help="Only what was not used for so long: 24h.",
)
@click.option("-a", "--all", "caches", is_flag=True, help="The directories of RUN --mount=type=cache, too.")
@pass_settings
def prune(settings: Settings, unused_for: timedelta, caches: bool) -> None:
    """Forget what builds have cached, and delete the layers that nothing else holds."""
    with settings.client() as client:
        pruned = client.builds.prune(unused_seconds=int(unused_for.total_seconds()), caches=caches)
    say(f"{pruned.steps} steps forgotten, {format.size(pruned.reclaimed_bytes)} reclaimed")
