"""Genuineness at its edges, with a library that misbehaves: what mutants showed to be untested."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dcap_qvl
import pytest

from chrysalis.attestation import genuineness
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.genuineness import INTEL, NotGenuine
from chrysalis.attestation.quote import parse
from chrysalis.attestation.reasons import AttestationReason
from chrysalis.attestation.verdict import Reason, Verdict
from e2e.opinions.cases import QE_REPORT_DATA, Subject
from e2e.simtd import pki
from e2e.simtd.pki import CollateralShape, SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
Reasons = Callable[[Verdict], list[str]]


def judged(platform: SimulatedPlatform, quote: bytes | None = None, collateral: Collateral | None = None, **changes: Any) -> Verdict:
    evidence: dict[str, Any] = {
        "quote": quote or platform.quote(),
        "collateral": collateral or Collateral.from_json(platform.collateral(AT)),
        "policy": None,
        "at": AT,
        "roots": [platform.root_der],
    }
    return appraise(**(evidence | changes))


class PanicException(BaseException):
    """Named as what a panic in Rust arrives as."""


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes every entry of the library raise this."""

    def install(error: BaseException) -> None:
        def fail(*rest: Any) -> Any:
            raise error

        genuineness.forget()
        for name in ("QuoteVerifier", "verify", "verify_with_root_ca"):
            monkeypatch.setattr(dcap_qvl, name, fail)

    return install


@pytest.mark.parametrize("error", [ValueError("Broken"), OverflowError("Broken"), PanicException("Broken")])
def test_a_library_that_fails_refuses_and_ends_nothing(
    platform: SimulatedPlatform, reasons: Reasons, failing: Callable[[BaseException], None], error: BaseException
) -> None:
    failing(error)
    verdict = judged(platform)
    assert reasons(verdict) == ["VerificationFailed"]
    assert "Broken" in verdict.reasons[0].detail


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_what_is_not_the_librarys_answer_is_none(
    platform: SimulatedPlatform, failing: Callable[[BaseException], None], error: BaseException
) -> None:
    failing(error)
    with pytest.raises(type(error)):
        judged(platform)


@pytest.mark.parametrize("anchored", [True, False])
def test_the_older_entry_point_tells_the_cause(
    platform: SimulatedPlatform, failing: Callable[[BaseException], None], anchored: bool, reasons: Reasons
) -> None:
    failing(ValueError("Verification failed Caused by: CertExpired"))
    assert reasons(judged(platform, roots=[platform.root_der] if anchored else []))[0] == "CertificateExpired"


LINES = {
    "without the root": (["pck", "ca"], ""),
    "with the root": (["pck", "ca", "root"], ""),
    "with two of the root": (["pck", "ca", "root", "root"], ""),
    "with another root": (["pck", "ca", "other"], "CertificateInvalid"),
    "with another root behind": (["pck", "ca", "root", "other"], "CertificateInvalid"),
}


@pytest.mark.parametrize("line", LINES)
def test_the_root_in_a_quote_may_be_left_out_but_not_be_another(platform: SimulatedPlatform, reasons: Reasons, line: str) -> None:
    names, reason = LINES[line]
    certificates = platform.certificates | {"other": SimulatedPlatform.create().certificates["root"]}
    quote = platform.quote(chain=pki.pem(*(certificates[name] for name in names)))
    verdict = judged(platform, quote)
    assert reasons(verdict) == ([reason] if reason else [])
    if reason:
        assert "not the trust anchor" in verdict.reasons[0].message


