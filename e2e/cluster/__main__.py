"""`python -m e2e.cluster build|up|down|status|kubectl …|helm …`."""

from __future__ import annotations

import sys

import click

from chrysalis.errors import ChrysalisError
from e2e.cluster import Cluster, Status
from e2e.cluster.build import programs

_PASS_THROUGH = {"ignore_unknown_options": True, "help_option_names": []}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A real two-node Kubernetes on this machine.  CHRYSALIS_INSTANCE names it (default: demo).

    Exit codes: 0 yes; 1 it does not run whole, or could not be started or ended.
    """


@cli.command()
def build() -> None:
    """Build the programs from their Go modules, where they are not in the cache."""
    click.echo(programs(click.echo))


@cli.command()
def up() -> None:
    """Start it; nothing happens when it already runs."""
    _show(Cluster().up())


@cli.command()
def down() -> None:
    """End it and check that nothing is left."""
    cluster = Cluster()
    cluster.down()
    click.echo(f"cluster {cluster.instance} is down: no process, namespace, mount, control group, bridge or route is left")


@cli.command()
def status() -> None:
    """What runs, and how to reach it."""
    found = Cluster().status()
    _show(found)
    sys.exit(0 if found.state == "up" else 1)


@cli.command(context_settings=_PASS_THROUGH)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(arguments: tuple[str, ...]) -> None:
    """kubectl as the cluster's administrator."""
    click.echo(Cluster(progress=_to_stderr).kubectl(*arguments), nl=False)


@cli.command(context_settings=_PASS_THROUGH)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def helm(arguments: tuple[str, ...]) -> None:
    """helm as the cluster's administrator."""
    click.echo(Cluster(progress=_to_stderr).helm(*arguments), nl=False)


def _to_stderr(text: str) -> None:
    click.echo(text, err=True)


def _show(status: Status) -> None:
    click.echo(f"cluster {status.instance}: {status.state}")
    for name, alive in status.processes.items():
        if not alive:
            click.echo(f"  {name}: ended")
    for name, state in status.nodes.items():
        click.echo(f"  node {name}: {state}")
    if status.state == "up":
        click.echo(f"  API server {status.api}; pods reach this machine at {status.host_ip}")
        click.echo(f"  export KUBECONFIG={status.kubeconfig}")


def main() -> None:
    """Run, and put an error in three lines: what, what to do, and what the log said."""
    try:
        cli()
    except ChrysalisError as error:
        click.echo(f"{error.reason}: {error.message}", err=True)
        for label, text in (("what to do", error.remedy), ("detail", error.detail)):
            if text:
                click.echo(f"  {label}: {text}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
