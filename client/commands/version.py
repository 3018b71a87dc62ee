"""`moorage version`."""

from __future__ import annotations

import platform

import click

from moorage.client.console import Settings, format_option, pass_settings, say, say_json
from moorage.v1.version import VERSION


@click.command()
@click.option("--client", "client_only", is_flag=True, help="Only this client's.")
@format_option
@pass_settings
def command(settings: Settings, client_only: bool, output: str) -> None:
    """Show the versions of this client and the daemon."""
    versions = {"client": {"version": VERSION, "python_version": platform.python_version()}}
    if output == "table":
        _show("Client", versions["client"])
    if not client_only:
        from moorage.client.jsonout import to_dict

        with settings.client() as client:
            versions["server"] = to_dict(client.system.version())
        if output == "table":
            _show("Server", versions["server"])
    if output == "json":
        say_json(versions)


def _show(side: str, facts: dict[str, str]) -> None:
    say(f"{side}:")
    for key, value in facts.items():
        say(f"  {key.removesuffix('_version').replace('_', ' ') + ':':14} {value}")
