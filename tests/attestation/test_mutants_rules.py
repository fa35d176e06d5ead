"""Edges of the policy's rules, and what a refusal tells: what mutants showed to be untested."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chrysalis.api.initdata import mrconfigid
from chrysalis.api.policy import AttestationPolicySpec, Placement
from chrysalis.attestation import eventlog, rules
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.quote import parse
from chrysalis.attestation.verdict import Verdict
from e2e.simtd import eventlog as boot
from e2e.simtd.pki import CollateralShape, SimulatedPlatform

Appraise = Callable[..., Verdict]
Reasons = Callable[[Verdict], list[str]]
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
OTHER_IMAGE = ["sha256:" + "f" * 64]


def with_tcb(document: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return document | {"tdx": document["tdx"] | {"tcb": document["tdx"]["tcb"] | fields}}


def with_tuples(document: dict[str, Any], *tuples: dict[str, Any]) -> dict[str, Any]:
    return document | {"tdx": document["tdx"] | {"measurements": list(tuples)}}


@pytest.mark.parametrize(
    ("status", "age", "grace", "reason"),
    [
        ("OutOfDate", 10, 11, ""),
        ("OutOfDate", 10, 10, "TcbOutOfDate"),
        ("OutOfDate", 10, 9, "TcbOutOfDate"),
        ("OutOfDate", 10, 0, "TcbOutOfDate"),
        ("OutOfDateConfigurationNeeded", 10, 11, "TcbOutOfDate"),
        ("ConfigurationNeeded", 10, 11, "TcbConfigurationNeeded"),
        ("SWHardeningNeeded", 10, 11, "TcbSwHardeningNeeded"),
    ],
)
def test_grace_ends_and_is_for_one_status(
    judge: Appraise,
    reasons: Reasons,
    platform: SimulatedPlatform,
    policy_document: dict[str, Any],
    status: str,
    age: int,
    grace: int,
    reason: str,
) -> None:
    began = (AT - timedelta(days=age)).strftime("%Y-%m-%dT%H:%M:%SZ")
    bent = Collateral.from_json(platform.collateral(AT, CollateralShape(status=status, tcb_date=began)))
    verdict = judge(collateral=bent, document=with_tcb(policy_document, graceSeconds=grace * 86400))
    assert reasons(verdict) == ([reason] if reason else [])


def test_newer_tcb_data_than_the_policy_asks_for(judge: Appraise, reasons: Reasons, policy_document: dict[str, Any]) -> None:
    for least, good in ((19, True), (20, True), (21, False), (22, False)):
        verdict = judge(document=with_tcb(policy_document, minEvaluationDataNumber=least))
        assert reasons(verdict) == ([] if good else ["TcbEvaluationTooOld"]), least


@pytest.mark.parametrize(
    ("expires", "expired"),
    [
        ("2026-11-01T13:30:00+02:00", True),  # 11:30 in UTC
        ("2026-11-01T10:30:00-02:00", False),  # 12:30
        ("2026-11-01T14:00:00+02:00", True),  # now
        ("2026-11-01T12:00:01", False),
        ("2026-11-01T11:59:59", True),
    ],
)
def test_a_tuple_expires_at_its_time_whatever_its_offset(
    judge: Appraise, reasons: Reasons, policy_document: dict[str, Any], expires: str, expired: bool
) -> None:
    right = policy_document["tdx"]["measurements"][0]
    verdict = judge(document=with_tuples(policy_document, {**right, "expires": expires}))
    assert reasons(verdict) == (["MeasurementExpired"] if expired else [])


def test_an_expired_tuple_is_judged_to_its_end(judge: Appraise, reasons: Reasons, policy_document: dict[str, Any], initdata: bytes) -> None:
    right = {**policy_document["tdx"]["measurements"][0], "expires": "2026-10-01T00:00:00Z"}
    lax = {**right, "initdata": right["initdata"] | {"imageDigests": OTHER_IMAGE}}
    assert reasons(judge(document=with_tuples(policy_document, right))) == ["MeasurementExpired"]
    assert reasons(judge(document=with_tuples(policy_document, lax))) == ["MeasurementExpired", "InitdataNotAllowed"]
    # Of several, the first one's.
    assert reasons(judge(document=with_tuples(policy_document, lax, right))) == ["MeasurementExpired", "InitdataNotAllowed"]
    assert reasons(judge(document=with_tuples(policy_document, right, lax))) == ["MeasurementExpired"]
    exact = {key: value for key, value in right.items() if key != "initdata"} | {"mrconfigid": mrconfigid(initdata).hex()}
    assert reasons(judge(document=with_tuples(policy_document, exact))) == ["MeasurementExpired"]


@pytest.mark.parametrize("value", [bytes(48), b"\xff" * 48], ids=["below", "above"])
@pytest.mark.parametrize("index", range(4))
def test_one_register_that_does_not_replay_is_named(
    judge: Appraise,
    reasons: Reasons,
    platform: SimulatedPlatform,
    policy_document: dict[str, Any],
    initdata: bytes,
    index: int,
    value: bytes,
) -> None:
    registers = list(boot.registers())
    if registers[index] == value:
        value = b"\1" + value[1:]
    registers[index] = value
    open_tuple = {**policy_document["tdx"]["measurements"][0], f"rtmr{index}": "Any"}
    quote = platform.quote(bytes(range(64)), mrconfigid=mrconfigid(initdata), rtmrs=registers)
    verdict = judge(quote=quote, document=with_tuples(policy_document, open_tuple))
    assert reasons(verdict) == ["EventLogMismatch"]
    assert verdict.reasons[0].message.endswith(f"the quote's rtmr{index}")


def test_separators_are_judged_under_a_policy_after_the_replay(
    judge: Appraise, reasons: Reasons, platform: SimulatedPlatform, policy_document: dict[str, Any], initdata: bytes
) -> None:
    separator = boot.BootEvent(1, boot.EV_SEPARATOR, bytes(4))
    log = boot.tcg2_log([*boot.BOOT, separator])
    open_tuple = {**policy_document["tdx"]["measurements"][0], "rtmr1": "Any"}
    document = with_tuples(policy_document, open_tuple)
    assert reasons(judge(event_log=log, document=document)) == ["EventLogMismatch", "EventLogSeparatorInvalid"]
    registers = eventlog.replay(eventlog.parse(log))
    quote = platform.quote(bytes(range(64)), mrconfigid=mrconfigid(initdata), rtmrs=registers)
    assert reasons(judge(quote=quote, event_log=log, document=document)) == ["EventLogSeparatorInvalid"]


def test_a_refusal_tells_the_advisories_and_what_the_policy_lists(
    judge: Appraise, platform: SimulatedPlatform, policy_document: dict[str, Any]
) -> None:
    shape = CollateralShape(status="SWHardeningNeeded", advisories=["INTEL-SA-00001"])
    told = judge(collateral=Collateral.from_json(platform.collateral(AT, shape))).reasons[0]
    assert told.message == "the platform's TCB status is SWHardeningNeeded; allowed: UpToDate"
    assert told.detail == "advisories: INTEL-SA-00001"
    told = judge(document=with_tcb(policy_document, allowedStatuses=[])).reasons[0]
    assert told.message.endswith("; allowed: none")
    assert told.detail == ""
    told = judge(document=policy_document | {"isolation": []}).reasons[0]
    assert told.message.endswith("profile PodTD; the policy lists none")
    told = judge(document=policy_document | {"isolation": ["NodeTD"]}).reasons[0]
    assert told.message.endswith("the policy lists NodeTD")
    told = judge(document=policy_document | {"brokerPlacement": []}, placement=Placement.IN_TD).reasons[0]
    assert told.message.endswith("placement is InTD; the policy lists none")
    told = judge(document=policy_document | {"brokerPlacement": ["External"]}, placement=Placement.IN_TD).reasons[0]
    assert told.message.endswith("the policy lists External")


@pytest.mark.parametrize(("wallet", "shown"), [("", "no wallet"), ("0:" + "7" * 64, "0:" + "7" * 64)])
def test_the_wallet_that_is_not_listed_is_named(
    platform: SimulatedPlatform, policy_document: dict[str, Any], initdata: bytes, wallet: str, shown: str
) -> None:
    right = rules.configuration(initdata)
    paid = rules.Configuration(right.policy_digest, right.identity.model_copy(update={"wallet": wallet}))
    allowed = AttestationPolicySpec.model_validate(policy_document).tdx.measurements
    quote = parse(platform.quote(mrconfigid=mrconfigid(initdata)))
    assert rules.measurements(allowed, quote, right, AT) == (allowed[0], [])
    item, refused = rules.measurements(allowed, quote, paid, AT)
    assert item is None
    assert [reason.message for reason in refused] == [f"the policy's initdata.wallets does not list {shown}"]
