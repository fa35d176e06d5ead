"""Collateral as other tools keep it: each form gives the same documents, byte for byte, beside the damaged one that is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation import collateral_file, exact_json
from chrysalis.attestation.appraisal import appraise
from chrysalis.attestation.collateral import HEX_FIELDS, MAX_COLLATERAL_BYTES, TEXT_FIELDS, Collateral
from chrysalis.attestation.reasons import AttestationError
from e2e.simtd.pki import SimulatedPlatform

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
PLATFORM = SimulatedPlatform.create()
TEXT = PLATFORM.collateral(AT)
PLAIN: dict[str, Any] = json.loads(TEXT)
GOOD = Collateral.from_json(TEXT)
LISTS = ("root_ca_crl", "pck_crl")
CHAINS = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
DOCUMENTS = ("tcb_info", "qe_identity")
TCB_ANSWER = f'{{"tcbInfo":{PLAIN["tcb_info"]},"signature":"{PLAIN["tcb_info_signature"]}"}}'
QE_ANSWER = f'{{"enclaveIdentity":{PLAIN["qe_identity"]},"signature":"{PLAIN["qe_identity_signature"]}"}}'


def changed(names: tuple[str, ...], change: Callable[[str], Any]) -> dict[str, Any]:
    return PLAIN | {name: change(PLAIN[name]) for name in names}


def pem(digits: str) -> str:
    text = base64.b64encode(bytes.fromhex(digits)).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN X509 CRL-----\n{lines}\n-----END X509 CRL-----\n"


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def answers(tcb: Any, qe: Any) -> dict[str, Any]:
    return {name: value for name, value in PLAIN.items() if not name.endswith("signature")} | {"tcb_info": tcb, "qe_identity": qe}


FORMS: dict[str, Any] = {
    "plain": PLAIN,
    "upper case": changed(HEX_FIELDS, str.upper),
    "0x": changed(HEX_FIELDS, lambda digits: "0x" + digits),
    "base64": changed(HEX_FIELDS, lambda digits: base64.b64encode(bytes.fromhex(digits)).decode()),
    "numbers": changed(HEX_FIELDS, lambda digits: list(bytes.fromhex(digits))),
    "lists in PEM": changed(LISTS, pem),
    "lists in hexadecimal of hexadecimal": changed(LISTS, lambda digits: digits.encode().hex()),
    "C strings": changed((*CHAINS, *DOCUMENTS, *HEX_FIELDS), lambda text: text + "\0"),
    "documents as JSON": changed(DOCUMENTS, json.loads),
    "the service's answers": PLAIN | {"tcb_info": TCB_ANSWER, "qe_identity": QE_ANSWER},
    "the service's answers alone": answers(TCB_ANSWER, QE_ANSWER),
    "the service's answers as JSON": answers(json.loads(TCB_ANSWER), json.loads(QE_ANSWER)),
    "chains as headers carry them": changed(CHAINS, quote),
    "camel case": {camel(name): value for name, value in PLAIN.items()},
    "within an object": {"quote": "00", "tcb_info": {"version": 3}, "collateral": PLAIN},
    "a list of one": [{"collateral": PLAIN}],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_form_is_read(form: Any, indent: int | None) -> None:
    read = collateral_file.read(json.dumps(form, indent=indent).encode())
    assert (read.tcb_info, read.qe_identity) == (GOOD.tcb_info, GOOD.qe_identity)
    assert {name: getattr(read, name) for name in HEX_FIELDS} == {name: getattr(GOOD, name) for name in HEX_FIELDS}
    verdict = appraise(quote=PLATFORM.quote(), collateral=read, policy=None, at=AT, roots=[PLATFORM.root_der])
    assert verdict.accepted, verdict.reasons


@pytest.mark.parametrize("more", [" ", "\n"])
def test_a_space_more_is_another_document(more: str) -> None:
    read = collateral_file.read(json.dumps(changed(DOCUMENTS, lambda text: text + more)).encode())
    verdict = appraise(quote=PLATFORM.quote(), collateral=read, policy=None, at=AT, roots=[PLATFORM.root_der])
    assert [reason.reason for reason in verdict.reasons] == ["CollateralSignatureInvalid"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_encodings(encoding: str) -> None:
    assert collateral_file.read(TEXT.encode(encoding)) == GOOD


def test_an_answers_own_signature_does_not_replace_the_one_beside_it() -> None:
    other = PLAIN["tcb_info_signature"][:-2] + "00"
    document = PLAIN | {"tcb_info": TCB_ANSWER.replace(PLAIN["tcb_info_signature"], other)}
    assert collateral_file.read(json.dumps(document).encode()).tcb_info_signature == GOOD.tcb_info_signature


DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "a word": b"collateral",
    "a number": b"5",
    "a list of two": json.dumps([PLAIN, PLAIN]).encode(),
    "no documents": b'{"collateral": {}}',
    "a text": json.dumps(TEXT).encode(),
    "deep": b"[" * 100_000,
    "too deep": json.dumps({"a": {"b": {"c": {"d": {"e": PLAIN}}}}}).encode(),
    "more than is read": b" " * (MAX_COLLATERAL_BYTES + 1),
    "other bytes": b"\xff\xfe\xfd",
    "half a byte": json.dumps(changed(HEX_FIELDS, lambda digits: digits[1:])).encode(),
    "a document that is a number": json.dumps(PLAIN | {"tcb_info": 5}).encode(),
    "a list that is a number": json.dumps(PLAIN | {"pck_crl": 5}).encode(),
    "numbers that are no bytes": json.dumps(PLAIN | {"pck_crl": [256]}).encode(),
    "a member under two names": TEXT.replace('"pck_crl":', '"pckCrl":"00","pck_crl":').encode(),
    "a member twice": TEXT.replace('"pck_crl":', '"pck_crl":"00","pck_crl":').encode(),
    **{f"without {name}": json.dumps({key: value for key, value in PLAIN.items() if key != name}).encode() for name in TEXT_FIELDS},
    **{f"without {name} ": json.dumps({key: value for key, value in PLAIN.items() if key != name}).encode() for name in HEX_FIELDS},
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_form_is_refused(data: bytes) -> None:
    with pytest.raises(AttestationError) as caught:
        collateral_file.read(data)
    assert caught.value.reason == "CollateralMalformed"


def test_members_keep_their_bytes() -> None:
    text = ' { "a" : {"b":[1,  2]} ,\n"c":"\\u0041" } '
    assert exact_json.members(text) == {"a": '{"b":[1,  2]}', "c": '"\\u0041"'}
    for wrong in ("", "[]", "{", "{}", '{"a":1,"a":2}', '{"a":1} x', '{"a" 1}', "{1:2}"):
        with pytest.raises(ValueError):  # noqa: PT011
            exact_json.members(wrong)


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=30) | st.just(PLAIN["tcb_info"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*PLAIN, "x"]), inner, max_size=9),
    max_leaves=12,
)


@given(VALUES)
def test_any_json(value: Any) -> None:
    with suppress(AttestationError):
        collateral_file.read(json.dumps(value).encode())
