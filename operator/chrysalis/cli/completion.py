"""`chrysalis completion SHELL`: what a shell needs to complete verbs, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> int:
    """Print the script that lets SHELL complete verbs, options and their values."""
    made = get_completion_class(shell)
    if made is None:  # click's own table of shells
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(made(click.get_current_context().find_root().command, {}, "chrysalis", "_CHRYSALIS_COMPLETE").source())
    return 0
