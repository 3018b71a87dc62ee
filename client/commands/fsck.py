"""`moorage fsck`."""

from __future__ import annotations

import click

from moorage.client import format
from moorage.client.console import Failure, Settings, pass_settings, say, say_json
from moorage.client.jsonout import to_dict


@click.command()
@click.option("--repair", is_flag=True, help="Mend what can be mended, by pulling again.")
@click.option("--files", is_flag=True, help="Compare the files of layers with their blobs, fetched where not kept.")
@click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@pass_settings
def command(settings: Settings, repair: bool, files: bool, output: str) -> None:
    """Verify every blob, layer, image and name of the image store.

    Exits 1 while something is wrong. Garbage, which nothing reaches, is told and harms nobody.
    """
    findings = []
    with settings.client() as client, client.system.check_store(repair=repair, files=files) as steps:
        for step in steps:
            match step.WhichOneof("message"):
                case "finding":
                    findings.append(step.finding)
                    if output == "table":
                        _say(step.finding)
                case "summary":
                    summary = step.summary
    if output == "json":
        say_json({"findings": [to_dict(finding) for finding in findings], "summary": to_dict(summary)})
    else:
        looked = (
            f"{summary.blobs} blobs ({format.size(summary.bytes)}), {summary.layers} layers, {summary.images} images"
        )
        if files:
            looked += f", the files of {summary.layers_compared} layers"
        result = "clean" if not summary.problems else f"{summary.problems} problems, {summary.problems_left} left"
        say(f"checked {looked}: {result}")
    if summary.problems_left:
        raise Failure(1)


def _say(finding: object) -> None:
    from moorage.v1 import system_pb2

    assert isinstance(finding, system_pb2.CheckStoreResponse.Finding)
    done = f"; {finding.outcome}" if finding.outcome else ""
    suffers = ", ".join(format.short_id(image) for image in finding.images)
    of = f" (image {suffers})" if suffers else ""
    say(format.printable(f"{finding.problem} {finding.id}: {finding.detail}{of}{done}"))
