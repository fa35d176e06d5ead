"""Each document of the collateral judged without a quote: one row for each way in which it is not good."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chrysalis.attestation.anchor import INTEL_ANCHOR, from_der
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.collateral_check import check, root_of
from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument, join, split
from chrysalis.attestation.reasons import AttestationError, AttestationReason
from e2e.simtd import pki
from e2e.simtd.pki import PERIOD, CollateralShape, SimulatedPlatform, Tampering

AT = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
PLATFORM, OTHER = SimulatedPlatform.create(), SimulatedPlatform.create()
ANCHOR = from_der(PLATFORM.root_der)
KINDS = list(DocumentKind)
NAMES = {DocumentKind.TCB_INFO: "51d000000000", DocumentKind.PCK_CRL: "platform"}


def made(platform: SimulatedPlatform = PLATFORM, issue: datetime = AT, **shape: Any) -> dict[DocumentKind, SignedDocument]:
    return split(Collateral.from_json(json.dumps(platform.documents(issue, CollateralShape(**shape)))))


def of(shape: CollateralShape) -> Collateral:
    return Collateral.from_json(json.dumps(PLATFORM.documents(AT, shape)))


GOOD = made()


def refused(document: SignedDocument, at: datetime = AT, **options: Any) -> AttestationReason:
    with pytest.raises(AttestationError) as caught:
        check(document, ANCHOR, at, **({"name": NAMES.get(document.kind, "")} | options))
    return caught.value.reason


@pytest.mark.parametrize("kind", KINDS)
def test_good_documents(kind: DocumentKind) -> None:
    check(GOOD[kind], ANCHOR, AT, name=NAMES.get(kind, ""), root_crl=GOOD[DocumentKind.ROOT_CRL])
    assert join(GOOD).to_json() == join(dict(GOOD)).to_json()


def test_splitting_loses_nothing() -> None:
    collateral = Collateral.from_json(json.dumps(PLATFORM.documents(AT)))
    assert join(split(collateral)) == collateral


@pytest.mark.parametrize("kind", KINDS)
def test_another_root(kind: DocumentKind) -> None:
    expected = AttestationReason.COLLATERAL_SIGNATURE_INVALID if kind is DocumentKind.ROOT_CRL else AttestationReason.TRUST_ROOT_MISMATCH
    assert refused(made(OTHER)[kind]) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_signature(kind: DocumentKind) -> None:
    document = GOOD[kind]
    if kind.is_crl:
        changed = replace(document, body=document.body[:-1] + bytes([document.body[-1] ^ 1]))
    else:
        changed = replace(document, signature=document.signature[:-1] + bytes([document.signature[-1] ^ 1]))
    assert refused(changed) in (AttestationReason.COLLATERAL_SIGNATURE_INVALID, AttestationReason.COLLATERAL_MALFORMED)


@pytest.mark.parametrize("kind", [DocumentKind.TCB_INFO, DocumentKind.QE_IDENTITY])
def test_one_space_more(kind: DocumentKind) -> None:
    assert refused(replace(GOOD[kind], body=GOOD[kind].body + b" ")) == AttestationReason.COLLATERAL_SIGNATURE_INVALID


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"", b"\xff", b"{}", b"[" * 100_000])
def test_junk(kind: DocumentKind, body: bytes) -> None:
    found = refused(replace(GOOD[kind], body=body))
    assert found in (AttestationReason.COLLATERAL_SIGNATURE_INVALID, AttestationReason.COLLATERAL_MALFORMED)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("issuers", ["", "junk"])
def test_no_chain(kind: DocumentKind, issuers: str) -> None:
    assert refused(replace(GOOD[kind], issuers=issuers)) == AttestationReason.COLLATERAL_MALFORMED


def test_a_leaked_platform_key_signs_nothing() -> None:
    document = made(tampering=Tampering(signer_is_pck=True))[DocumentKind.TCB_INFO]
    assert refused(document) == AttestationReason.COLLATERAL_SIGNER_INVALID


@pytest.mark.parametrize(("seconds", "good"), [(-1, True), (0, False)])
@pytest.mark.parametrize("kind", [DocumentKind.ROOT_CRL, DocumentKind.PCK_CRL])
def test_a_list_ends_before_its_next_update(kind: DocumentKind, seconds: int, good: bool) -> None:
    at = AT + PERIOD + timedelta(seconds=seconds)
    if good:
        check(GOOD[kind], ANCHOR, at)
    else:
        assert refused(GOOD[kind], at) == AttestationReason.COLLATERAL_EXPIRED


@pytest.mark.parametrize(("seconds", "good"), [(0, True), (1, False)])
@pytest.mark.parametrize("kind", [DocumentKind.TCB_INFO, DocumentKind.QE_IDENTITY])
def test_a_json_document_ends_with_its_next_update(kind: DocumentKind, seconds: int, good: bool) -> None:
    at = AT + PERIOD + timedelta(seconds=seconds)
    if good:
        check(GOOD[kind], ANCHOR, at)
    else:
        assert refused(GOOD[kind], at) == AttestationReason.COLLATERAL_EXPIRED


@pytest.mark.parametrize("kind", KINDS)
def test_from_the_future(kind: DocumentKind) -> None:
    assert refused(GOOD[kind], AT - timedelta(seconds=1)) == AttestationReason.COLLATERAL_NOT_YET_VALID


@pytest.mark.parametrize(
    ("kind", "name"), [(DocumentKind.TCB_INFO, "00906ED50000"), (DocumentKind.PCK_CRL, "processor")], ids=["FMSPC", "authority"]
)
def test_not_what_was_asked_for(kind: DocumentKind, name: str) -> None:
    assert refused(GOOD[kind], name=name) == AttestationReason.COLLATERAL_MISMATCH
    check(GOOD[kind], ANCHOR, AT, name=NAMES[kind])


def _sgx(info: dict[str, Any], identity: dict[str, Any]) -> None:
    info["id"], identity["id"] = "SGX", "QE"


@pytest.mark.parametrize("kind", [DocumentKind.TCB_INFO, DocumentKind.QE_IDENTITY])
def test_documents_for_sgx(kind: DocumentKind) -> None:
    assert refused(made(tampering=Tampering(edit=_sgx))[kind]) == AttestationReason.COLLATERAL_MISMATCH


@pytest.mark.parametrize("kind", [DocumentKind.TCB_INFO, DocumentKind.QE_IDENTITY])
def test_a_signer_appointed_by_an_authority_for_platforms(kind: DocumentKind) -> None:
    ca, root, good = PLATFORM.certificates["ca"], PLATFORM.certificates["root"], GOOD[kind]
    appointed = pki.certificate(pki.TCB_SIGNER_NAME, PLATFORM.keys["tcb"], pki.CA_NAME, PLATFORM.keys["ca"])
    for chain in (pki.pem(appointed, ca, root), pki.pem(appointed, ca)):
        assert refused(replace(good, issuers=chain)) == AttestationReason.COLLATERAL_SIGNER_INVALID
    for chain in (pki.pem(PLATFORM.certificates["tcb"], root), pki.pem(PLATFORM.certificates["tcb"])):
        check(replace(good, issuers=chain), ANCHOR, AT)


def edited(which: str, **members: Any) -> CollateralShape:
    def edit(info: dict[str, Any], identity: dict[str, Any]) -> None:
        (info if which == "tcb" else identity).update(members)

    return CollateralShape(tampering=Tampering(edit=edit))


@pytest.mark.parametrize(("kind", "which", "known"), [(DocumentKind.TCB_INFO, "tcb", 3), (DocumentKind.QE_IDENTITY, "qe", 2)])
def test_a_document_of_a_version_that_no_appraisal_takes_is_not_kept(kind: DocumentKind, which: str, known: int) -> None:
    for version in (known - 1, known + 1):
        assert refused(split(of(edited(which, version=version)))[kind]) == AttestationReason.COLLATERAL_MISMATCH
    check(split(of(edited(which, version=known)))[kind], ANCHOR, AT)


LARGEST = (1 << 63) - 1
NUMBERS = [(LARGEST, True), (LARGEST + 1, False), (1 << 158, False)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("number", "good"), [*NUMBERS, (0, True)])
def test_numbers_that_no_database_keeps(kind: DocumentKind, number: int, good: bool) -> None:
    """RFC 5280 lets a list's number have 20 octets, and JSON lets a number have any length."""
    which = {DocumentKind.TCB_INFO: "tcb", DocumentKind.QE_IDENTITY: "qe"}.get(kind)
    shape = CollateralShape(crl_number=number) if which is None else edited(which, tcbEvaluationDataNumber=number)
    document = split(of(shape))[kind]
    if good:
        check(document, ANCHOR, AT)
        assert document.number == number
    else:
        assert refused(document) == AttestationReason.COLLATERAL_MALFORMED


