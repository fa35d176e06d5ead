"""What the steps of one demo share: the cluster, the folders, and what earlier steps found out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chrysalis.clock import Clock, SystemClock
from e2e.cluster import Cluster
from e2e.cluster.build import programs
from e2e.demo.marks import Mark
from e2e.demo.story import StepFailed

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class World:
    """One run of the demo.  `state` is a private folder that goes away with it; secrets stand only there."""

    instance: str
    state: Path
    keep: bool
    clock: Clock = field(default_factory=SystemClock)
    cluster: Cluster | None = None
    images: dict[str, str] = field(default_factory=dict)  # name -> name@sha256:…
    facts: dict[str, Any] = field(default_factory=dict)  # what a later step needs of an earlier one
    reached: Callable[[Mark], None] = lambda mark: None  # told of each named moment as it comes by

    @property
    def running(self) -> Cluster:
        """The cluster; raises StepFailed before it is up."""
        if self.cluster is None:
            raise StepFailed("the cluster is not up")
        return self.cluster

    def kubectl(self, *words: str, given: str | None = None) -> str:
        """Run kubectl as an administrator and return what it printed; raises StepFailed with its error."""
        try:
            return self.running.kubectl(*words, input=given)
        except Exception as error:
            raise StepFailed(f"kubectl {' '.join(words)}: {error}") from error

    def get(self, *words: str) -> dict[str, Any]:
        """`kubectl get … -o json`, parsed."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *words, "-o", "json"))
        return found

    def refused(self, *words: str, given: str | None = None) -> str:
        """Run kubectl and return why it was refused; raises StepFailed when it was not."""
        done = self.try_kubectl(*words, given=given)
        if done.returncode == 0:
            raise StepFailed(f"kubectl {' '.join(words)} should have been refused, and was not: {done.stdout[:200]}")
        return done.stderr.strip()

    def try_kubectl(self, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """kubectl with its exit code, whatever it is."""
        command = [str(programs(lambda _: None) / "kubectl"), "--kubeconfig", str(self.running.kubeconfig), *words]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=120)

    def chrysalis(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run the command line as a person would and return its standard output; raises StepFailed on another exit code."""
        done = self.try_chrysalis(*words)
        if done.returncode not in codes:
            raise StepFailed(f"chrysalis {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-600:]}")
        return done.stdout

    def try_chrysalis(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line with its exit code, whatever it is."""
        return subprocess.run([sys.executable, "-m", "chrysalis.cli.main", *words], capture_output=True, text=True, timeout=300)

    def secret_file(self, name: str, content: bytes) -> Path:
        """Write a file that only its owner may read, into the private folder."""
        path = self.state / name
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(content)
        return path
