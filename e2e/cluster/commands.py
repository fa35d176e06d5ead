"""Running other programs to their end, with errors that say what was run and what it said."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from e2e.cluster.reasons import ClusterError, Reason


def run(arguments: Sequence[str], *, text: str | None = None, environment: Mapping[str, str] | None = None, timeout: float = 120) -> str:
    """What the program wrote to its standard output.

    text: its standard input.  timeout: seconds.  Raises ClusterError (CommandFailed) when it does not end with 0 in time.
    """
    try:
        done = subprocess.run(
            list(arguments),
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except FileNotFoundError as error:
        raise ClusterError(
            Reason.TOOL_MISSING, f"{arguments[0]} is not installed", "run `make setup` as root; it installs what is missing", str(error)
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            Reason.COMMAND_FAILED, f"{' '.join(arguments)[:300]} did not end within {timeout:.0f} s", "read the logs of the cluster"
        ) from error
    if done.returncode:
        raise ClusterError(
            Reason.COMMAND_FAILED,
            f"{' '.join(arguments)[:300]} ended with {done.returncode}: {done.stderr.strip()[-1500:]}",
            "the text after the colon is the program's own",
            detail=done.stdout[-1500:],
        )
    return done.stdout


def attempt(arguments: Sequence[str], *, timeout: float = 30) -> bool:
    """Whether the program ended with 0; what it said does not matter (for taking down what may not be there)."""
    try:
        return subprocess.run(list(arguments), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
