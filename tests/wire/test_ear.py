"""EAR tokens: who signed, what form, which time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.clock import ManualClock, unix
from chrysalis.receipts.jws import thumbprint
from chrysalis.wire import ear
from chrysalis.wire.ear import Ear
from chrysalis.wire.reasons import WireError, WireReason

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes_raw()
H = "ab" * 32


def claims(clock: ManualClock, **changes: Any) -> dict[str, Any]:
    now = unix(clock.now())
    good = {
        "eat_profile": ear.PROFILE,
        "jti": "01900000-0000-7000-8000-000000000000",
        "iat": now,
        "exp": now + 600,
        "eat_nonce": H,
        "ear.verifier-id": {"developer": "d", "build": "b"},
        "submods": {
            "tdx": {"ear.status": "affirming", "ear.trustworthiness-vector": {"hardware": 2}, "ear.appraisal-policy-id": "policy:x"}
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


@given(st.text(max_size=200))
def test_foreign_text_never_crashes(text: str) -> None:
    with pytest.raises(WireError):
        ear.verify(text, PUBLIC, datetime(2026, 1, 1, tzinfo=UTC))
