"""The memory of proved platforms: it answers only what the library would answer again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chrysalis.attestation import genuineness, proved
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.genuineness import NotGenuine
from chrysalis.attestation.proved import HOLD_SECONDS, ProvedPlatforms
from chrysalis.attestation.quote import parse
from chrysalis.attestation.verdict import Verdict
from e2e.simtd.pki import CollateralShape, SimulatedPlatform

Reasons = Callable[[Verdict], list[str]]
AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The quotes that the library was asked about; the memory is empty at first."""
    seen: list[bytes] = []
    real = genuineness._library

    def library(raw: bytes, *rest: Any) -> dict[str, Any]:
        seen.append(raw)
        return real(raw, *rest)

    monkeypatch.setattr(genuineness, "_library", library)
    genuineness._PROVED.clear()
    return seen


_ISSUED: dict[bytes, Collateral] = {}


def of(platform: SimulatedPlatform, shape: CollateralShape | None = None) -> Collateral:
    """Collateral of this shape; without one, always the same documents of a platform."""
    if shape is not None:
        return Collateral.from_json(platform.collateral(AT, shape))
    if platform.root_der not in _ISSUED:
        _ISSUED[platform.root_der] = Collateral.from_json(platform.collateral(AT))
    return _ISSUED[platform.root_der]


def judged(platform: SimulatedPlatform, quote: bytes, at: datetime = AT, collateral: Collateral | None = None) -> Verdict:
    if collateral is None:
        collateral = of(platform)
    return appraise(quote=quote, collateral=collateral, policy=None, at=at, roots=[platform.root_der])


def test_another_quote_of_a_platform_is_judged_by_its_own_signature(platform: SimulatedPlatform, asked: list[bytes]) -> None:
    first = judged(platform, platform.quote(bytes(64)))
    second = judged(platform, platform.quote(b"\1" * 64, mrtd=b"\2" * 48))
    assert first.accepted
    assert second.accepted
    assert len(asked) == 1
    assert second.claims == first.claims
    assert second.measurements["mrtd"] == "02" * 48


def test_a_wrong_signature_is_never_remembered_away(platform: SimulatedPlatform, reasons: Reasons, asked: list[bytes]) -> None:
    assert judged(platform, platform.quote()).accepted
    for position in (48 + 136, 48 + 300, 48 + 583, 48 + 584 + 4, 48 + 584 + 4 + 63):
        bent = bytearray(platform.quote(b"\3" * 64))
        bent[position] ^= 1
        assert reasons(judged(platform, bytes(bent))) == ["SignatureInvalid"], position
    for signature in (bytes(64), b"\xff" * 64):
        bent = bytearray(platform.quote())
        bent[48 + 588 : 48 + 652] = signature
        assert not judged(platform, bytes(bent)).accepted


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("attributes", {"td_attributes": bytes.fromhex("0000005000000000")}),
    ("XFAM", {"xfam": bytes.fromhex("e703060000000000")}),
    ("levels", {"tee_tcb_svn": bytes([7, 1, 3]) + bytes(13)}),
    ("MRSEAM", {"mrseam": bytes(48)}),
    ("version", {"version": 5}),
    ("quoting enclave", {"qe_svn": 7}),
]


@pytest.mark.parametrize("fields", [row[1] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_whatever_the_library_reads_is_part_of_the_name(platform: SimulatedPlatform, asked: list[bytes], fields: dict[str, Any]) -> None:
    assert judged(platform, platform.quote()).accepted
    assert judged(platform, platform.quote(**fields)).accepted
    assert len(asked) == 2


def test_collateral_and_anchor_are_part_of_the_name(platform: SimulatedPlatform, reasons: Reasons, asked: list[bytes]) -> None:
    quote = platform.quote()
    assert judged(platform, quote).accepted
    assert reasons(judged(platform, quote, collateral=of(platform, CollateralShape(revoked=["pck"])))) == ["CertificateRevoked"]
    assert reasons(judged(platform, quote, collateral=of(platform, CollateralShape(status="OutOfDate")))) == ["TcbOutOfDate"]
    verdict = appraise(quote=quote, collateral=of(platform), policy=None, at=AT, roots=[SimulatedPlatform.create().root_der])
    assert reasons(verdict) == ["TrustRootMismatch"]
    assert judged(platform, quote).accepted


@pytest.mark.parametrize(
    ("later", "again"),
    [(0, 0), (1, 0), (HOLD_SECONDS - 1, 0), (HOLD_SECONDS, 1), (-1, 1), (86400, 1)],
)
def test_it_holds_for_a_while_and_never_for_the_past(platform: SimulatedPlatform, asked: list[bytes], later: int, again: int) -> None:
    assert judged(platform, platform.quote()).accepted
    assert judged(platform, platform.quote(), at=AT + timedelta(seconds=later)).accepted
    assert len(asked) == 1 + again


def test_what_expires_meanwhile_is_refused(platform: SimulatedPlatform, reasons: Reasons, asked: list[bytes]) -> None:
    collateral = of(platform, CollateralShape(crl_next=AT + timedelta(seconds=5)))
    assert judged(platform, platform.quote(), collateral=collateral).accepted
    assert judged(platform, platform.quote(), at=AT + timedelta(seconds=4), collateral=collateral).accepted
    assert reasons(judged(platform, platform.quote(), at=AT + timedelta(seconds=5), collateral=collateral)) == ["CollateralExpired"]
    assert len(asked) == 2


def test_refusals_are_not_remembered(platform: SimulatedPlatform, asked: list[bytes]) -> None:
    debug = platform.quote(td_attributes=bytes.fromhex("0100001000000000"))
    for _ in range(3):
        assert not judged(platform, debug).accepted
    assert len(asked) == 3


def test_it_is_bounded(platform: SimulatedPlatform) -> None:
    memory: ProvedPlatforms[int] = ProvedPlatforms(size=3)
    quote = parse(platform.quote())
    for number in range(5):
        memory.keep(bytes([number]), quote, number, 0, 100)
    assert [memory.find(bytes([number]), quote, 1) for number in range(5)] == [None, None, 2, 3, 4]


def test_the_parts_of_a_name_cannot_be_shifted(platform: SimulatedPlatform) -> None:
    quote = parse(platform.quote())
    assert proved.name(quote, b"ab", b"c") != proved.name(quote, b"a", b"bc")
    moved = dataclasses.replace(quote, signature=quote.signature[:64] + b"\0" + quote.signature[64:])
    assert proved.name(moved, b"", b"") != proved.name(quote, b"", b"")


def test_the_library_is_the_one_that_says_no(platform: SimulatedPlatform, asked: list[bytes]) -> None:
    collateral = Collateral.from_json(platform.collateral(AT))
    quote = platform.quote()
    genuineness.verify(parse(quote), collateral, AT, [platform.root_der])
    bent = bytearray(quote)
    bent[600] ^= 1
    with pytest.raises(NotGenuine) as caught:
        genuineness.verify(parse(bytes(bent)), collateral, AT, [platform.root_der])
    assert caught.value.reasons[0].reason == "SignatureInvalid"
    assert asked == [quote, bytes(bent)]
