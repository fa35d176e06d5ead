"""`python -m e2e.images [NAME…]`: build images (all by default) and print how pods name them."""

from __future__ import annotations

import sys

import click

from chrysalis.clock import SystemClock
from chrysalis.errors import ChrysalisError
from e2e.images import RECIPES, build


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(sorted(RECIPES)))
def main(names: tuple[str, ...]) -> None:
    """Build images and print NAME, reference by digest, and the folder of the OCI layout."""
    clock = SystemClock()
    for name in names or tuple(RECIPES):
        started = clock.monotonic()
        try:
            image = build(name, lambda text: click.echo(text, err=True))
        except ChrysalisError as error:
            click.echo(f"{error.reason}: {error.message}\n  what to do: {error.remedy}\n  detail: {error.detail}", err=True)
            sys.exit(1)
        click.echo(f"{image.reference}\n  {image.archive}  ({clock.monotonic() - started:.1f} s)")


if __name__ == "__main__":
    main()
