"""`moorage jobs`: the daemon's work in progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moorage.client import format
from moorage.client.console import Settings, each, format_option, pass_settings, say, say_messages, say_table
from moorage.client.jsonout import enum_word

if TYPE_CHECKING:
    from moorage.v1 import system_pb2

HEADERS = ("ID", "VERB", "OBJECT", "CALLER", "STATE", "TIME", "ERROR", "LONGEST STAGES")
STAGES_SHOWN = 3


@click.group(invoke_without_command=True)
@click.option("-a", "--all", "every", is_flag=True, help="Also the last that have ended.")
@click.option("-q", "--quiet", is_flag=True, help="Print only numbers.")
@click.option("--no-trunc", is_flag=True, help="Print everything whole, and all stages.")
@format_option
@pass_settings
@click.pass_context
def command(ctx: click.Context, settings: Settings, every: bool, quiet: bool, no_trunc: bool, output: str) -> None:
    """List the daemon's jobs that run now, oldest first."""
    if ctx.invoked_subcommand is not None:
        return
    with settings.client() as client:
        jobs = client.system.jobs(all=every)
    if output == "json":
        say_messages(jobs)
    elif quiet:
        for job in jobs:
            say(str(job.id))
    else:
        say_table(HEADERS, [_row(job, no_trunc) for job in jobs])


@command.command()
@click.argument("jobs", metavar="ID...", nargs=-1, required=True, type=int)
@pass_settings
def cancel(settings: Settings, jobs: tuple[int, ...]) -> None:
    """Ask jobs to stop and undo what they half did."""
    with settings.client() as client:
        each([str(job) for job in jobs], lambda job: client.system.cancel_job(int(job)))


def _row(job: system_pb2.Job, no_trunc: bool) -> tuple[str, ...]:
    from moorage.v1 import system_pb2

    stages = list(job.stages)
    if not no_trunc:
        stages = sorted(stages, key=lambda stage: -stage.duration_nanos)[:STAGES_SHOWN]
    return (
        str(job.id),
        job.verb,
        job.object if no_trunc else format.shorten(job.object, 32),
        job.caller,
        enum_word(system_pb2.JobState.DESCRIPTOR, job.state),
        format.brief_duration(job.duration_nanos),
        job.error if no_trunc else format.shorten(job.error, 60),
        ", ".join(f"{stage.name} {format.brief_duration(stage.duration_nanos)}" for stage in stages),
    )
