"""A bundle is judged by what is in it, never by what it says of itself: one row for each way to change it."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.attestation.freshness import Freshness, FreshnessMode, Revocation
from chrysalis.wire import bundle as bundles
from chrysalis.wire.broker import NamedReason
from chrysalis.wire.bundle import BundleFile, BundlePolicy, canonical
from chrysalis.wire.bundle_judgement import judge
from chrysalis.wire.bundle_verdict import Expectations, Judgement, Signature
from chrysalis.wire.reasons import WireError

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def read(file: bytes) -> BundleFile:
    return BundleFile.read(file)


def pinned(maker: Any, **more: Any) -> Expectations:
    return Expectations(**({"owner": raw(maker.owner), "ear_key": raw(maker.broker)} | more))


def words(judgement: Judgement) -> set[str]:
    return {reason["reason"] for reason in judgement.to_json()["reasons"]}


def test_a_good_bundle_is_accepted_and_says_by_whose_word(maker: Any) -> None:
    judgement = judge(read(maker.file()), pinned(maker))
    assert judgement.accepted, judgement.to_json()
    assert (judgement.policy_signature, judgement.ear, judgement.statement) == (Signature.PINNED,) * 3
    assert (judgement.mode, judgement.freshness) == (FreshnessMode.EAR, Freshness.BROKER_NONCE)
    assert judgement.revocation == Revocation.NOT_CHECKED
    assert judgement.placement == "Development"


def test_without_pins_nothing_is_claimed_of_freshness(maker: Any) -> None:
    judgement = judge(read(maker.file()))
    assert judgement.accepted
    assert (judgement.policy_signature, judgement.ear, judgement.statement) == (Signature.UNNAMED, Signature.MEASURED, Signature.MEASURED)
    assert (judgement.mode, judgement.freshness) == (FreshnessMode.OFFLINE, Freshness.NOT_CHECKED)
    assert judgement.owner == raw(maker.owner).hex()


def test_an_own_nonce_is_the_only_way_to_know_a_fresh_quote(maker: Any) -> None:
    file = read(maker.file())
    assert judge(file, Expectations(nonce=maker.nonce)).mode == FreshnessMode.FRESH_QUOTE
    other = judge(file, Expectations(nonce=bytes(32)))
    assert words(other) == {"ReportDataMismatch"}
    assert other.mode == FreshnessMode.OFFLINE


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (AT, set()),
        (AT + timedelta(seconds=599), set()),
        (AT + timedelta(days=400), {"CollateralExpired"}),
        (AT - timedelta(days=800), {"CollateralNotYetValid"}),
    ],
)
def test_another_time_gives_another_verdict_and_no_disagreement(maker: Any, at: datetime, expected: set[str]) -> None:
    judgement = judge(read(maker.file()), pinned(maker, at=at))
    assert (words(judgement) >= expected, judgement.accepted) == (True, not expected), judgement.to_json()
    assert not judgement.differences


def test_the_mode_is_ear_only_while_the_ear_lives(maker: Any) -> None:
    file = read(maker.file())
    assert judge(file, pinned(maker, at=AT + timedelta(seconds=599))).mode == FreshnessMode.EAR
    assert judge(file, pinned(maker, at=AT + timedelta(seconds=600))).mode == FreshnessMode.OFFLINE


def test_another_policy_may_be_asked_for(maker: Any) -> None:
    strict = maker.spec(isolation=["NodeTD"])
    judgement = judge(read(maker.file()), Expectations(policy=strict))
    assert words(judgement) == {"IsolationNotAllowed"}
    assert (judgement.other_policy, judgement.differences) == (True, [])
    assert judge(read(maker.file()), Expectations(policy=maker.spec())).accepted


MALLORY = Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("name", "members", "expected"),
    [
        ("another owner's policy", lambda m: {"policy": m.policy(MALLORY)}, "EnvelopeSignatureInvalid"),
        ("an unsigned policy", lambda m: {"policy": BundlePolicy(unsigned=m.spec())}, "EnvelopeSignatureInvalid"),
        ("no policy", lambda m: {"policy": None}, "EnvelopeSignatureInvalid"),
        ("a result of another broker", lambda m: {"result": m.result(ear=m.ear().sign(MALLORY))}, "EarSignatureInvalid"),
        ("no result's token", lambda m: {"result": m.result(ear="", receipt_certificate="")}, "EarMalformed"),
        (
            "a certificate of another broker",
            lambda m: {"result": m.result(receipt_certificate=m.certificate().sign(MALLORY))},
            "ObjectKeyUnexpected",
        ),
        ("an expired result", lambda m: {"result": m.result(ear=m.ear(exp=int(AT.timestamp())).sign(m.broker))}, "EarExpired"),
    ],
)
def test_what_the_reader_pins_must_hold(maker: Any, name: str, members: Callable[[Any], dict[str, Any]], expected: str) -> None:
    judgement = judge(read(maker.file(**members(maker))), pinned(maker))
    assert not judgement.accepted
    assert expected in words(judgement), judgement.to_json()["reasons"]


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("jti", "0193f000-0000-7000-8000-00000000000f"),
        ("iat", int(AT.timestamp()) - 1),
        ("exp", int(AT.timestamp()) + 601),
        ("nonce", "ee" * 32),
        ("cnf", {"spki#S256": "ee" * 32}),
        ("keys", {"tlsSpkiSha256": "ab" * 32, "hpke": "ee" * 32, "receipt": "ee" * 32}),
        ("placement", "External"),
        ("isolation", "NodeTD"),
        ("tcb_status", "OutOfDate"),
        ("measurement", "other"),
        ("limited_by", "pckCrl.nextUpdate"),
        ("policy_owner", "ee" * 32),
        ("policy_name", "other"),
        ("policy_version", 2),
        ("key_id", "rival"),
        ("model_digest", "sha256:" + "e" * 64),
        ("evidence_class", "Hardware"),
    ],
)
def test_every_claim_of_the_result_is_compared(maker: Any, claim: str, value: Any) -> None:
    judgement = judge(read(maker.file(result=maker.result(ear=maker.ear(**{claim: value}).sign(maker.broker)))), pinned(maker))
    assert "EarClaimMismatch" in words(judgement), judgement.to_json()["reasons"]
    assert not judgement.accepted


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("receipt_key", "ee" * 32),
        ("set", "-3:0:" + "e" * 64),
        ("wallet", "0:" + "e" * 64),
        ("reservation_keys", ["e" * 64]),
        ("result_id", "other"),
        ("nbf", int(AT.timestamp()) - 1),
        ("exp", int(AT.timestamp()) + 601),
    ],
)
def test_every_member_of_the_certificate_is_compared(maker: Any, claim: str, value: Any) -> None:
    token = maker.certificate(**{claim: value}).sign(maker.broker)
    assert words(judge(read(maker.file(result=maker.result(receipt_certificate=token))), pinned(maker))) == {"EarClaimMismatch"}


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("refused without a reason that holds", {"verdict": "Refused", "reasons": [NamedReason(reason="TcbOutOfDate", message="x")]}),
        ("accepted with a reason", {"reasons": [NamedReason(reason="TcbOutOfDate", message="x")]}),
        ("another class", {"evidence_class": "Hardware"}),
        ("another status", {"tcb_status": "OutOfDate"}),
        ("another expiry", {"expires_at": AT + timedelta(days=9)}),
        ("another limit", {"limited_by": "pckCrl.nextUpdate"}),
        ("another tuple", {"measurement_name": "other"}),
    ],
)
def test_a_record_that_the_evidence_contradicts_is_reported(maker: Any, name: str, result: dict[str, Any]) -> None:
    changed = maker.result(**({"ear": "", "receipt_certificate": ""} | result))
    judgement = judge(read(maker.file(result=changed)))
    assert words(judgement) == {"BundleDisagrees"}
    assert judgement.differences
    assert judge(read(maker.file(result=maker.result(ear="", receipt_certificate="")))).accepted  # the twin


def test_accepted_evidence_that_is_refused_now_is_a_disagreement(maker: Any) -> None:
    judgement = judge(read(maker.file(evidence=maker.evidence(mrtd=b"\xee" * 48))))
    assert {"BundleDisagrees", "MeasurementNotAllowed"} <= words(judgement)


@pytest.mark.parametrize(
    ("recorded", "agrees"),
    [
        (["MeasurementNotAllowed"], True),
        (["MeasurementNotAllowed", "BrokerPinMismatch"], True),
        (["BrokerPinMismatch"], True),
        (["TcbOutOfDate"], False),
        (["MeasurementNotAllowed", "TcbOutOfDate"], False),
    ],
)
def test_a_refusal_agrees_when_its_reasons_are_found_again(maker: Any, recorded: list[str], agrees: bool) -> None:
    reasons = [NamedReason(reason=word, message="recorded") for word in recorded]
    result = maker.result(verdict="Refused", reasons=reasons, ear="", receipt_certificate="", expires_at=None)
    judgement = judge(read(maker.file(result=result, evidence=maker.evidence(mrtd=b"\xee" * 48))))
    assert not judgement.accepted
    assert (judgement.differences == []) is agrees, judgement.differences


def test_a_refusal_for_the_brokers_own_reason_stays_one(maker: Any) -> None:
    reasons = [NamedReason(reason="KeyUnknown", message="recorded")]
    result = maker.result(verdict="Refused", reasons=reasons, ear="", receipt_certificate="", expires_at=None)
    judgement = judge(read(maker.file(result=result)))
    assert judgement.verdict.accepted
    assert not judgement.differences
    assert not judgement.accepted
    assert words(judgement) == {"KeyUnknown"}


def test_a_revoked_result_is_refused_from_then_on(maker: Any) -> None:
    file = read(maker.file(result=maker.result(revoked_at=AT + timedelta(seconds=60))))
    assert judge(file, pinned(maker)).accepted
    later = judge(file, pinned(maker, at=AT + timedelta(seconds=60)))
    assert (words(later), later.revocation) == ({"ResultRevoked"}, Revocation.REVOKED)


def test_a_brokers_bundle_needs_the_brokers_word(maker: Any) -> None:
    assert words(judge(read(bundles.to_bytes(maker.bare())), pinned(maker))) == {"BundleStatementInvalid"}
    forged = bundles.stated(maker.bare(), MALLORY, 1)
    assert words(judge(read(bundles.to_bytes(forged)), pinned(maker))) == {"BundleStatementInvalid"}
    files = judge(read(bundles.to_bytes(maker.bare(source="Files"))), pinned(maker))
    assert files.accepted
    assert files.statement == Signature.ABSENT


def test_bundles_of_evidence_alone_are_judged_for_genuineness_only(maker: Any, platform: Any) -> None:
    bare = maker.bare(source="Files", policy=None, result=None, broker=None)
    judgement = judge(read(bundles.to_bytes(bare)), Expectations(roots=[platform.root_der]))
    assert judgement.accepted
    assert (judgement.verdict.scope, judgement.recorded) == ("GenuinenessAndTcb", "None")
    assert "TrustRootMismatch" in words(judge(read(bundles.to_bytes(bare))))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of each text, number and truth value."""
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, item in enumerate(value) for leaf in leaves(item, (*path, index))]
    return [path]


