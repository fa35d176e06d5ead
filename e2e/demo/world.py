"""What the steps of one demo share: the cluster, the folders, and what earlier steps found out."""

from __future__ import annotations

import os
from pathlib import Path


def cache() -> Path:
    """Where big builds and downloads are kept, as .ci/setup does."""
    if os.environ.get("CACHE"):
        return Path(os.environ["CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chrysalis"
