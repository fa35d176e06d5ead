"""The command line: `chrysalis VERB`, also `kubectl chrysalis VERB`.

Each verb is a module of this package with a click command called `command`; it is imported only when it is used, so that
`chrysalis verify` does not load a Kubernetes client.
"""

from __future__ import annotations

import importlib
import io
import logging
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import click

from chrysalis import __version__
from chrysalis.cli import examples, failures, printing
from chrysalis.cli.failures import CommandError, CommandReason
from chrysalis.errors import ChrysalisError

VERBS = (
    "audit broker bundle claim completion contract earnings epochs eventlog gpu infer "
    "inspect keys ledger measure policy receipts reference seal status unseal verify"
)
"""One module each."""
EXIT_NO = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
"""What a shell reports of a program that SIGPIPE ended.  The reader went away, so 1 would be taken for a verdict."""


class ReaderGone(Exception):
    """Whoever read standard output went away (`| head -1`)."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for.

    A broken pipe is told apart from a verdict that says no: click ends with 1 for both.
    """

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:  # writes help and version
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [verb for verb in VERBS.split() if find_spec(f"chrysalis.cli.{verb}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"chrysalis.cli.{cmd_name}").command
        return examples.added(command, (cmd_name,))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="chrysalis")
def cli() -> None:
    """Confidential inference on Kubernetes: attested before admission, paid on TON.

    `chrysalis VERB --help` shows options, exit codes and examples; `chrysalis completion` makes shells complete them.

    Exit codes: 0 yes; 1 a verdict or state that says no; 2 usage or unreadable input; 3 a service could not be reached;
    130 interrupted; 141 whoever read the output went away.
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit; a ChrysalisError that reaches this place is unreadable input (exit 2)."""
    failures.listen(sys.argv[1:] if argv is None else argv)
    printing.tolerate_any_encoding()
    try:
        outcome: Any = cli.main(args=argv, standalone_mode=False, prog_name="chrysalis", color=printing.colour())
        sys.exit(outcome if isinstance(outcome, int) else 0)
    except ReaderGone:
        sys.stdout = io.StringIO()  # else the interpreter fails once more at its end
        sys.exit(EXIT_PIPE_CLOSED)
    except click.exceptions.Abort:
        sys.exit(EXIT_INTERRUPTED)
    except click.ClickException as error:
        with suppress(OSError):
            error.show()
        sys.exit(failures.tell([failures.usage(error)], EXIT_USAGE, text=False))
    except ChrysalisError as error:
        sys.exit(failures.tell([error], EXIT_USAGE))
    except OSError as error:
        # Most likely a full disk behind standard output.  Exit 1 would be taken for a verdict.
        sys.stdout = io.StringIO()  # else the interpreter fails once more at its end
        click.echo(f"FileUnusable: {error.filename or 'standard output'}: {error.strerror or error}", err=True)
        click.echo("  what to do: make room, or write elsewhere, and run it again", err=True)
        sys.exit(EXIT_USAGE)
    except Exception as error:
        # The interpreter would end with 1, which would be taken for a verdict.
        logging.getLogger(__name__).debug("internal error", exc_info=True)
        failed = CommandError(
            CommandReason.INTERNAL_ERROR,
            f"the program failed: {type(error).__name__}",
            "report it, with the command line and what it was given; nothing was judged",
            str(error)[:300],
        )
        sys.exit(failures.tell([failed], EXIT_USAGE))


if __name__ == "__main__":
    main()