def test_a_chain_that_only_the_library_could_read(platform: SimulatedPlatform) -> None:
    read = parse(platform.quote())
    collateral = Collateral.from_json(platform.collateral(AT))
    document = genuineness._library(read.raw, collateral, int(AT.timestamp()), platform.root_der)
    assert genuineness._claims(document, read, collateral, platform.root_der).tcb_status == "UpToDate"
    unreadable = pki.pem(*platform.certificates.values()) * 10
    with pytest.raises(NotGenuine) as caught:
        genuineness._claims(document, dataclasses.replace(read, pck_chain=unreadable.encode()), collateral, platform.root_der)
    assert [reason.reason for reason in caught.value.reasons] == ["CertificateInvalid"]
    assert "cannot be read" in caught.value.reasons[0].message


def test_an_issuer_chain_without_an_end_is_not_remembered(platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    real = genuineness._library

    def library(raw: bytes, *rest: Any) -> dict[str, Any]:
        asked.append(raw)
        return real(raw, *rest)

    monkeypatch.setattr(genuineness, "_library", library)
    readable = Collateral.from_json(platform.collateral(AT))
    for collateral, times in ((readable, 1), (dataclasses.replace(readable, pck_crl_issuer_chain="none"), 2)):
        asked.clear()
        for _ in range(2):
            genuineness.verify(parse(platform.quote()), collateral, AT, [platform.root_der])
        assert len(asked) == times


def test_collateral_of_another_platform_is_told_where_the_quote_names_its_own(platform: SimulatedPlatform) -> None:
    other = Collateral.from_json(platform.collateral(AT, CollateralShape(fmspc=bytes.fromhex("00906ed50000"))))
    own = parse(platform.quote())
    nameless = parse(platform.quote(chain=pki.pem(platform.certificates["tcb"], platform.certificates["root"])))
    (told,) = genuineness.mismatches(own, other)
    assert told.message == "the collateral is of platform 00906ED50000, the quote of platform 51D000000000"
    assert genuineness.mismatches(own, Collateral.from_json(platform.collateral(AT))) == []
    assert genuineness.mismatches(nameless, other) == []


@pytest.mark.parametrize(("roots", "whose"), [([], "Intel's"), ([INTEL], "Intel's"), ([SimulatedPlatform.create().root_der], "the given")])
def test_whose_root_the_evidence_does_not_chain_to(platform: SimulatedPlatform, roots: list[bytes], whose: str) -> None:
    assert judged(platform, roots=roots).reasons[0].message == f"the evidence does not chain to {whose} root certificate"


@pytest.mark.parametrize(
    ("platforms", "enclaves", "both"),
    [
        ("UpToDate", "SWHardeningNeeded", "SWHardeningNeeded"),
        ("UpToDate", "TDRelaunchAdvised", "TDRelaunchAdvised"),  # whatever it will mean: not less than the enclave says
        ("SWHardeningNeeded", "UpToDate", "SWHardeningNeeded"),
        ("ConfigurationNeeded", "SWHardeningNeeded", "ConfigurationAndSWHardeningNeeded"),
        ("SWHardeningNeeded", "OutOfDate", "OutOfDate"),
        ("OutOfDate", "SWHardeningNeeded", "OutOfDate"),
        ("Revoked", "ConfigurationNeeded", "Revoked"),
        ("UpToDate", "Revoked", "Revoked"),
    ],
)
def test_the_weaker_of_platform_and_enclave_counts(platforms: str, enclaves: str, both: str) -> None:
    assert genuineness._both_statuses(platforms, enclaves) == both


@pytest.mark.parametrize("position", [31, 32, 33, 63])
def test_every_byte_behind_the_hash_of_the_key_is_zero(reasons: Reasons, position: int) -> None:
    subject = Subject(4)
    assert judged(subject.platform, subject.good).accepted
    other = subject.good[subject.qe_report + QE_REPORT_DATA + position] ^ 1
    bent = judged(subject.platform, subject.enclave(QE_REPORT_DATA + position, bytes([other])))
    assert reasons(bent) == ["SignatureInvalid" if position == 31 else "QeIdentityMismatch"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "UpToDate"),
        ({"td_attributes": bytes.fromhex("0100001000000000")}, None),
        ({"td_attributes": bytes.fromhex("0400001000000000")}, None),
        ({"mrsignerseam": b"\1" * 48}, None),
        ({"qe_signer": bytes(32)}, None),
        ({"tee_tcb_svn": bytes(16)}, None),
        ({"chain": "none"}, None),
    ],
)
def test_only_what_was_judged_has_a_tcb_status(platform: SimulatedPlatform, fields: dict[str, Any], status: str | None) -> None:
    assert judged(platform, platform.quote(**fields)).tcb_status == status


