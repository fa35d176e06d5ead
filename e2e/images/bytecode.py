"""Python's compiled files, made when the image is built: on a read-only root Python would compile everything at every start."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from e2e.images.reasons import ImageError, Reason


def compile_tree(folder: Path, place: str) -> None:
    """Compile every module below a folder that will stand at `place` in the image.

    The files say that they need no check against their source, so they are valid whatever the time stamps are.  Templates that
    are no valid Python are left as they are.
    """
    for stale in folder.rglob("__pycache__"):
        shutil.rmtree(stale)
    arguments = [sys.executable, "-m", "compileall", "-q", "-q", "--invalidation-mode", "unchecked-hash"]
    done = subprocess.run([*arguments, "-s", str(folder), "-p", place, str(folder)], capture_output=True, text=True)
    if not any(folder.rglob("*.pyc")) and any(folder.rglob("*.py")):
        said = (done.stdout + done.stderr)[-1000:]
        raise ImageError(Reason.BYTECODE_FAILED, f"no module below {place} could be compiled", "see the detail", said)