def changed(value: Any) -> list[Any]:
    """Values near to this one: one character changed (at the front, in the middle, at the end), one more, one less; empty."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    found = [value + "0", value[:-1], ""]
    for at in {0, len(value) // 2, len(value) - 1} if value else ():
        found.append(value[:at] + ("1" if value[at] != "1" else "2") + value[at + 1 :])
    return [other for other in found if other != value]


def test_every_member_that_is_changed_is_noticed(maker: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """With the pins: every change of any member is refused or unreadable, since the statement covers them all."""
    document = json.loads(maker.file())
    counts = {"unreadable": 0, "refused": 0}
    for path in leaves(document):
        for value in changed(_at(document, path)):
            copy = json.loads(json.dumps(document))
            _put(copy, path, value)
            try:
                judgement = judge(read(canonical(copy)), pinned(maker))
            except WireError:
                counts["unreadable"] += 1
                continue
            assert not judgement.accepted, (path, value)
            counts["refused"] += 1
    with capsys.disabled():
        print(f"\n  bundle members changed: {counts}")
    assert min(counts.values()) > 20


UNSIGNED = {("madeAt",), ("source",), ("broker", "spkiSha256"), ("broker", "earKey")}
"""What no signature but the statement's covers and no judgement rests on."""


def test_without_a_statement_only_what_does_not_matter_can_be_changed(maker: Any) -> None:
    """Made from files, with pins: a change that is not noticed leaves every signed fact and the verdict as they were."""
    document = json.loads(bundles.to_bytes(maker.bare(source="Files")))
    twin = judge(read(canonical(document)), pinned(maker))
    unnoticed = set()
    for path in leaves(document):
        for value in changed(_at(document, path)):
            copy = json.loads(json.dumps(document))
            _put(copy, path, value)
            try:
                judgement = judge(read(canonical(copy)), pinned(maker))
            except WireError:
                continue
            if judgement.accepted:
                unnoticed.add(path)
                assert judgement.verdict.measurements == twin.verdict.measurements, path
                assert (judgement.owner, judgement.policy_version) == (twin.owner, twin.policy_version)
    allowed = UNSIGNED | {("policy", "envelope", "signatures", 0, "keyid"), ("result", "limitedBy"), ("result", "resultId")}
    allowed |= {("result", name) for name in ("evidenceClass", "tcbStatus", "measurementName")}  # emptied: then nothing is said
    # Event data is covered by no digest that replays; nothing but a rule that recomputes its digest reads it.
    allowed |= {("result", "receiptCertificate"), ("collateral",), ("judgedAt",), ("evidence", "eventLog")}
    assert unnoticed <= allowed, unnoticed - allowed


