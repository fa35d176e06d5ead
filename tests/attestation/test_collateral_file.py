"""Collateral as other tools keep it: each form gives the same documents, byte for byte, beside the damaged one that is refused."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation import collateral_file, exact_json, pck_chain
from chrysalis.attestation import quote as quotes
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


def by_name(value: Any) -> Any:
    """JSON as a tool hands it on that keeps objects sorted."""
    if isinstance(value, dict):
        return {name: by_name(value[name]) for name in sorted(value)}
    return [by_name(item) for item in value] if isinstance(value, list) else value


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def root_first(text: str) -> str:
    return "".join(reversed([part + "-----END CERTIFICATE-----\n" for part in text.split("-----END CERTIFICATE-----\n")[:-1]]))


def parts(text: str) -> list[str]:
    return [part + "-----END CERTIFICATE-----" for part in text.split("-----END CERTIFICATE-----")[:-1]]


def exported(*more: dict[str, Any]) -> dict[str, Any]:
    """A cache's export: everything by names of its own, and beside it what it has for enclaves and for other platforms."""
    other = json.loads(TCB_ANSWER)["tcbInfo"] | {"id": "SGX"}
    return {
        "platforms": [{"fmspc": "51D000000000", "pck_certs": []}],
        "collaterals": {
            "version": 4,
            "tcbinfos": [{"sgx_tcbinfo": {"tcbInfo": other, "signature": "00"}, "tdx_tcbinfo": json.loads(TCB_ANSWER)}, *more],
            "pckcacrl": {"platformCrl": PLAIN["pck_crl"]},
            "qeidentity": {"enclaveIdentity": {"id": "QE"}, "signature": "00"},
            "tdqeidentity": QE_ANSWER,
            "certificates": {
                "SGX-PCK-Certificate-Issuer-Chain": {"PLATFORM": quote(PLAIN["pck_crl_issuer_chain"])},
                "TCB-Info-Issuer-Chain": quote(PLAIN["tcb_info_issuer_chain"]),
                "SGX-Enclave-Identity-Issuer-Chain": quote(PLAIN["qe_identity_issuer_chain"]),
            },
            "rootcacrl": PLAIN["root_ca_crl"],
        },
    }


RECORDED = [
    {"url": "…/tcb", "headers": {"Tcb-Info-Issuer-Chain": [quote(PLAIN["tcb_info_issuer_chain"])]}, "body_base64": base64_of(TCB_ANSWER)},
    {"url": "…/qe/identity", "headers": {}, "body": QE_ANSWER},
    {"url": "…/pckcrl", "headers": {"sgx-pck-crl-issuer-chain": PLAIN["pck_crl_issuer_chain"]}, "body": base64_of(PLAIN["pck_crl"])},
    {"url": "…/rootcacrl", "body": pem(PLAIN["root_ca_crl"])},
]
OTHER_TCB = {"tdx_tcbinfo": {"tcbInfo": json.loads(PLAIN["tcb_info"]) | {"fmspc": "00606A000000"}, "signature": "00"}}
HEADERS = {
    "tcb_info_issuer_chain": "TCB-Info-Issuer-Chain",
    "qe_identity_issuer_chain": "SGX-Enclave-Identity-Issuer-Chain",
    "pck_crl_issuer_chain": "SGX-PCK-CRL-Issuer-Chain",
}


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
    "chains and documents in base64": changed((*CHAINS, *DOCUMENTS), base64_of),
    "chains and documents in hexadecimal": changed((*CHAINS, *DOCUMENTS), lambda text: text.encode().hex()),
    "lists in base64 of PEM": changed(LISTS, lambda digits: base64_of(pem(digits))),
    "the service's answers in base64": answers(base64_of(TCB_ANSWER), base64_of(QE_ANSWER)),
    "a Buffer of JavaScript": changed(HEX_FIELDS, lambda digits: {"type": "Buffer", "data": list(bytes.fromhex(digits))}),
    "a Uint8Array of JavaScript": changed(HEX_FIELDS, lambda digits: {str(i): byte for i, byte in enumerate(bytes.fromhex(digits))}),
    "texts as numbers": changed((*CHAINS, *DOCUMENTS), lambda text: list(text.encode())),
    "documents as JSON, sorted": changed(DOCUMENTS, lambda text: by_name(json.loads(text))),
    "chains with their root first": changed(CHAINS, root_first),
    "chains as lists": changed(CHAINS, parts),
    "chains under the names of headers": {HEADERS.get(name, name): value for name, value in PLAIN.items()},
    "a cache's export": exported(),
    "recorded answers": {"responses": RECORDED},
    "recorded answers as texts": [json.dumps(answer) for answer in RECORDED],
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


def test_the_quotes_platform_is_chosen_from_a_cache() -> None:
    crl = x509.CertificateRevocationListBuilder(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "A PCK Processor CA")]))
    other = crl.last_update(AT).next_update(AT).sign(ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.DER)
    document = exported(OTHER_TCB)
    document["collaterals"]["pckcacrl"]["processorCrl"] = other.hex()
    claimed = pck_chain.claimed(quotes.parse(PLATFORM.quote()))
    read = collateral_file.read(json.dumps(document).encode(), claimed)
    assert (read.tcb_info, read.pck_crl) == (GOOD.tcb_info, GOOD.pck_crl)
    for unknown in (None, replace(claimed, fmspc="000000000000"), replace(claimed, ca="")):
        with pytest.raises(AttestationError) as caught:
            collateral_file.read(json.dumps(document).encode(), unknown)
        assert caught.value.reason == "CollateralMalformed"


def test_what_is_sorted_and_changed_stays_refused() -> None:
    tcb = json.loads(PLAIN["tcb_info"])
    read = collateral_file.read(json.dumps(PLAIN | {"tcb_info": by_name(tcb | {"tcbEvaluationDataNumber": 99})}).encode())
    verdict = appraise(quote=PLATFORM.quote(), collateral=read, policy=None, at=AT, roots=[PLATFORM.root_der])
    assert "CollateralSignatureInvalid" in [reason.reason for reason in verdict.reasons]


def test_a_member_that_is_not_known_keeps_its_place() -> None:
    tcb = {"id": "TDX", "later": 1, "version": 3, "tcbLevels": []}
    read = collateral_file.read(json.dumps(PLAIN | {"tcb_info": tcb}).encode())
    assert read.tcb_info == '{"id":"TDX","later":1,"version":3,"tcbLevels":[]}'


DAMAGED: dict[str, bytes] = {
    "several platforms' documents and no quote": json.dumps(exported(OTHER_TCB)).encode(),
    "a cache without a list": json.dumps(exported() | {"collaterals": exported()["collaterals"] | {"rootcacrl": ""}}).encode(),
    "a cache with a name twice": json.dumps(exported()).replace('"rootcacrl":', '"rootcacrl": "", "rootcacrl":').encode(),
    "more members than are read": b'{"a": [' + b"0," * 150_000 + b"0]}",
    "more texts than are looked at": json.dumps([["x"] * 5000]).encode(),
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
    assert exact_json.items(' [ {"a" : 1} ,2,"x" ] ') == ['{"a" : 1}', "2", '"x"']
    assert exact_json.items("[ ]") == []
    for wrong in ("", "{}", "[", "[1", "[1 2]", "[,]", "[1,]", "[] x"):
        with pytest.raises(ValueError):  # noqa: PT011
            exact_json.items(wrong)
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
