"""Fetching collateral: exact bytes, both encodings, bounded, and never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation.collateral import Collateral
from chrysalis.broker import pccs
from chrysalis.broker.pccs import PccsFetcher, binary, members
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.settings import CollateralSettings
from chrysalis.clock import ManualClock
from e2e.simtd.pki import SimulatedPlatform

Answers = dict[str, Callable[[], httpx.Response]]


def answers(documents: dict[str, str], *, hexadecimal: bool, spaced: bool) -> Answers:
    """A PCCS's answers: CRLs as DER or as hex text, JSON with or without white space and in either order."""
    gap = " \n" if spaced else ""
    tcb = f'{{{gap}"signature":{gap}"{documents["tcb_info_signature"]}"{gap},{gap}"tcbInfo":{gap}{documents["tcb_info"]}{gap}}}{gap}'
    qe = f'{{"enclaveIdentity":{documents["qe_identity"]},"signature":"{documents["qe_identity_signature"]}"}}'
    crl = documents["pck_crl"].encode() if hexadecimal else bytes.fromhex(documents["pck_crl"])
    root = documents["root_ca_crl"].encode() if hexadecimal else bytes.fromhex(documents["root_ca_crl"])

    def chain(name: str, key: str) -> dict[str, str]:
        return {name: quote(documents[key])}

    return {
        "/base/tdx/certification/v4/tcb": lambda: httpx.Response(
            200, text=tcb, headers=chain("TCB-Info-Issuer-Chain", "tcb_info_issuer_chain")
        ),
        "/base/tdx/certification/v4/qe/identity": lambda: httpx.Response(
            200, text=qe, headers=chain("SGX-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain")
        ),
        "/base/sgx/certification/v4/pckcrl": lambda: httpx.Response(
            200, content=crl, headers=chain("SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain")
        ),
        "/base/sgx/certification/v4/rootcacrl": lambda: httpx.Response(200, content=root),
    }


def fetcher(found: Answers, asked: list[httpx.URL] | None = None, **settings: Any) -> PccsFetcher:
    def handle(request: httpx.Request) -> httpx.Response:
        if asked is not None:
            asked.append(request.url)
        answer = found.get(request.url.path)
        return answer() if answer else httpx.Response(404)

    configuration = CollateralSettings.model_validate({"url": "https://pccs/base/"} | settings)
    return PccsFetcher(configuration, httpx.MockTransport(handle))


@pytest.fixture
def documents(platform: SimulatedPlatform, clock: ManualClock) -> dict[str, str]:
    found: dict[str, str] = json.loads(platform.collateral(clock.now()))
    return found


@pytest.mark.parametrize("hexadecimal", [False, True])
@pytest.mark.parametrize("spaced", [False, True])
def test_every_byte_is_kept(documents: dict[str, str], hexadecimal: bool, spaced: bool) -> None:
    asked: list[httpx.URL] = []
    got = fetcher(answers(documents, hexadecimal=hexadecimal, spaced=spaced), asked, update="early").fetch("51D000000000", "processor")
    assert got == Collateral.from_json(json.dumps(documents))
    assert {(url.path[5:], url.query.decode()) for url in asked} == {
        ("/tdx/certification/v4/tcb", "fmspc=51D000000000&update=early"),
        ("/tdx/certification/v4/qe/identity", "update=early"),
        ("/sgx/certification/v4/pckcrl", "ca=processor&encoding=der"),
        ("/sgx/certification/v4/rootcacrl", ""),
    }


def test_the_root_crl_may_stand_elsewhere(documents: dict[str, str]) -> None:
    found = answers(documents, hexadecimal=False, spaced=False)
    found["/root.crl"] = found.pop("/base/sgx/certification/v4/rootcacrl")
    got = fetcher(found, rootCrlUrl="https://certificates/root.crl").fetch("51D000000000", "platform")
    assert got.root_ca_crl.hex() == documents["root_ca_crl"]


TCB = "/base/tdx/certification/v4/tcb"


def _fails() -> httpx.Response:
    raise httpx.ConnectTimeout("no answer")


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("not found", lambda good: httpx.Response(404)),
        ("redirect", lambda good: httpx.Response(302, headers={"location": "https://elsewhere/"})),
        ("no chain", lambda good: httpx.Response(200, content=good.content)),
        ("long chain", lambda good: httpx.Response(200, content=good.content, headers={"TCB-Info-Issuer-Chain": "a" * 40_000})),
        ("too long", lambda good: httpx.Response(200, content=good.content + b" " * pccs.MAX_DOCUMENT_BYTES, headers=good.headers)),
        ("not JSON", lambda good: httpx.Response(200, content=b"<html>", headers=good.headers)),
        ("not UTF-8", lambda good: httpx.Response(200, content=b"\xff", headers=good.headers)),
        ("no signature", lambda good: httpx.Response(200, content=b'{"tcbInfo":{}}', headers=good.headers)),
        ("signature not hex", lambda good: httpx.Response(200, content=b'{"tcbInfo":{},"signature":"zz"}', headers=good.headers)),
        ("signature a number", lambda good: httpx.Response(200, content=b'{"tcbInfo":{},"signature":1}', headers=good.headers)),
        ("twice", lambda good: httpx.Response(200, content=b'{"tcbInfo":{},"tcbInfo":{},"signature":""}', headers=good.headers)),
        ("deep", lambda good: httpx.Response(200, content=b'{"tcbInfo":' + b"[" * 100_000, headers=good.headers)),
        ("timeout", lambda good: _fails()),
    ],
)
def test_unusable_answers(documents: dict[str, str], name: str, answer: Callable[[httpx.Response], httpx.Response]) -> None:
    found = answers(documents, hexadecimal=False, spaced=False)
    good = found[TCB]
    fetcher(found).fetch("51D000000000", "platform")
    with pytest.raises(BrokerError) as caught:
        fetcher(found | {TCB: lambda: answer(good())}).fetch("51D000000000", "platform")
    assert caught.value.reason == BrokerReason.COLLATERAL_UNAVAILABLE


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans()), min_size=1), st.sampled_from([None, 1, "\t"]))
def test_members_are_cut_out_as_they_stand(document: dict[str, Any], indent: Any) -> None:
    text = json.dumps(document, indent=indent)
    found = members(text)
    assert {name: json.loads(value) for name, value in found.items()} == document
    assert all(value in text for value in found.values())


@given(st.text(max_size=60))
def test_members_of_anything_else(text: str) -> None:
    try:
        found = members(text)
    except (ValueError, RecursionError):
        return
    assert isinstance(json.loads(text), dict)
    assert found.keys() == json.loads(text).keys()


def test_binary() -> None:
    assert binary(b"0a0B\n") == b"\x0a\x0b"
    assert binary(b"\x30\x82") == b"\x30\x82"
