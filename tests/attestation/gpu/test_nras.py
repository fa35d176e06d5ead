"""NRAS answers: every check has a row that fails because of it alone; and the service's word in place of the measurements."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation.gpu import nras
from chrysalis.attestation.gpu.chain import read
from chrysalis.attestation.gpu.reasons import GpuError
from chrysalis.attestation.gpu.verdict import GpuVerdict
from e2e.simtd import gpu as simulated
from e2e.simtd.gpu import ReportShape, SimulatedDevice, raw_signature

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
NOW = int(AT.timestamp())
NONCE = bytes(range(32))
KEY = ec.generate_private_key(ec.SECP384R1())
World = Any
Reasons = Callable[[GpuVerdict], list[str]]


def _part(document: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def _token(claims: dict[str, Any], *, alg: str = "ES384", kid: str = "nv-1", key: ec.EllipticCurvePrivateKey = KEY, **header: Any) -> str:
    signed = f"{_part({'alg': alg, 'kid': kid, 'typ': 'JWT', **header})}.{_part(claims)}"
    signature = b"" if alg == "none" else raw_signature(key, signed.encode())
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def _common(**changes: Any) -> dict[str, Any]:
    return {"iss": nras.ISSUER, "iat": NOW - 5, "nbf": NOW - 5, "exp": NOW + 3600, "eat_nonce": NONCE.hex(), **changes}


def _gpu(**changes: Any) -> dict[str, Any]:
    versions = {"x-nvidia-gpu-driver-version": simulated.DRIVER, "x-nvidia-gpu-vbios-version": simulated.VBIOS}
    return _common(measres="success", secboot=True, dbgstat="disabled", ueid="1", hwmodel="GH100", **versions) | changes


def _answer(
    gpus: dict[str, dict[str, Any]] | None = None,
    *,
    overall: dict[str, Any] | None = None,
    tokens: dict[str, str] | None = None,
    **sign: Any,
) -> str:
    made = {name: _token(claims, **sign) for name, claims in (gpus or {"GPU-0": _gpu()}).items()} | (tokens or {})
    submods = {name: ["DIGEST", ["SHA-256", hashlib.sha256(token.encode()).hexdigest()]] for name, token in made.items()}
    claims = _common(**{"x-nvidia-overall-att-result": True, "submods": submods, **(overall or {})})
    return json.dumps([["JWT", _token(claims, **sign)], made])


def _jwks(*keys: ec.EllipticCurvePrivateKey) -> str:
    entries = []
    for number, key in enumerate(keys, 1):
        numbers = key.public_key().public_numbers()
        x, y = (base64.urlsafe_b64encode(part.to_bytes(48, "big")).rstrip(b"=").decode() for part in (numbers.x, numbers.y))
        entries.append({"kty": "EC", "crv": "P-384", "alg": "ES384", "kid": f"nv-{number}", "x": x, "y": y})
    return json.dumps({"keys": [{"kty": "RSA", "kid": "other"}, *entries]})


def _check(answer: str | bytes, nonce: bytes = NONCE, issuer: str = nras.ISSUER) -> nras.Answer:
    return nras.check(answer, keys=nras.read_keys(_jwks(KEY)), at=AT, nonce=nonce, issuer=issuer)


def _swapped() -> str:
    """A genuine token of another answer in the place of this one's."""
    head, _ = json.loads(_answer())
    return json.dumps([head, {"GPU-0": _token(_gpu(ueid="2"))}])


def _spoiled(which: int) -> str:
    """A lone surrogate, which JSON may hold and no encoding, in the claims of a token."""
    (kind, overall), tokens = json.loads(_answer())
    if which == 0:
        header, _, signature = overall.split(".")
        return json.dumps([[kind, f"{header}.\ud800.{signature}"], tokens])
    return json.dumps([[kind, overall], {"GPU-0": tokens["GPU-0"] + "\ud800"}])


def _digest_of(kind: Any) -> str:
    return _answer(overall={"submods": {"GPU-0": kind}})


def _unsigned() -> str:
    return _answer(alg="none")