def test_an_error_is_named_by_its_first_reason() -> None:
    several = [Reason.of(reason, "") for reason in (AttestationReason.TCB_REVOKED, AttestationReason.SIGNATURE_INVALID)]
    assert str(NotGenuine(several)) == "TcbRevoked"


def with_facts(collateral: Collateral, **facts: Any) -> Collateral:
    """A copy of which these properties say something else; `tcb` and `qe` take the fields that differ."""
    copied = dataclasses.replace(collateral)
    for name, value in facts.items():
        vars(copied)[name] = dataclasses.replace(getattr(collateral, name), **value) if isinstance(value, dict) else value
    return copied


LONG = "".join(chr(ord("A") + number % 26) for number in range(100))


def test_what_a_stranger_wrote_is_shown_at_a_bounded_length(platform: SimulatedPlatform) -> None:
    real, read = Collateral.from_json(platform.collateral(AT)), parse(platform.quote())
    wrong_id, wrong_platform = genuineness.mismatches(read, with_facts(real, tcb={"id": LONG, "fmspc": LONG}))
    assert wrong_id.message == f"the collateral's TCB info is for {LONG[:16]!r}, not for TDX"
    assert wrong_platform.message.startswith(f"the collateral is of platform {LONG[:16]}, ")
    (signer,) = genuineness.authority(with_facts(real, tcb_signer=LONG), AT)
    assert signer.message == f"the TCB info was signed by {LONG[:64]!r}, not by 'Intel SGX TCB Signing'"
    document = genuineness._library(read.raw, real, int(AT.timestamp()), platform.root_der)
    with pytest.raises(NotGenuine) as caught:
        genuineness._claims(document, read, with_facts(real, tcb={"pce_id": LONG}), platform.root_der)
    assert caught.value.reasons[0].message == f"the collateral is for PCE id {LONG[:16]!r}, the quote's platform has '0000'"


def test_the_librarys_words_are_cut(platform: SimulatedPlatform, failing: Callable[[BaseException], None]) -> None:
    failing(ValueError("two  spaces\n" + LONG * 20))
    assert judged(platform).reasons[0].detail == ("two spaces " + LONG * 20)[:1000]


BEFORE, AFTER = AT - timedelta(seconds=1), AT + timedelta(seconds=1)
DATES: list[tuple[str, str, datetime, str]] = [
    ("tcb", "next_update", BEFORE, "CollateralExpired: TCB info"),
    ("tcb", "next_update", AT, ""),
    ("tcb", "next_update", AFTER, ""),
    ("qe", "next_update", BEFORE, "CollateralExpired: QE identity"),
    ("qe", "next_update", AT, ""),
    ("root_crl_facts", "next_update", BEFORE, "CollateralExpired: root CA CRL"),
    ("root_crl_facts", "next_update", AT, "CollateralExpired: root CA CRL"),
    ("root_crl_facts", "next_update", AFTER, ""),
    ("pck_crl_facts", "next_update", AT, "CollateralExpired: PCK CRL"),
    ("pck_crl_facts", "next_update", AFTER, ""),
    ("tcb", "issue_date", AFTER, "CollateralNotYetValid: TCB info"),
    ("tcb", "issue_date", AT, ""),
    ("tcb", "issue_date", BEFORE, ""),
    ("qe", "issue_date", AFTER, "CollateralNotYetValid: QE identity"),
    ("qe", "issue_date", AT, ""),
]