@pytest.mark.parametrize("number", [-1, "20", 20.0, True, None, [20]])
def test_an_evaluation_data_number_is_a_whole_number(number: object) -> None:
    document = split(of(edited("tcb", tcbEvaluationDataNumber=number)))[DocumentKind.TCB_INFO]
    assert refused(document) == AttestationReason.COLLATERAL_MALFORMED


def test_a_list_in_the_place_of_another() -> None:
    root, pck = GOOD[DocumentKind.ROOT_CRL], GOOD[DocumentKind.PCK_CRL]
    assert refused(replace(root, body=pck.body)) == AttestationReason.COLLATERAL_SIGNATURE_INVALID
    assert refused(replace(pck, body=root.body)) == AttestationReason.COLLATERAL_SIGNER_INVALID


@pytest.mark.parametrize(
    ("revoked", "kinds"),
    [("tcb", (DocumentKind.TCB_INFO, DocumentKind.QE_IDENTITY)), ("ca", (DocumentKind.PCK_CRL,))],
)
def test_a_revoked_signer(revoked: str, kinds: tuple[DocumentKind, ...]) -> None:
    documents = made(revoked=(revoked,))
    root_crl = documents[DocumentKind.ROOT_CRL]
    for kind in KINDS:
        if kind in kinds:
            assert refused(documents[kind], root_crl=root_crl) == AttestationReason.CERTIFICATE_REVOKED
        else:
            check(documents[kind], ANCHOR, AT, root_crl=root_crl)