def test_bytes_of_the_file_flipped_at_random_are_noticed(maker: Any) -> None:
    file = maker.file()
    seed = random.randrange(1 << 32)
    print(f"SEED={seed}")
    chance = random.Random(seed)
    for _ in range(150):
        broken = bytearray(file)
        broken[chance.randrange(len(file))] ^= 1 << chance.randrange(8)
        try:
            judgement = judge(read(bytes(broken)), pinned(maker))
        except WireError:
            continue
        assert not judgement.accepted


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -2])
def test_a_truncated_file_is_unreadable(maker: Any, cut: int) -> None:
    with pytest.raises(WireError):
        read(maker.file()[:cut])


def test_evidence_that_cannot_be_decoded_is_a_refusal(maker: Any) -> None:
    for member, expected in (("quote", "QuoteUnreadable"), ("initdata", "InitdataMalformed")):
        evidence = maker.evidence().model_copy(update={member: base64.b64encode(b"?").decode()})
        judgement = judge(read(maker.file(evidence=evidence)))
        assert not judgement.accepted
        assert judgement.verdict.reasons[0].reason in (expected, "QuoteMalformed")


def _at(document: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        document = document[step]
    return document


def _put(document: Any, path: tuple[Any, ...], value: Any) -> None:
    _at(document, path[:-1])[path[-1]] = value


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_bundle_of_the_ends_of_time_is_judged(maker: Any, at: str) -> None:
    document = json.loads(maker.file()) | {"judgedAt": at, "madeAt": at}
    assert not judge(read(canonical(document))).accepted


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
@pytest.mark.parametrize("member", ["judgedAt", "madeAt"])
def test_a_bundle_of_a_time_that_utc_does_not_have_is_unreadable(maker: Any, member: str, at: str) -> None:
    with pytest.raises(WireError, match="BundleMalformed"):
        read(canonical(json.loads(maker.file()) | {member: at}))
