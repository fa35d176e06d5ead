"""EAR tokens: who signed, what form, which time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.api.policy import Placement
from chrysalis.clock import ManualClock, unix
from chrysalis.receipts import jws
from chrysalis.receipts.jws import thumbprint
from chrysalis.wire import ear, ear_keys
from chrysalis.wire.ear import Ear
from chrysalis.wire.ear_keys import Algorithm, CertifiedKey, Jwk, KeyCertificate
from chrysalis.wire.reasons import WireError, WireReason

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
H = "ab" * 32
TDX = {"ear_status": "affirming", "ear_trustworthiness_vector": {"hardware": 2}, "ear_appraisal_policy_ids": ["policy:x"]}


def claims(clock: ManualClock, **changes: Any) -> dict[str, Any]:
    now = unix(clock.now())
    good = {
        "eat_profile": ear.PROFILE,
        "jti": "01900000-0000-7000-8000-000000000000",
        "iat": now,
        "exp": now + 600,
        "eat_nonce": H,
        "ear_verifier_id": {"developer": "d", "build": "b"},
        "submods": {
            "tdx": {"ear_status": "affirming", "ear_trustworthiness_vector": {"hardware": 2}, "ear_appraisal_policy_ids": ["policy:x"]}
        },
        "cnf": {"spki#S256": H},
        "chrysalis_keys": {"tlsSpkiSha256": H, "hpke": H, "receipt": H},
        "chrysalis_result": {
            "evidenceClass": "Hardware",
            "placement": "External",
            "isolation": "PodTD",
            "tcbStatus": "UpToDate",
            "measurement": "m",
            "limitedBy": "l",
            "policyOwner": H,
            "policyName": "p",
            "policyVersion": 1,
            "keyId": "k",
            "keySince": 1,
            "modelDigest": "sha256:" + H,
        },
    }
    return good | changes


def token(payload: dict[str, Any], typ: str = ear.TYP, key: Any = KEY, algorithm: str = "EdDSA") -> str:
    return jwt.encode(payload, key, algorithm=algorithm, headers={"typ": typ})


def test_what_is_signed_comes_back(clock: ManualClock) -> None:
    made = Ear.model_validate(claims(clock))
    signed = made.sign(KEY)
    assert ear.verify(signed, PUBLIC, clock.now()) == made
    header = jwt.get_unverified_header(signed)
    assert header == {"alg": "EdDSA", "typ": "eat+jwt", "kid": thumbprint(PUBLIC)}
    assert jwt.decode(signed, options={"verify_signature": False}) == claims(clock)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("another key", lambda c: token(claims(c), key=Ed25519PrivateKey.generate()), WireReason.EAR_SIGNATURE_INVALID),
        ("changed", lambda c: token(claims(c))[:-6] + "AAAAAA", WireReason.EAR_SIGNATURE_INVALID),
        ("alg none", lambda c: token(claims(c), key=None, algorithm="none"), WireReason.EAR_MALFORMED),
        ("alg HS256", lambda c: token(claims(c), key=b"x" * 32, algorithm="HS256"), WireReason.EAR_MALFORMED),
        ("another typ", lambda c: token(claims(c), typ="JWT"), WireReason.EAR_MALFORMED),
        ("another profile", lambda c: token(claims(c, eat_profile="x")), WireReason.EAR_MALFORMED),
        ("unknown claim", lambda c: token(claims(c, admin=True)), WireReason.EAR_MALFORMED),
        ("no keys", lambda c: token(claims(c, chrysalis_keys={})), WireReason.EAR_MALFORMED),
        ("no submodule", lambda c: token(claims(c, submods={})), WireReason.EAR_MALFORMED),
        ("junk", lambda c: "a.b.c", WireReason.EAR_MALFORMED),
        ("too long", lambda c: "a" * 17_000, WireReason.EAR_MALFORMED),
        ("expired", lambda c: token(claims(c, exp=unix(c.now()))), WireReason.EAR_EXPIRED),
        ("from the future", lambda c: token(claims(c, iat=unix(c.now()) + 61)), WireReason.EAR_EXPIRED),
    ],
)
def test_refusals(clock: ManualClock, name: str, make: Any, reason: WireReason) -> None:
    ear.verify(token(claims(clock)), PUBLIC, clock.now())
    with pytest.raises(WireError) as caught:
        ear.verify(make(clock), PUBLIC, clock.now())
    assert caught.value.reason == reason


def test_times_are_the_callers(clock: ManualClock) -> None:
    signed = token(claims(clock))
    ear.verify(signed, PUBLIC, clock.now() + timedelta(seconds=599))
    with pytest.raises(WireError):
        ear.verify(signed, PUBLIC, clock.now() + timedelta(seconds=600))


def certified(clock: ManualClock, algorithm: Algorithm = Algorithm.ES256, anchor: Ed25519PrivateKey = KEY, **window: int) -> CertifiedKey:
    now = unix(clock.now())
    times = {"not_before": now - 100, "signs_until": now + 100, "verifies_until": now + 1000} | window
    return CertifiedKey.issue(ear_keys.generate(algorithm), anchor, **times)


def with_header(clock: ManualClock, key: CertifiedKey, payload: dict[str, Any] | None = None, **headers: Any) -> str:
    good = {"typ": ear.TYP, "kid": key.kid, ear.KEY_HEADER: key.token}
    return jwt.encode(payload or claims(clock), key.private, algorithm=key.certificate.jwk.algorithm.value, headers=good | headers)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_certified_key_signs(clock: ManualClock, algorithm: Algorithm) -> None:
    key = certified(clock, algorithm)
    made = Ear.model_validate(claims(clock))
    signed = made.sign(key)
    assert jwt.get_unverified_header(signed) == {"alg": algorithm.value, "typ": ear.TYP, "kid": key.kid, ear.KEY_HEADER: key.token}
    assert ear.verify(signed, PUBLIC, clock.now()) == made
    assert ear_keys.from_der(ear_keys.to_der(key.private)).public_key() == key.private.public_key()


def _of_another(c: ManualClock) -> str:
    one, two = certified(c), certified(c)
    return with_header(c, one, **{"kid": two.kid, ear.KEY_HEADER: two.token})


def _alg_of_another_kind(c: ManualClock) -> str:
    one, two = certified(c, Algorithm.EDDSA), certified(c, Algorithm.ES256)
    return with_header(c, one, **{"kid": two.kid, ear.KEY_HEADER: two.token})


def _certificate_of_another_type(c: ManualClock) -> str:
    key = certified(c)
    return with_header(c, key, **{ear.KEY_HEADER: jws.sign("chrysalis-receipt-key+jwt", key.certificate.to_json_dict(), KEY)})


def _certificate_with(c: ManualClock, **changes: Any) -> str:
    key = certified(c)
    members = key.certificate.to_json_dict() | changes
    return with_header(c, key, **{ear.KEY_HEADER: jws.sign(ear_keys.TYP, members, KEY)})


def _self_certified(c: ManualClock) -> str:
    stranger = Ed25519PrivateKey.generate()
    return with_header(c, certified(c, anchor=stranger))


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("certified by a stranger", _self_certified, WireReason.EAR_SIGNATURE_INVALID),
        ("certificate of another type", _certificate_of_another_type, WireReason.EAR_SIGNATURE_INVALID),
        ("signed by another certified key", _of_another, WireReason.EAR_SIGNATURE_INVALID),
        ("kid of another key", lambda c: with_header(c, certified(c), kid=thumbprint(PUBLIC)), WireReason.EAR_MALFORMED),
        ("no kid", lambda c: with_header(c, certified(c), kid=""), WireReason.EAR_MALFORMED),
        ("algorithm of another kind", _alg_of_another_kind, WireReason.EAR_MALFORMED),
        ("certificate left out", lambda c: token(claims(c), key=certified(c, Algorithm.EDDSA).private), WireReason.EAR_SIGNATURE_INVALID),
        ("certificate is junk", lambda c: with_header(c, certified(c), **{ear.KEY_HEADER: "x.y"}), WireReason.EAR_MALFORMED),
        ("certificate is long", lambda c: with_header(c, certified(c), **{ear.KEY_HEADER: "x" * 3000}), WireReason.EAR_MALFORMED),
        ("certificate is a number", lambda c: with_header(c, certified(c), **{ear.KEY_HEADER: 7}), WireReason.EAR_MALFORMED),
        ("certificate with an unknown member", lambda c: _certificate_with(c, ca=True), WireReason.EAR_MALFORMED),
        ("certificate without end", lambda c: _certificate_with(c, exp=0), WireReason.EAR_MALFORMED),
        (
            "point off the curve",
            lambda c: _certificate_with(c, jwk={"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}),
            WireReason.EAR_MALFORMED,
        ),
        ("key that signs no more", lambda c: with_header(c, certified(c, signs_until=unix(c.now()))), WireReason.EAR_EXPIRED),
        ("key that does not sign yet", lambda c: with_header(c, certified(c, not_before=unix(c.now()) + 1)), WireReason.EAR_EXPIRED),
        (
            "key that verifies no more",
            lambda c: with_header(
                c, certified(c, signs_until=unix(c.now()), verifies_until=unix(c.now())), claims(c, iat=unix(c.now()) - 1)
            ),
            WireReason.EAR_EXPIRED,
        ),
    ],
)
def test_certified_keys_are_refused(clock: ManualClock, name: str, make: Any, reason: WireReason) -> None:
    ear.verify(with_header(clock, certified(clock)), PUBLIC, clock.now())
    with pytest.raises(WireError) as caught:
        ear.verify(make(clock), PUBLIC, clock.now())
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"tls_spki_sha256": bytes(32)}, "cnf"),
        ({"nonce": bytes(32)}, "eat_nonce"),
        ({"statuses": ("warning",)}, "submods.tdx.ear_status"),
        ({"evidence_classes": ("Simulated",)}, "evidenceClass"),
        ({"placements": (Placement.IN_TD,)}, "placement"),
    ],
)
def test_what_a_relying_party_asks_for(clock: ManualClock, change: dict[str, Any], claim: str) -> None:
    found = Ear.model_validate(claims(clock))
    wanted: dict[str, Any] = {"tls_spki_sha256": bytes.fromhex(H), "nonce": bytes.fromhex(H)}
    ear.require(found, **wanted)
    with pytest.raises(WireError) as caught:
        ear.require(found, **(wanted | change))
    assert caught.value.reason == WireReason.EAR_CLAIM_MISMATCH
    assert claim in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"eat_profile": "tag:github.com,2023:veraison/ear"},
        {"jti": 5},
        {"iat": "now"},
        {"exp": None},
        {"eat_nonce": "00"},
        {"ear_verifier_id": {"developer": "d"}},
        {"submods": {"tdx": TDX | {"ear_status": "good"}}},
        {"submods": {"tdx": TDX | {"ear_trustworthiness_vector": {"magic": 2}}}},
        {"submods": {"tdx": TDX | {"ear_trustworthiness_vector": {"hardware": 200}}}},
        {"submods": {"tdx": TDX | {"ear_appraisal_policy_ids": []}}},
        {"cnf": {}},
        {"chrysalis_keys": {"hpke": H}},
        {"chrysalis_result": {}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_claim_has_its_form(clock: ManualClock, changes: dict[str, Any]) -> None:
    ear.verify(token(claims(clock)), PUBLIC, clock.now())
    with pytest.raises(WireError) as caught:
        ear.verify(token(claims(clock, **changes)), PUBLIC, clock.now())
    assert caught.value.reason == WireReason.EAR_MALFORMED


def test_the_key_set_shows_the_anchor_first(clock: ManualClock) -> None:
    keys = [certified(clock, algorithm) for algorithm in Algorithm]
    shown = ear_keys.key_set(PUBLIC, [key.token for key in keys])
    assert [key["kid"] for key in shown["keys"]] == [thumbprint(PUBLIC), *(key.kid for key in keys)]
    assert ear_keys.anchor_of(shown) == PUBLIC
    for broken in ({}, {"keys": []}, {"keys": shown["keys"][1:]}, {"keys": [shown["keys"][0]] * 2}, {"keys": [7]}):
        with pytest.raises(WireError):
            ear_keys.anchor_of(broken)


def test_thumbprints_are_those_of_the_standard() -> None:
    assert Jwk.of(KEY.public_key()).kid == thumbprint(PUBLIC)
    # RFC 7638 fixes the members and their order; for EC: crv, kty, x, y.
    jwk = Jwk.of(ear_keys.generate(Algorithm.ES256).public_key())
    assert list(jwk.model_dump()) == ["crv", "kty", "x", "y"]
    assert Jwk.of(jwk.public_key()) == jwk


def test_windows_are_ordered() -> None:
    jwk = Jwk.of(KEY.public_key())
    KeyCertificate(jwk=jwk, nbf=1, signs_until=2, exp=3)
    with pytest.raises(ValueError, match="signsUntil"):
        KeyCertificate(jwk=jwk, nbf=3, signs_until=2, exp=3)


@given(st.text(max_size=200))
def test_foreign_text_never_crashes(text: str) -> None:
    with pytest.raises(WireError):
        ear.verify(text, PUBLIC, datetime(2026, 1, 1, tzinfo=UTC))