@pytest.mark.parametrize(
    ("name", "older", "newer"),
    [
        ("issue", {"issue": AT}, {"issue": AT + DAY}),
        ("number", {"evaluation_data_number": 20}, {"evaluation_data_number": 21}),
    ],
)
def test_going_back(name: str, older: dict[str, Any], newer: dict[str, Any]) -> None:
    old, new = made(**older), made(**newer)
    for kind in KINDS:
        if name == "number" and kind.is_crl:
            continue
        assert old[kind].goes_back_behind(new[kind])
        assert not new[kind].goes_back_behind(old[kind])
        assert not new[kind].goes_back_behind(new[kind])


def test_the_root_that_collateral_claims() -> None:
    collateral = join(GOOD)
    assert root_of(collateral) == ANCHOR
    bare = replace(
        collateral,
        tcb_info_issuer_chain=collateral.tcb_info_issuer_chain.split("-----END CERTIFICATE-----\n", 1)[0] + "-----END CERTIFICATE-----\n",
    )
    with pytest.raises(AttestationError) as caught:
        root_of(bare)
    assert caught.value.reason == AttestationReason.CERTIFICATE_INVALID


def test_digests_tell_documents_apart() -> None:
    parts: list[Callable[[SignedDocument], SignedDocument]] = [
        lambda d: replace(d, body=d.body + b" "),
        lambda d: replace(d, signature=d.signature + b"\0"),
        lambda d: replace(d, issuers=d.issuers + "\n"),
        lambda d: replace(d, kind=DocumentKind.QE_IDENTITY),
    ]
    document = GOOD[DocumentKind.TCB_INFO]
    assert len({document.digest, *(change(document).digest for change in parts)}) == 5


@pytest.mark.vectors
def test_real_documents(vectors: Path) -> None:
    """Every document of Intel's is genuine under Intel's root at a time within its life, and under no other."""
    checked = expired = 0
    for path in sorted((vectors / "collateral").glob("*.json")):
        collateral = Collateral.from_json(path.read_text())
        if collateral.tcb.id != "TDX":
            continue
        assert root_of(collateral).is_intel
        for document in split(collateral).values():
            with pytest.raises(AttestationError):
                check(document, ANCHOR, document.issued)
            if document.ends < document.issued:  # one bundle was put together with an old signer's chain
                expired += 1
                continue
            check(document, INTEL_ANCHOR, document.issued)
            checked += 1
    assert (checked, expired) == (35, 1)
