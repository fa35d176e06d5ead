"""The fuzz targets of Intel's documents: as they are fetched, as files, and the certificates that they rest on."""

from __future__ import annotations

import json

from tests.fuzz.target import Built


def collateral_file() -> Built:
    from chrysalis.attestation.collateral_file import read
    from tests.fuzz.material import MATERIAL

    good = json.loads(MATERIAL.collateral_text)
    answer = f'{{"tcbInfo":{good["tcb_info"]},"signature":"{good["tcb_info_signature"]}"}}'
    forms = [good, {"collateral": good | {"tcb_info": answer}}, [good | {"qe_identity": json.loads(good["qe_identity"])}]]
    recorded = [{"headers": {"a": good["tcb_info_issuer_chain"]}, "body": answer}, {"body": good["pck_crl"]}, [good["root_ca_crl"]]]
    return read, [json.dumps(form).encode() for form in (*forms, recorded)]


def collateral() -> Built:
    from chrysalis.attestation import genuineness
    from chrysalis.attestation.collateral import Collateral
    from chrysalis.attestation.quote import parse
    from chrysalis.attestation.reasons import AttestationError
    from tests.fuzz.material import AT, MATERIAL, vector_files

    quote = parse(MATERIAL.quotes[0])

    def call(data: bytes) -> None:
        collateral = Collateral.from_json(data)
        collateral.to_json()
        for question in (lambda: collateral.expiries, lambda: genuineness.authority(collateral, AT), lambda: collateral.qvl):
            try:
                question()
            except AttestationError:
                pass
        try:
            genuineness.verify(quote, collateral, AT, [MATERIAL.platform.root_der])
        except genuineness.NotGenuine:
            pass

    return call, [MATERIAL.collateral_text.encode(), *vector_files("collateral/qvl-b0c0*.json")]


def certificates() -> Built:
    from chrysalis.attestation import anchor, collateral
    from tests.fuzz.material import AT, MATERIAL

    root = anchor.from_der(MATERIAL.platform.root_der)

    def call(data: bytes) -> None:
        certificates = collateral.chain(data, "chain")
        for certificate in certificates:
            collateral.common_name(certificate)
        anchor.follow(certificates, root, AT)

    return call, MATERIAL.certificates


def der() -> Built:
    from chrysalis.attestation import anchor, collateral
    from chrysalis.attestation.reasons import AttestationError
    from tests.fuzz.material import MATERIAL

    def call(data: bytes) -> None:
        try:
            collateral.read_crl(data, "CRL")
        except AttestationError:
            pass
        anchor.from_der(data)

    return call, [MATERIAL.collateral.root_ca_crl, MATERIAL.collateral.pck_crl, MATERIAL.platform.root_der]


def pccs() -> Built:
    from chrysalis.attestation.collateral_documents import DocumentKind
    from chrysalis.broker import pccs
    from tests.fuzz.material import MATERIAL

    documents = MATERIAL.platform.documents(_issue())
    signed = f'{{"tcbInfo":{documents["tcb_info"]},"signature":"{documents["tcb_info_signature"]}"}}'

    def call(data: bytes) -> None:
        # ValueError, KeyError and RecursionError are how these two say no; `fetch` turns them into an answer's failure.
        try:
            pccs.binary(data)
            signed_document = pccs._signed(DocumentKind.TCB_INFO, data, "tcbInfo", "")
        except (ValueError, KeyError, RecursionError):
            return
        assert signed_document.body in data, "what is signed was not cut out as it stands"

    return call, [signed.encode(), documents["pck_crl"].encode(), b'{"a":"\\u0000","tcbInfo":[1e5],"signature":"00"}']


def _issue() -> object:
    from tests.fuzz.material import AT

    return AT.replace(hour=0)


def collateral_document() -> Built:
    """What the broker checks of one fetched document."""
    from cryptography import x509

    from chrysalis.attestation import anchor, collateral_check, collateral_documents
    from chrysalis.attestation.collateral_documents import DocumentKind, SignedDocument
    from chrysalis.attestation.reasons import AttestationError
    from tests.fuzz.material import AT, MATERIAL

    root = anchor.from_der(MATERIAL.platform.root_der)
    good = collateral_documents.split(MATERIAL.collateral)
    root_crl = good[DocumentKind.ROOT_CRL]

    def signed(kind: DocumentKind, body: bytes) -> bytes:
        # Of a list without its signature: the kept corpus holds lists that the platform signed in another run.
        return x509.load_der_x509_crl(body).tbs_certlist_bytes if kind.is_crl else body

    def call(data: bytes) -> None:
        for kind, document in good.items():
            bent = SignedDocument(kind, data, document.signature, document.issuers)
            try:
                collateral_check.check(bent, root, AT, root_crl=None if kind is DocumentKind.ROOT_CRL else root_crl)
            except AttestationError:
                continue
            assert signed(kind, data) == signed(kind, document.body), "a document that nobody signed was accepted"

    return call, [document.body for document in good.values()]