@pytest.mark.parametrize(("document", "field", "date", "told"), DATES, ids=[f"{row[0]}-{row[1]}-{row[2].second}" for row in DATES])
def test_each_document_is_current_to_the_second(platform: SimulatedPlatform, document: str, field: str, date: datetime, told: str) -> None:
    bent = with_facts(Collateral.from_json(platform.collateral(AT)), **{document: {field: date}})
    found = [f"{reason.reason}: {reason.message.rpartition(': ')[2]}" for reason in genuineness.expired(bent, AT)]
    assert found == ([told] if told else [])


@pytest.mark.parametrize(
    ("facts", "problems"),
    [
        ({}, 0),
        ({"tcb": {"version": 2}}, 1),
        ({"tcb": {"version": 4}}, 1),
        ({"qe": {"version": 1}}, 1),
        ({"qe": {"version": 3}}, 1),
        ({"tcb_signer": "Anyone"}, 1),
        ({"tcb_signer": "Someone"}, 1),
        ({"qe_signer": ""}, 1),
        ({"qe_signer": "Intel SGX TCB Signing "}, 1),
        ({"root_crl_facts": {"this_update": AFTER}}, 1),
        ({"root_crl_facts": {"this_update": AT}}, 0),
        ({"pck_crl_facts": {"this_update": AFTER}, "qe": {"version": 3}}, 2),
    ],
)
def test_who_signed_what_and_when(platform: SimulatedPlatform, facts: dict[str, Any], problems: int) -> None:
    bent = with_facts(Collateral.from_json(platform.collateral(AT)), **facts)
    assert len(genuineness.authority(bent, AT)) == problems


@pytest.mark.parametrize(
    ("fields", "problems"),
    [
        ({}, 0),
        ({"id": "SGX"}, 1),
        ({"id": "TDX "}, 1),
        ({"fmspc": "00906ED50000"}, 1),
        ({"fmspc": "FF906ED50000"}, 1),
        ({"id": "", "fmspc": ""}, 2),
    ],
)
def test_whatever_the_collateral_is_of_instead(platform: SimulatedPlatform, fields: dict[str, str], problems: int) -> None:
    bent = with_facts(Collateral.from_json(platform.collateral(AT)), tcb=fields)
    assert len(genuineness.mismatches(parse(platform.quote()), bent)) == problems


ROOT, DEBUG, FAILED = AttestationReason.TRUST_ROOT_MISMATCH, AttestationReason.TD_DEBUG_ENABLED, AttestationReason.VERIFICATION_FAILED


@pytest.mark.parametrize(
    ("each", "told"),
    [
        ([ROOT, ROOT], ROOT),
        ([ROOT, DEBUG], DEBUG),
        ([DEBUG, ROOT], DEBUG),
        ([ROOT, FAILED], FAILED),
        ([FAILED, ROOT], FAILED),
        ([ROOT, DEBUG, ROOT], DEBUG),
    ],
)
def test_of_several_roots_the_one_that_the_quote_chains_to_is_told(
    platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch, each: list[AttestationReason], told: AttestationReason
) -> None:
    answers = iter([NotGenuine([Reason.of(reason, "")]) for reason in each])

    def refuses(*rest: Any) -> dict[str, Any]:
        raise genuineness._LibraryRefusal

    monkeypatch.setattr(genuineness, "_library", refuses)
    monkeypatch.setattr(genuineness, "_explain", lambda *rest: next(answers))
    genuineness.forget()
    with pytest.raises(NotGenuine) as caught:
        genuineness.verify(
            parse(platform.quote()), Collateral.from_json(platform.collateral(AT)), AT, [bytes([number]) for number in range(len(each))]
        )
    assert caught.value.reasons[0].reason == told


