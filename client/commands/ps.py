"""`moorage ps`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from moorage.client import format, parse
from moorage.client.console import Settings, format_option, pass_settings, say, say_messages, say_table
from moorage.client.ports import endpoint_ports

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from moorage.v1 import runtime_pb2

HEADERS = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAME")


@click.command()
@click.option("-a", "--all", "every", is_flag=True, help="Those that do not run, too.")
@click.option("-q", "--quiet", is_flag=True, help="Print only IDs.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="name=, label=, status=, image=.")
@click.option("--no-trunc", is_flag=True, help="Print IDs and commands whole.")
@format_option
@pass_settings
def command(
    settings: Settings, every: bool, quiet: bool, filters: tuple[str, ...], no_trunc: bool, output: str
) -> None:
    """List containers, newest first.

    Those that run, or all.
    """
    query = _query(filters)
    with settings.client() as client:
        containers = client.containers.list(all=every, **query)
    if output == "json":
        say_messages(containers)
    elif quiet:
        for container in containers:
            say(container.id if no_trunc else format.short_id(container.id))
    else:
        say_table(HEADERS, [_row(container, no_trunc, time.time()) for container in containers])


def _query(filters: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of `Containers.list` that `filters` ask for."""
    query: dict[str, Any] = {"labels": {}, "states": []}
    try:
        for key, value in parse.filters(filters):
            if key == "label":
                query["labels"] |= parse.labels([value])
            elif key == "status":
                query["states"].append(_state(value))
            elif key in ("name", "image", "ancestor"):
                query["name" if key == "name" else "image"] = value
            else:
                raise ValueError(f"unknown filter {key!r}: want name, label, status or image")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return query


def _state(word: str) -> runtime_pb2.ContainerState:
    from moorage.v1 import runtime_pb2

    states = {
        "created": runtime_pb2.CONTAINER_STATE_CREATED,
        "running": runtime_pb2.CONTAINER_STATE_RUNNING,
        "exited": runtime_pb2.CONTAINER_STATE_EXITED,
        "removing": runtime_pb2.CONTAINER_STATE_REMOVING,
    }
    if word not in states:
        raise ValueError(f"unknown status {word!r}: want {', '.join(states)}")
    return states[word]


def _row(container: runtime_pb2.Container, no_trunc: bool, now: float) -> tuple[str, ...]:
    words = format.command_line(container.command)
    return (
        container.id if no_trunc else format.short_id(container.id),
        container.config.image,
        words if no_trunc else format.shorten(words, 30),
        format.ago(_seconds(container.created_at), now),
        _status(container, now),
        ", ".join(endpoint_ports(container.endpoint)),
        container.name,
    )


def _status(container: runtime_pb2.Container, now: float) -> str:
    from moorage.v1 import runtime_pb2

    if container.state == runtime_pb2.CONTAINER_STATE_RUNNING:
        return f"Up {format.duration(now - _seconds(container.started_at))}"
    if container.state == runtime_pb2.CONTAINER_STATE_EXITED:
        oom = " OOMKilled" if container.oom_killed else ""
        return f"Exited ({container.exit_code}){oom} {format.ago(_seconds(container.finished_at), now)}".rstrip()
    return "Removing" if container.state == runtime_pb2.CONTAINER_STATE_REMOVING else "Created"


def _seconds(moment: Timestamp) -> float:
    """Seconds since 1970; 0 for an unset one."""
    return moment.ToNanoseconds() / 1e9
