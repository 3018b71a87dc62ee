"""`moorage network`."""

from __future__ import annotations

import click

from moorage.client import format, parse
from moorage.client.console import (
    Settings,
    each,
    format_option,
    network_argument,
    pass_settings,
    say,
    say_json,
    say_messages,
    say_table,
)
from moorage.client.jsonout import to_dict

HEADERS = ("NETWORK ID", "NAME", "DRIVER", "SUBNET", "GATEWAY", "CONTAINERS")


@click.group()
def command() -> None:
    """Manage the networks that containers join."""


@command.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Print only IDs.")
@click.option("--no-trunc", is_flag=True, help="Print IDs whole.")
@format_option
@pass_settings
def ls(settings: Settings, quiet: bool, no_trunc: bool, output: str) -> None:
    """List networks, by name."""
    with settings.client() as client:
        networks = client.networks.list()
    if output == "json":
        say_messages(networks)
        return
    ids = [network.id if no_trunc else format.short_id(network.id) for network in networks]
    if quiet:
        for identifier in ids:
            say(identifier)
        return
    rows = [
        (identifier, each.name, each.driver, each.subnet, each.gateway, str(len(each.members)))
        for identifier, each in zip(ids, networks, strict=True)
    ]
    say_table(HEADERS, rows)


@command.command("create")
@click.argument("name")
@click.option("--subnet", default="", metavar="CIDR", help="Subnet; the next free one when left out.")
@click.option("--gateway", default="", metavar="ADDRESS", help="The bridge's own address; the first of the subnet.")
@click.option("--internal", is_flag=True, help="No route to the outside.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Label.")
@pass_settings
def create(settings: Settings, name: str, subnet: str, gateway: str, internal: bool, label: tuple[str, ...]) -> None:
    """Make a bridge network, and print its ID."""
    try:
        labels = parse.labels(label)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with settings.client() as client:
        network = client.networks.create(name, subnet=subnet, gateway=gateway, internal=internal, labels=labels)
    say(network.id)


@command.command("rm")
@network_argument(many=True)
@pass_settings
def rm(settings: Settings, networks: tuple[str, ...]) -> None:
    """Remove networks that no container uses."""
    with settings.client() as client:
        each(networks, client.networks.remove)


@command.command("inspect")
@network_argument(many=True)
@click.option("--format", "output", type=click.Choice(["json"]), help="json: on one line.")
@pass_settings
def inspect(settings: Settings, networks: tuple[str, ...], output: str | None) -> None:
    """Show all there is to know of networks, as JSON (a list when several are named)."""
    with settings.client() as client:
        found = [to_dict(client.networks.get(name)) for name in networks]
    say_json(found[0] if len(found) == 1 else found, indent=None if output else 2)