ROWS: dict[str, tuple[str, Callable[[], Any]]] = {
    "no JSON": ("NrasTokenMalformed", lambda: _check("x")),
    "no bundle": ("NrasTokenMalformed", lambda: _check("{}")),
    "no GPU": ("NrasTokenMalformed", lambda: _check(json.dumps([["JWT", "x.y.z"], {}]))),
    "another submodule": ("NrasTokenMalformed", lambda: _check(_answer({"CPU-0": _gpu()}))),
    "too large": ("NrasTokenMalformed", lambda: _check(" " * (nras.MAX_ANSWER_BYTES + 1))),
    "two parts": ("NrasTokenMalformed", lambda: _check(json.dumps([["JWT", "x.y"], {"GPU-0": "x.y"}]))),
    "alg none": ("NrasAlgorithmNotAllowed", lambda: _check(_unsigned())),
    "alg ES256": ("NrasAlgorithmNotAllowed", lambda: _check(_answer(alg="ES256"))),
    "alg HS256": ("NrasAlgorithmNotAllowed", lambda: _check(_answer(alg="HS256"))),
    "critical header": ("NrasAlgorithmNotAllowed", lambda: _check(_answer(crit=["b64"]))),
    "unknown key": ("NrasKeyUnknown", lambda: _check(_answer(kid="nv-2"))),
    "no key set": ("NrasKeyUnknown", lambda: nras.read_keys("{}")),
    "key off the curve": ("NrasKeyUnknown", lambda: nras.read_keys(_jwks(KEY).replace('"x": "', '"x": "AA'))),
    "signature": ("NrasSignatureInvalid", lambda: _check(_answer(key=ec.generate_private_key(ec.SECP384R1())))),
    "signature of a GPU's token": (
        "NrasSignatureInvalid",
        lambda: _check(_answer(tokens={"GPU-0": _token(_gpu(), key=ec.generate_private_key(ec.SECP384R1()))})),
    ),
    "issuer": ("NrasIssuerMismatch", lambda: _check(_answer(overall={"iss": "https://nras.example"}))),
    "issuer of a GPU's token": ("NrasIssuerMismatch", lambda: _check(_answer({"GPU-0": _gpu(iss="https://nras.example")}))),
    "another issuer is expected": ("NrasIssuerMismatch", lambda: _check(_answer(), issuer="https://nras.example")),
    "expired": ("NrasTokenExpired", lambda: _check(_answer(overall={"exp": NOW}))),
    "no end": ("NrasTokenExpired", lambda: _check(_answer(overall={"exp": None}))),
    "GPU's token expired": ("NrasTokenExpired", lambda: _check(_answer({"GPU-0": _gpu(exp=NOW)}))),
    "of the future": ("NrasTokenExpired", lambda: _check(_answer(overall={"nbf": NOW + 61}))),
    "nonce": ("NrasNonceMismatch", lambda: _check(_answer(), nonce=bytes(32))),
    "GPU's nonce": ("NrasNonceMismatch", lambda: _check(_answer({"GPU-0": _gpu(eat_nonce="00" * 32)}))),
    "overall result": ("NrasClaimRefused", lambda: _check(_answer(overall={"x-nvidia-overall-att-result": False}))),
    "overall result is text": ("NrasClaimRefused", lambda: _check(_answer(overall={"x-nvidia-overall-att-result": "true"}))),
    "measurements": ("NrasClaimRefused", lambda: _check(_answer({"GPU-0": _gpu(measres="fail")}))),
    "secure boot": ("GpuStateUnproved", lambda: _check(_answer({"GPU-0": _gpu(secboot=None)}))),
    "debugging": ("GpuStateUnproved", lambda: _check(_answer({"GPU-0": _gpu(dbgstat="enabled")}))),
    "token exchanged": ("NrasSubmoduleMismatch", lambda: _check(_swapped())),
    "no submodules": ("NrasSubmoduleMismatch", lambda: _check(_answer(overall={"submods": {}}))),
    "half a character in a GPU's token": ("NrasSubmoduleMismatch", lambda: _check(_spoiled(1))),
    "half a character in the overall token": ("NrasTokenMalformed", lambda: _check(_spoiled(0))),
    "half a character as the nonce": ("NrasNonceMismatch", lambda: _check(_answer(overall={"eat_nonce": "\ud800"}))),
    "half a character as a digest": ("NrasSubmoduleMismatch", lambda: _check(_digest_of(["DIGEST", ["SHA-256", "\ud800"]]))),
    "no digest": ("NrasSubmoduleMismatch", lambda: _check(_digest_of("DIGEST"))),
    "digest of another algorithm": ("NrasSubmoduleMismatch", lambda: _check(_digest_of(["DIGEST", ["SHA-1", "00"]]))),
}


def test_the_twin_is_accepted() -> None:
    answer = _check(_answer({"GPU-0": _gpu(), "GPU-10": _gpu(ueid="3", exp=NOW + 60), "GPU-2": _gpu(ueid="2")}))
    assert [device.name for device in answer.devices] == ["GPU-0", "GPU-2", "GPU-10"]
    assert int(answer.expires.timestamp()) == NOW + 60


@pytest.mark.parametrize("name", ROWS)
def test_refused(name: str) -> None:
    expected, run = ROWS[name]
    with pytest.raises(GpuError) as refused:
        run()
    assert refused.value.reason == expected


KEPT: dict[str, Callable[[Any], Any]] = {
    "alone": lambda answer: answer,
    "as the command line prints it": lambda answer: {"result_code": 0, "claims": [{"hwmodel": "GH100"}], "detached_eat": answer},
    "as the SDK keeps it": lambda answer: [["JWT", _token({}, alg="HS256")], {"REMOTE_GPU_CLAIMS": answer}],
    "beside the switches'": lambda answer: [["JWT", "x"], {"REMOTE_SWITCH_CLAIMS": [["JWT", "x"], {"SWITCH-0": "x"}], "G": answer}],
    "as a text": lambda answer: {"token": json.dumps(answer)},
    "twice the same": lambda answer: {"a": answer, "b": json.dumps(answer, indent=1)},
}


