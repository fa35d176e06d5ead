"""Fetching documents: exact bytes, both encodings, bounded, and a stable reason for each way to fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chrysalis.attestation.anchor import INTEL_ANCHOR, TrustAnchor, from_der
from chrysalis.attestation.collateral import Collateral
from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument, join, split
from chrysalis.attestation.exact_json import members
from chrysalis.broker import pccs
from chrysalis.broker.collateral_reasons import REMEDIES, Answer, CollateralReason, DocumentKey, Failure
from chrysalis.broker.collateral_settings import CollateralSettings
from chrysalis.broker.pccs import PccsFetcher, binary
from chrysalis.clock import ManualClock
from e2e.simtd.pki import SimulatedPlatform

Answers = dict[str, Callable[[], httpx.Response]]
FMSPC = "51D000000000"
TCB, ROOT_CRL = "/base/tdx/certification/v4/tcb", "/base/sgx/certification/v4/rootcacrl"


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
        TCB: lambda: httpx.Response(200, text=tcb, headers=chain("TCB-Info-Issuer-Chain", "tcb_info_issuer_chain")),
        "/base/tdx/certification/v4/qe/identity": lambda: httpx.Response(
            200, text=qe, headers=chain("SGX-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain")
        ),
        "/base/sgx/certification/v4/pckcrl": lambda: httpx.Response(
            200, content=crl, headers=chain("SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain")
        ),
        ROOT_CRL: lambda: httpx.Response(200, content=root),
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


@pytest.fixture
def anchor(platform: SimulatedPlatform) -> TrustAnchor:
    return from_der(platform.root_der)


def keys(anchor: TrustAnchor, update: str = "standard", ca: str = "platform") -> list[DocumentKey]:
    return [
        DocumentKey(anchor.sha256, DocumentKind.ROOT_CRL),
        DocumentKey(anchor.sha256, DocumentKind.PCK_CRL, ca),
        DocumentKey(anchor.sha256, DocumentKind.TCB_INFO, FMSPC, update),
        DocumentKey(anchor.sha256, DocumentKind.QE_IDENTITY, "", update),
    ]


def collateral(found: dict[DocumentKey, Answer]) -> Collateral:
    documents: dict[DocumentKind, SignedDocument] = {}
    for key, answer in found.items():
        assert isinstance(answer, SignedDocument), answer
        documents[key.kind] = answer
    return join(documents)


@pytest.mark.parametrize("hexadecimal", [False, True])
@pytest.mark.parametrize("spaced", [False, True])
def test_every_byte_is_kept(documents: dict[str, str], anchor: TrustAnchor, hexadecimal: bool, spaced: bool) -> None:
    asked: list[httpx.URL] = []
    source = fetcher(answers(documents, hexadecimal=hexadecimal, spaced=spaced), asked, update="early")
    assert collateral(dict(source.fetch(keys(anchor, "early", "processor"), anchor))) == Collateral.from_json(json.dumps(documents))
    assert {(url.path[5:], url.query.decode()) for url in asked} == {
        ("/tdx/certification/v4/tcb", f"fmspc={FMSPC}&update=early"),
        ("/tdx/certification/v4/qe/identity", "update=early"),
        ("/sgx/certification/v4/pckcrl", "ca=processor&encoding=der"),
        ("/sgx/certification/v4/rootcacrl", ""),
    }


def test_an_older_name_of_the_chain_header(documents: dict[str, str], anchor: TrustAnchor) -> None:
    found = answers(documents, hexadecimal=False, spaced=False)
    good = found[TCB]()
    header = good.headers["TCB-Info-Issuer-Chain"]
    found[TCB] = lambda: httpx.Response(200, content=good.content, headers={"SGX-TCB-Info-Issuer-Chain": header})
    assert collateral(dict(fetcher(found).fetch(keys(anchor), anchor)))


def _root_crl(found: Answers, anchor: TrustAnchor, **settings: Any) -> Answer:
    (key,) = keys(anchor)[:1]
    return fetcher(found, **settings).fetch([key], anchor)[key]


def test_the_root_crl_may_stand_elsewhere(documents: dict[str, str], anchor: TrustAnchor) -> None:
    found = answers(documents, hexadecimal=False, spaced=False)
    found["/root.crl"] = found.pop(ROOT_CRL)
    got = _root_crl(found, anchor, rootCrlUrl="https://certificates/root.crl")
    assert isinstance(got, SignedDocument)
    assert got.body.hex() == documents["root_ca_crl"]


@pytest.mark.parametrize(
    ("allowed", "good"),
    [
        (["simulated.invalid"], True),
        (["SIMULATED.invalid"], True),
        ([], False),
        (["invalid"], False),
        (["simulated.invalid:8443"], False),
        (None, False),
    ],
)
def test_the_distribution_point_serves_where_the_pcs_has_no_root_crl(
    documents: dict[str, str], anchor: TrustAnchor, allowed: list[str] | None, good: bool
) -> None:
    found = answers(documents, hexadecimal=False, spaced=False)
    found["/crl"] = found.pop(ROOT_CRL)
    asked: list[httpx.URL] = []
    settings = {} if allowed is None else {"allowedHosts": allowed}
    (key,) = keys(anchor)[:1]
    got = fetcher(found, asked, **settings).fetch([key], anchor)[key]
    if good:
        assert isinstance(got, SignedDocument)
        assert str(asked[-1]) == "https://simulated.invalid/crl"
    else:
        assert isinstance(got, Failure)
        assert got.reason == CollateralReason.HOST_NOT_ALLOWED
        assert [url.host for url in asked] == ["pccs"]


@pytest.mark.parametrize("url", ["http://simulated.invalid/crl", "file:///etc/passwd", "https://user@simulated.invalid/crl", "https://["])
def test_distribution_points_that_are_not_followed(documents: dict[str, str], anchor: TrustAnchor, url: str) -> None:
    found = answers(documents, hexadecimal=False, spaced=False)
    del found[ROOT_CRL]
    asked: list[httpx.URL] = []
    other = TrustAnchor(anchor.sha256, anchor.point, url)
    (key,) = keys(anchor)[:1]
    got = fetcher(found, asked, allowedHosts=["simulated.invalid"]).fetch([key], other)[key]
    assert isinstance(got, Failure)
    assert len(asked) == 1


def test_intels_host_is_allowed_by_default() -> None:
    host = INTEL_ANCHOR.crl_url.removeprefix("https://").split("/")[0]
    assert CollateralSettings().allowed_hosts == [host]


def test_another_failure_of_the_pccs_does_not_lead_elsewhere(documents: dict[str, str], anchor: TrustAnchor) -> None:
    found = answers(documents, hexadecimal=False, spaced=False) | {ROOT_CRL: lambda: httpx.Response(500)}
    got = _root_crl(found, anchor, allowedHosts=["simulated.invalid"])
    assert isinstance(got, Failure)
    assert got.reason == CollateralReason.SERVER_ERROR


def _raises(error: Exception) -> httpx.Response:
    raise error


C = CollateralReason
CHAIN = "TCB-Info-Issuer-Chain"
UNUSABLE: dict[str, tuple[str, Callable[[httpx.Response], httpx.Response]]] = {
    "not found": (C.NOT_FOUND, lambda good: httpx.Response(404)),
    "gone": (C.NOT_FOUND, lambda good: httpx.Response(410)),
    "throttled": (C.THROTTLED, lambda good: httpx.Response(429)),
    "server error": (C.SERVER_ERROR, lambda good: httpx.Response(503)),
    "forbidden": (C.STATUS_UNEXPECTED, lambda good: httpx.Response(403)),
    "empty": (C.STATUS_UNEXPECTED, lambda good: httpx.Response(204)),
    "redirect": (C.REDIRECTED, lambda good: httpx.Response(302, headers={"location": "https://pccs/elsewhere"})),
    "page": (C.CONTENT_UNEXPECTED, lambda good: httpx.Response(200, html="<html>", headers={CHAIN: good.headers[CHAIN]})),
    "compressed": (
        C.CONTENT_UNEXPECTED,
        lambda good: httpx.Response(200, stream=httpx.ByteStream(b"x"), headers={"content-encoding": "gzip", CHAIN: "a"}),
    ),
    "no chain": (C.ISSUER_CHAIN_MISSING, lambda good: httpx.Response(200, content=good.content)),
    "long chain": (C.ISSUER_CHAIN_MISSING, lambda good: httpx.Response(200, content=good.content, headers={CHAIN: "a" * 40_000})),
    "longer chain": (C.ISSUER_CHAIN_MISSING, lambda good: httpx.Response(200, content=good.content, headers={CHAIN: "%41" * 40_000})),
    "chain of junk": ("CollateralMalformed", lambda good: httpx.Response(200, content=good.content, headers={CHAIN: "junk"})),
    "too long": (
        C.ANSWER_TOO_LARGE,
        lambda good: httpx.Response(200, content=good.content + b" " * pccs.MAX_DOCUMENT_BYTES, headers={CHAIN: good.headers[CHAIN]}),
    ),
    "says it is too long": (
        C.ANSWER_TOO_LARGE,
        lambda good: httpx.Response(200, stream=httpx.ByteStream(b""), headers={"content-length": "9" * 30}),
    ),
    "not JSON": ("CollateralMalformed", lambda good: _with(good, b"<html>")),
    "not UTF-8": ("CollateralMalformed", lambda good: _with(good, b"\xff")),
    "no signature": ("CollateralMalformed", lambda good: _with(good, b'{"tcbInfo":{}}')),
    "signature not hex": ("CollateralMalformed", lambda good: _with(good, b'{"tcbInfo":{},"signature":"zz"}')),
    "signature a number": ("CollateralMalformed", lambda good: _with(good, b'{"tcbInfo":{},"signature":1}')),
    "twice": ("CollateralMalformed", lambda good: _with(good, b'{"tcbInfo":{},"tcbInfo":{},"signature":""}')),
    "deep": ("CollateralMalformed", lambda good: _with(good, b'{"tcbInfo":' + b"[" * 100_000)),
    "not a TCB info": ("CollateralMalformed", lambda good: _with(good, b'{"tcbInfo":{},"signature":""}')),
    "timeout": (C.TIMED_OUT, lambda good: _raises(httpx.ReadTimeout("slow"))),
    "no connection": (C.UNREACHABLE, lambda good: _raises(httpx.ConnectError("refused"))),
    "no name": (C.UNREACHABLE, lambda good: _raises(OSError("name"))),
    "broken": (C.ANSWER_BROKEN, lambda good: _raises(httpx.RemoteProtocolError("incomplete"))),
}


def _with(good: httpx.Response, body: bytes) -> httpx.Response:
    return httpx.Response(200, content=body, headers={CHAIN: good.headers[CHAIN]})


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_answers(documents: dict[str, str], anchor: TrustAnchor, name: str) -> None:
    reason, answer = UNUSABLE[name]
    found = answers(documents, hexadecimal=False, spaced=False)
    good = found[TCB]
    wanted = keys(anchor)
    got = dict(fetcher(found | {TCB: lambda: answer(good())}).fetch(wanted, anchor))
    failure = got.pop(wanted[2])
    assert isinstance(failure, Failure)
    assert failure.reason == reason
    assert failure.message
    assert all(isinstance(other, SignedDocument) for other in got.values())  # each document fails alone
    assert collateral(dict(fetcher(found).fetch(wanted, anchor)))  # the twin


def test_every_reason_has_a_remedy() -> None:
    assert REMEDIES.keys() == set(CollateralReason)


def test_a_fetcher_needs_an_address() -> None:
    with pytest.raises(ValueError, match=r"collateral\.url"):
        PccsFetcher(CollateralSettings())


def test_documents_are_those_of_the_bundle(documents: dict[str, str]) -> None:
    assert set(split(Collateral.from_json(json.dumps(documents)))) == set(DocumentKind)


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