@pytest.fixture
def claims_of(platform: SimulatedPlatform) -> Callable[..., Any]:
    """Our reading of the library's claims, with changes to what the library says of the certificate or to our own reading."""
    collateral, read = Collateral.from_json(platform.collateral(AT)), parse(platform.quote(b"\x80" * 64, mrtd=b"\x80" * 48))
    document = genuineness._library(read.raw, collateral, int(AT.timestamp()), platform.root_der)

    def run(said: dict[str, Any] | None = None, collateral: Collateral = collateral, **ours: Any) -> genuineness.Claims:
        pck = document["platform"]["pck"] | (said or {})
        bent = document | {"platform": document["platform"] | {"pck": pck}}
        return genuineness._claims(bent, dataclasses.replace(read, **ours), collateral, platform.root_der)

    return run


@pytest.mark.parametrize(
    "ours",
    [{"mrtd": bytes(48)}, {"mrtd": b"\xff" * 48}, {"report_data": bytes(64)}, {"report_data": b"\xff" * 64}],
)
def test_two_parsers_must_agree_on_the_report(claims_of: Callable[..., Any], ours: dict[str, bytes]) -> None:
    assert claims_of().fmspc == "51D000000000"
    with pytest.raises(NotGenuine) as caught:
        claims_of(**ours)
    assert caught.value.reasons[0].reason == "QuoteMalformed"


@pytest.mark.parametrize(("said", "collateral_of"), [("0000", "0001"), ("0001", "0000"), ("0001", "0002")])
def test_the_pce_id_is_exactly_the_collaterals(
    platform: SimulatedPlatform, claims_of: Callable[..., Any], said: str, collateral_of: str
) -> None:
    bent = Collateral.from_json(platform.collateral(AT, CollateralShape(pce_id=bytes.fromhex(collateral_of))))
    with pytest.raises(NotGenuine) as caught:
        claims_of({"pce_id": list(bytes.fromhex(said))}, bent)
    assert caught.value.reasons[0].reason == "CollateralMismatch"
    assert claims_of({"pce_id": list(bytes.fromhex(collateral_of))}, bent).pce_id == collateral_of


@pytest.mark.parametrize(("said", "claimed"), [("False", False), ("True", True), ("Undefined", True), ("", True), ("Configured", True)])
@pytest.mark.parametrize(
    ("member", "claim"), [("smt_enabled", "smt"), ("cached_keys", "cached_keys"), ("dynamic_platform", "dynamic_platform")]
)
def test_a_flag_is_off_only_where_the_certificate_says_so(
    claims_of: Callable[..., Any], member: str, claim: str, said: str, claimed: bool
) -> None:
    assert getattr(claims_of({member: said}), claim) is claimed


@pytest.mark.parametrize("junk", ["#", "x", "Bag Attributes\n"])
@pytest.mark.parametrize("behind", [False, True])
def test_nothing_stands_beside_the_certificates(
    platform: SimulatedPlatform, claims_of: Callable[..., Any], junk: str, behind: bool
) -> None:
    good = platform.pck_chain
    for same in (good, good + "\0", good.replace("\n", "\r\n"), good.rstrip("\n")):
        assert claims_of(pck_chain=same.encode()).certificate_expiry.at == pki.NOT_AFTER
    with pytest.raises(NotGenuine) as caught:
        claims_of(pck_chain=(good + junk if behind else junk + "\n" + good).encode())
    assert caught.value.reasons[0].reason == "CertificateInvalid"


def test_no_other_root_is_intels() -> None:
    others = [bytes([number]) for number in range(64)]
    digests = sorted(hashlib.sha256(other).hexdigest() for other in others)
    assert digests[0] < genuineness.INTEL_ROOT_SHA256 < digests[-1]
    assert genuineness.same_root(INTEL, INTEL)
    assert not any(genuineness.same_root(INTEL, other) or genuineness.same_root(other, INTEL) for other in others)
    assert not genuineness.same_root(others[0], others[1])
    assert genuineness.same_root(others[0], others[0])
