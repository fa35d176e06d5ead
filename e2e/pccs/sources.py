"""What the PCCS serves when it behaves: a simulated platform's documents, or bundles of real ones from files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from chrysalis.clock import Clock
from e2e.pccs.answers import TCB, Asked
from e2e.simtd.pki import EVALUATION_DATA_NUMBER, UP_TO_DATE, CollateralShape, SimulatedPlatform

Bundle = Mapping[str, str]
ISSUED_BEFORE = timedelta(seconds=30)
"""An issue made on request is a little older than the request, which began before it."""
EARLY_AHEAD = 1
"""How far the early channel's evaluation data number is ahead of the standard one."""


class Source(Protocol):
    """Documents by request."""

    def bundle(self, request: Asked, back: timedelta) -> Bundle | None:
        """The documents that a request concerns, as they were some time ago; None where there are none."""


@dataclass
class SimulatedSource:
    """A simulated platform's documents, issued today; `shape` may be changed while it serves.

    valid: makes each answer a new issue of this second that is good for so long, so that one can watch documents end.
    """

    platform: SimulatedPlatform
    clock: Clock
    shape: CollateralShape = UP_TO_DATE
    valid: timedelta | None = None

    def bundle(self, request: Asked, back: timedelta) -> Bundle | None:
        shape = self.shape
        if request.update == "early" and shape.evaluation_data_number == EVALUATION_DATA_NUMBER:
            shape = CollateralShape(**(vars(shape) | {"evaluation_data_number": EVALUATION_DATA_NUMBER + EARLY_AHEAD}))
        now = self.clock.now().replace(microsecond=0)
        if self.valid is not None:
            return self.platform.documents(now - ISSUED_BEFORE - back, replace(shape, period=self.valid + ISSUED_BEFORE))
        found: dict[str, str] = json.loads(self.platform.collateral(now - back, shape))
        return found


class FileSource:
    """QuoteCollateralV3 JSON files: of several for one platform the newest, or an older one when it is to go back."""

    def __init__(self, folder: Path) -> None:
        self._bundles: list[tuple[str, str, Bundle]] = []
        for path in sorted(folder.glob("*.json")):
            document: dict[str, str] = json.loads(path.read_text())
            info = json.loads(document["tcb_info"])
            self._bundles.append((info["fmspc"].upper(), info["issueDate"], document))
        self._bundles.sort(key=lambda found: found[1], reverse=True)

    def bundle(self, request: Asked, back: timedelta) -> Bundle | None:
        found = [bundle for fmspc, _, bundle in self._bundles if request.path != TCB or fmspc == request.fmspc]
        return found[-1 if back else 0] if found else None
