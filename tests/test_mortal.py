"""Programs that end with whoever started them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.cluster import processes
from e2e.mortal import mortal

STARTS = """
import subprocess, sys
from e2e.mortal import mortal
command = ["sleep", "600"]
print(subprocess.Popen(mortal(*command) if sys.argv[1] == "mortal" else command).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["mortal", "other"])
def test_it_ends_with_a_killed_parent(kind: str) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = processes.named("child", int(parent.stdout.readline()))
        assert child is not None
        comm = Path(f"/proc/{child.pid}/comm")
        while comm.read_text() != "sleep\n":  # before that, setpriv may not have asked for the signal yet
            time.sleep(0.01)
        parent.kill()
        parent.wait()
        if kind == "mortal":
            while child.alive():  # the kernel's signal is on its way; a time limit ends every test
                pass
        else:
            assert child.alive()
            child.kill()


def test_it_is_the_program_itself() -> None:
    with subprocess.Popen(mortal("sh", "-c", "echo $$; exec sleep 600"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        process.kill()
        assert process.wait() == -signal.SIGKILL
