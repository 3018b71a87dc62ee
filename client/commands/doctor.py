"""`moorage doctor`: what this host has and lacks, without a daemon."""

from __future__ import annotations

from dataclasses import asdict

import click

from moorage.client import format
from moorage.client.console import Failure, format_option, say, say_json

_COLOURS = {"ok": "green", "degraded": "yellow", "missing": "red"}


@click.command()
@click.option(
    "--root", default="/var/lib/moorage", show_default=True, metavar="DIR", help="The daemon's root directory."
)
@format_option
def command(root: str, output: str) -> None:
    """Examine this host.

    Tells what it has, what it lacks, and what that costs. Exits with 1 when something essential is missing.
    """
    from moorage.server import doctor

    findings = doctor.examine(root)
    if output == "json":
        say_json([asdict(finding) for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            state = click.style(f"{finding.state:8}", fg=_COLOURS[finding.state])
            say(f"{state} {finding.name:{width}}   {format.printable(finding.detail)}")
            for label, text in (("costs", finding.cost), ("hint", finding.hint)):
                if text:
                    say(f"{'':{width + 12}}{label}: {text}")
    if any(finding.state == "missing" for finding in findings):
        raise Failure(1)
