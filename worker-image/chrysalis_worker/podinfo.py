"""What the pod tells about itself: the measured initdata, and names that only the untrusted host vouches for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from chrysalis.api.initdata import Initdata, from_annotation, mrconfigid, parse
from chrysalis.wire.broker import ClaimedIdentity
from chrysalis_worker.reasons import WorkerError, WorkerReason

MAX_FILE_BYTES = 512 * 1024


@dataclass(frozen=True)
class PodInfo:
    """The initdata's exact bytes, what they say, and the claimed identity."""

    toml: bytes
    initdata: Initdata
    claimed: ClaimedIdentity

    @property
    def mrconfigid(self) -> bytes:
        """What the quote's MRCONFIGID must be."""
        return mrconfigid(self.toml)


def read(folder: Path) -> PodInfo:
    """Read the downward API's files; raises WorkerError or InitdataError.

    Nothing here is trusted yet: whether the initdata is the measured one shows when its hash is compared with the quote's
    MRCONFIGID, which the agent does at each attestation.
    """
    annotation = _text(folder / "initdata")
    if not annotation:
        raise WorkerError(
            WorkerReason.INITDATA_MISSING,
            "the pod carries no initdata",
            "create workers through a ConfidentialWorker; the operator renders the annotation",
        )
    toml = from_annotation(annotation)
    claimed = ClaimedIdentity(
        pod_uid=_text(folder / "uid")[:63],
        pod_name=_text(folder / "name")[:253],
        namespace=_text(folder / "namespace")[:63],
        worker_name=_text(folder / "worker")[:63],
    )
    return PodInfo(toml=toml, initdata=parse(toml), claimed=claimed)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""
