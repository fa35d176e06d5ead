"""Programs that end with whoever started them, also when that one is killed and cannot end them itself."""

from __future__ import annotations

from collections.abc import Sequence


def mortal(*command: object, signal: str = "KILL") -> Sequence[str]:
    """The command line of a program that the kernel sends a signal (its name) when the thread that started it is gone.

    By setpriv(1) of util-linux, which becomes the program and leaves its process id as it is; see PR_SET_PDEATHSIG in prctl(2).
    """
    return ["setpriv", "--pdeathsig", signal, "--", *map(str, command)]
