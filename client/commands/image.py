"""`moorage image`: what is done with images, in one place."""

from __future__ import annotations

import click

from moorage.client import format, parse
from moorage.client.console import Failure, Settings, image_argument, pass_settings, say, say_json, tell
from moorage.client.jsonout import to_dict
from moorage.client.verbs import Verbs

VERBS = {
    "build": "build",
    "history": "history",
    "import": "import_",
    "load": "load",
    "ls": "images",
    "pull": "pull",
    "push": "push",
    "rm": "rmi",
    "save": "save",
    "tag": "tag",
}
"""The commands that are known by a word of their own, too."""


@click.group(cls=Verbs, verbs=VERBS)
def command() -> None:
    """What is done with images, and care for them as a whole."""


@command.command("inspect")
@image_argument(many=True)
@click.option("--format", "output", type=click.Choice(["json"]), help="json: on one line.")
@click.pass_context
def inspect(ctx: click.Context, images: tuple[str, ...], output: str | None) -> None:
    """Show all there is to know about images, as JSON; a list when several are named."""
    from moorage.client.commands.inspect import command as every

    ctx.invoke(every, names=images, kind="image", size=False, output=output)


@command.command("prune")
@click.option("-a", "--all", "every", is_flag=True, help="All that no container holds, not only those without a tag.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="label=KEY[=VALUE], until=TIME (made before that)."
)
@click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@pass_settings
def prune(settings: Settings, every: bool, force: bool, filters: tuple[str, ...], output: str) -> None:
    """Delete images that no container holds, and what interrupted pulls left behind."""
    labels: dict[str, str] = {}
    until = None
    try:
        for key, value in parse.filters(filters):
            if key == "label":
                labels |= parse.labels([value])
            elif key == "until":
                until = parse.moment(value)
            else:
                raise ValueError(f"no such filter: {key}; there are label and until")
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    what = "all images that no container holds" if every else "all images without a tag"
    if not force and not click.confirm(f"Delete {what}?", err=True):
        raise Failure(1)
    with settings.client() as client:
        pruned = client.images.prune(all=every, labels=labels, until=until)
    if output == "json":
        say_json(to_dict(pruned))
        return
    for name in pruned.untagged:
        say(f"untagged: {name}")
    for identifier in pruned.deleted:
        say(f"deleted: {identifier}")
    tell(f"reclaimed {format.size(pruned.reclaimed_bytes)}")
