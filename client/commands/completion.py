"""`moorage completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from moorage.client.console import say


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    In bash: eval "$(moorage completion bash)"
    """
    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"no completion for {shell}")
    say(completion(ctx.find_root().command, {}, "moorage", "_MOORAGE_COMPLETE").source())
