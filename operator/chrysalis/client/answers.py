"""What NVIDIA's services said of a worker's GPUs, for a bundle of a client that did not ask them itself (mode `ear`).

The broker asked, and keeps the answers with the evidence: who may read the result gets them out of the broker's own bundle.
"""

from __future__ import annotations

from dataclasses import replace

from chrysalis.client.revocation import TIMEOUT_SECONDS, RevocationCheck
from chrysalis.client.verified import VerifiedWorker
from chrysalis.wire.broker_client import BrokerClient
from chrysalis.wire.bundle import BundleFile
from chrysalis.wire.bundle_answers import AnswersOf
from chrysalis.wire.reasons import WireError, WireReason


async def from_broker(worker: VerifiedWorker, check: RevocationCheck) -> VerifiedWorker:
    """The worker with the answers that its broker has; the same where the policy wants none, or the worker has them.

    They are judged by whoever judges the bundle, not here: in mode `ear` the broker's result stands for that.
    Raises WireError: where the broker does not hand its bundle over, or its bundle is about other evidence (EarClaimMismatch).
    """
    if worker.answers_of is not AnswersOf.ABSENT:
        return worker
    async with BrokerClient(check.url, spki_sha256=check.spki_sha256, token=check.token, timeout=TIMEOUT_SECONDS) as broker:
        found = BundleFile.read(await broker.bundle(worker.result_id)).bundle
    if found.evidence != worker.document.evidence:
        raise WireError(
            WireReason.EAR_CLAIM_MISMATCH,
            "the broker's bundle of this result is about other evidence than the worker shows",
            "do not use this worker; report it to its operator",
            f"result {worker.result_id}",
        )
    return replace(worker, gpu_answers=found.gpu_answers)
