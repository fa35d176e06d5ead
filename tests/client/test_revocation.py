"""What a broker's answer about a result is worth to a client: only one about this very result, and only a clear one."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chrysalis.client import revocation
from chrysalis.client.reasons import ClientError
from chrysalis.client.revocation import RevocationCheck, standing
from chrysalis.client.verified import VerifiedWorker
from chrysalis.wire.broker import ClaimedIdentity, ResultView
from chrysalis.wire.reasons import WireError
from e2e.simtd.pki import SimulatedPlatform
from tests.client.conftest import RESULT_ID, Worker
from tests.client.test_ear_mode import judged

NOW = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def worker(platform: SimulatedPlatform, tmp_path: Path) -> VerifiedWorker:
    return judged(Worker(platform, tmp_path))


@pytest.fixture
def ask(worker: VerifiedWorker, monkeypatch: pytest.MonkeyPatch) -> Any:
    """standing(), of a broker that answers with a view changed like this, or fails."""

    def run(required: bool = True, error: WireError | None = None, **changes: Any) -> VerifiedWorker:
        view = ResultView(
            result_id=RESULT_ID,
            verdict="Accepted",
            claimed=ClaimedIdentity(),
            keys=worker.document.evidence.keys,
            issued_at=NOW,
            ear=worker.document.ear,
        ).model_copy(update=changes)

        async def result(self: Any, result_id: str) -> ResultView:
            assert result_id == RESULT_ID
            if error is not None:
                raise error
            return view

        monkeypatch.setattr(revocation.BrokerClient, "result", result)
        return asyncio.run(standing(worker, RevocationCheck(url="https://broker", spki_sha256="ab" * 32, required=required)))

    return run


def test_a_living_result_is_not_revoked(ask: Any) -> None:
    assert ask().revocation == "NotRevoked"
    assert ask().facts()["revocation"] == "NotRevoked"


@pytest.mark.parametrize(
    "changes", [{"revoked_at": NOW, "revoked_reason": "RevokedByOwner"}, {"verdict": "Refused"}], ids=["revoked", "refused by now"]
)
@pytest.mark.parametrize("required", [True, False])
def test_a_revoked_result_is_refused_however_it_was_asked(ask: Any, required: bool, changes: dict[str, Any]) -> None:
    with pytest.raises(ClientError) as refused:
        ask(required, **changes)
    assert (refused.value.reason, bool(refused.value.remedy)) == ("ResultRevoked", True)


def test_an_answer_about_another_result_is_none(ask: Any, worker: VerifiedWorker) -> None:
    others = worker.document.evidence.keys.model_copy(update={"receipt": "ee" * 32})
    for changes in ({"result_id": "0193f000-0000-7000-8000-00000000000f"}, {"keys": others}):
        found = ask(False, **changes)
        assert (found.revocation, "another result" in found.revocation_detail) == ("NotChecked", True)
        with pytest.raises(ClientError, match="did not say"):
            ask(True, **changes)


@pytest.mark.parametrize("required", [True, False])
def test_a_result_that_the_broker_did_not_give_out_is_forged(ask: Any, worker: VerifiedWorker, required: bool) -> None:
    with pytest.raises(WireError) as refused:
        ask(required, ear=worker.document.ear[:-4] + "AAAA")
    assert (refused.value.reason, bool(refused.value.remedy)) == ("EarClaimMismatch", True)


def test_no_answer_is_no_answer(ask: Any) -> None:
    error = WireError("ServiceUnreachable", "no answer from https://broker")
    found = ask(False, error)
    assert (found.revocation, found.revocation_detail) == ("NotChecked", "ServiceUnreachable: no answer from https://broker")
    with pytest.raises(ClientError) as refused:
        ask(True, error)
    assert refused.value.reason == "RevocationNotChecked"