@pytest.mark.parametrize("kept", KEPT)
def test_an_answer_within_what_tools_keep(kept: str) -> None:
    answer = json.loads(_answer())
    for text in (json.dumps(KEPT[kept](answer)), "\ufeff" + json.dumps(KEPT[kept](answer), indent=2)):
        assert _check(nras.read(text.encode())).devices == _check(_answer()).devices


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x", "NrasTokenMalformed"),
        (b"[" * 100_000, "NrasTokenMalformed"),
        (b"{}", "NrasTokenMalformed"),
        (b" " * (nras.MAX_ANSWER_BYTES + 1), "NrasTokenMalformed"),
        (json.dumps([json.loads(_answer()), json.loads(_answer({"GPU-0": _gpu(ueid="2")}))]).encode(), "NrasTokenMalformed"),
        (f'{{"a": {_answer()}, "a": {_answer()}}}'.encode(), "NrasTokenMalformed"),
        (json.dumps([["JWT", "x"], {"LOCAL_GPU_CLAIMS": json.loads(_answer(alg="none"))}]).encode(), "NrasAlgorithmNotAllowed"),
        (_answer({"CPU-0": _gpu()}).encode(), "NrasTokenMalformed"),
    ],
)
def test_a_file_without_one_answer(data: bytes, reason: str) -> None:
    with pytest.raises(GpuError) as refused:
        _check(nras.read(data))
    assert refused.value.reason == reason


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_anything_as_answer_and_as_keys(data: str | bytes) -> None:
    for call in (_check, nras.read_keys):
        with pytest.raises(GpuError):
            call(data)


@given(st.integers(0, 100_000), st.characters())
def test_any_changed_character(position: int, character: str) -> None:
    answer = _answer()
    position %= len(answer)
    changed = answer[:position] + character + answer[position + 1 :]
    try:
        found = _check(changed)
    except GpuError:
        return
    assert found == _check(answer)


def _ueid(device: SimulatedDevice) -> str:
    return str(device.certificates[0].serial_number)


def test_the_services_word_in_place_of_the_measurements(world: World, reasons: Reasons) -> None:
    rules = world.rules(backend="NRAS", measurements=[])
    mine = _gpu(ueid=_ueid(world.hopper[0]))
    verdict = world.judge(rules=rules, remote=lambda: _check(_answer({"GPU-0": mine})))
    assert (verdict.accepted, verdict.backend, verdict.limited_by) == (True, "NRAS", "nras.exp")
    assert verdict.gpus[0].secure_boot is True
    rows: dict[str, dict[str, Any]] = {
        "NrasSubmoduleMismatch": {"GPU-0": _gpu(ueid="7")},
        "NrasClaimRefused": {"GPU-0": mine | {"x-nvidia-gpu-driver-version": "1.1"}},
        "GpuStateUnproved": {"GPU-0": mine | {"secboot": False}},
    }
    for expected, gpus in rows.items():
        assert reasons(world.judge(rules=rules, remote=lambda gpus=gpus: _check(_answer(gpus)))) == [expected]
    twice = {"GPU-0": mine, "GPU-1": mine}
    assert reasons(world.judge(rules=rules, remote=lambda: _check(_answer(twice)))) == ["NrasSubmoduleMismatch"]


def test_the_reports_are_judged_all_the_same(world: World, reasons: Reasons) -> None:
    rules = world.rules(backend="NRAS", measurements=[])
    shaped = world.evidence(shape=ReportShape(feature_flag=2, protected_pcie=0xAA))
    mine = _answer({"GPU-0": _gpu(ueid=_ueid(world.hopper[0]))})
    assert reasons(world.judge([shaped], rules=rules, remote=lambda: _check(mine))) == ["GpuModeNotAllowed"]


def test_the_services_word_about_gpus_says_nothing_of_switches(world: World, reasons: Reasons) -> None:
    devices = world.fabric()
    good, gpus = list(devices), [device for device in devices if device.stated.architecture != "LS10"]
    serials = [str(read(gpu.chain).certificates[0].serial_number) for gpu in gpus]
    answer = _answer({f"GPU-{place}": _gpu(ueid=serial) for place, serial in enumerate(serials)})
    rules = world.fabric_rules(backend="NRAS")
    verdict = world.judge(devices, rules=rules, remote=lambda: _check(answer))
    assert verdict.accepted
    assert [switch.comparison for switch in verdict.switches] == ["Matched", "Matched"]
    links = tuple(bytes.fromhex(pdi) for pdi in verdict.switches[0].gpu_pdis)
    shape = ReportShape(vbios=simulated.SWITCH_BIOS, links=links, changed={2: bytes(48)})
    devices[len(gpus)] = world.evidence(world.switches[0], shape)
    assert reasons(world.judge(devices, rules=rules, remote=lambda: _check(answer))) == ["GpuMeasurementMismatch"]
    without = world.fabric_rules(backend="NRAS", measurements=[])
    assert set(reasons(world.judge(good, rules=without, remote=lambda: _check(answer)))) == {"GpuReferenceMissing"}
