"""The material of the two opinions: quotes of a Simulated platform, each bent in one place, and the real vectors.

The Simulated platform carries Intel's certificate names here, because go-tdx-guest compares them; its keys are its own.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from chrysalis.attestation.quote import read
from chrysalis.clock import from_unix
from e2e.opinions import Case
from e2e.simtd import pki
from e2e.simtd.pki import CollateralShape, Names, SimulatedPlatform, Tampering

AT = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
INTELS_NAMES = Names("Intel SGX Root CA", "Intel SGX PCK Platform CA", "Intel SGX PCK Certificate")
NONE = "none"
HEADER_BYTES = 48
DESCRIPTOR_BYTES = 6
QE_REPORT_BYTES = 384
# Offsets within a TD report (Intel, TDX DCAP quoting library, appendix A.3.2).
TEE_TCB_SVN, MRSEAM, MRSIGNERSEAM, SEAM_ATTRIBUTES, TD_ATTRIBUTES, XFAM = 0, 16, 64, 112, 120, 128
MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG, RTMR0, RTMR1, RTMR2, RTMR3, REPORT_DATA = 136, 184, 232, 280, 328, 376, 424, 472, 520
TEE_TCB_SVN_2, MR_SERVICETD = 584, 600
# Offsets within an enclave report.
QE_MISCSELECT, QE_ATTRIBUTES, QE_MRENCLAVE, QE_MRSIGNER, QE_PRODUCT, QE_SVN, QE_REPORT_DATA = 16, 48, 64, 128, 256, 258, 320
QE_DEBUG = 0x02

Documents = dict[str, str]
Edit = Callable[[dict[str, Any], dict[str, Any]], None]


class Subject:
    """One Simulated platform and its good quote, with the ways to bend them."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.platform = SimulatedPlatform.create(names=INTELS_NAMES)
        self.other = SimulatedPlatform.create(names=INTELS_NAMES)
        self.body = HEADER_BYTES + (DESCRIPTOR_BYTES if version == 5 else 0)
        self.body_end = self.body + (648 if version == 5 else 584)
        self.signature = self.body_end + 4
        self.key = self.signature + 64
        self.qe_report = self.key + 64 + 6
        self.qe_signature = self.qe_report + QE_REPORT_BYTES
        self.auth = self.qe_signature + 64 + 2
        self.chain = self.auth + 32 + 6

    @cached_property
    def good(self) -> bytes:
        """The quote that every verifier accepts."""
        return self.quote()

    def quote(self, **fields: Any) -> bytes:
        """A quote of the platform with these fields."""
        return self.platform.quote(bytes(range(64)), version=self.version, **fields)

    def flipped(self, offset: int) -> bytes:
        """The good quote with one bit changed."""
        changed = bytearray(self.good)
        changed[offset] ^= 1
        return bytes(changed)

    def written(self, offset: int, value: bytes) -> bytes:
        """The good quote with these bytes, unsigned."""
        return self.good[:offset] + value + self.good[offset + len(value) :]

    def signed(self, offset: int, value: bytes) -> bytes:
        """The good quote with these bytes in its header or report, and signed anew by the enclave's key."""
        changed = self.written(offset, value)
        signature = pki.raw_signature(self.platform.keys["attestation"], changed[: self.body_end])
        return changed[: self.signature] + signature + changed[self.key :]

    def enclave(self, offset: int, value: bytes) -> bytes:
        """The good quote with these bytes in the enclave's report, and that signed anew by the platform's key."""
        changed = self.written(self.qe_report + offset, value)
        signature = pki.raw_signature(self.platform.keys["pck"], changed[self.qe_report : self.qe_signature])
        return changed[: self.qe_signature] + signature + changed[self.qe_signature + 64 :]

    def documents(self, shape: CollateralShape = pki.UP_TO_DATE, at: datetime = AT) -> Documents:
        """The platform's collateral."""
        documents: Documents = json.loads(self.platform.collateral(at, shape))
        return documents

    def rewritten(self, edit: Edit) -> Documents:
        """Collateral whose TCB info and QE identity were edited before they were signed."""
        return self.documents(CollateralShape(tampering=Tampering(edit=edit)))


def simulated(version: int) -> Iterator[Case]:
    """Every mutation of a Simulated quote of this version, the good one first."""
    subject = Subject(version)
    vector = f"simulated-v{version}"
    seen = set()
    for mutation, quote, documents, at, root in _all(subject):
        if mutation in seen:
            raise ValueError(f"two mutations are called {mutation}")
        seen.add(mutation)
        yield Case(vector, mutation, quote, json.dumps(documents), at, root)


Row = tuple[str, bytes, Documents, datetime, bytes]


def _all(subject: Subject) -> Iterator[Row]:
    root, usual = subject.platform.root_der, subject.documents()
    yield NONE, subject.good, usual, AT, root
    for name, quote in _quotes(subject):
        yield f"quote.{name}", quote, usual, AT, root
    for name, documents in _collaterals(subject):
        yield f"collateral.{name}", subject.good, documents, AT, root
    for name, at, documents in _times(subject):
        yield f"time.{name}", subject.good, documents, at, root
    yield "root.of-another-platform", subject.good, usual, AT, subject.other.root_der


def _quotes(subject: Subject) -> Iterator[tuple[str, bytes]]:
    body, good = subject.body, subject.good
    places = {
        "header.vendor": 12,
        "header.user-data": 28,
        "header.reserved": 8,
        "mrtd": body + MRTD,
        "mrseam": body + MRSEAM,
        "rtmr3": body + RTMR3,
        "report-data": body + REPORT_DATA,
        "td-attributes": body + TD_ATTRIBUTES,
        "signature.r": subject.signature,
        "signature.s": subject.signature + 63,
        "attestation-key": subject.key + 5,
        "qe-report.mrenclave": subject.qe_report + QE_MRENCLAVE,
        "qe-report.report-data": subject.qe_report + QE_REPORT_DATA,
        "qe-report.signature": subject.qe_signature + 1,
        "qe-auth-data": subject.auth,
        "pck-chain": subject.chain + 400,
    }
    for name, offset in places.items():
        yield f"flip.{name}", subject.flipped(offset)
    yield "key-type-3", subject.signed(2, struct.pack("<H", 3))
    yield "tee-type-sgx", subject.signed(4, struct.pack("<I", 0))
    yield "version-6", subject.signed(0, struct.pack("<H", 6))
    yield "qe-svn-in-header", subject.signed(8, b"\x01\x00\x01\x00")
    yield "qe-vendor-unknown", subject.signed(12, bytes(16))
    yield "truncated", good[:-1]
    yield "truncated-in-report", good[: body + 100]
    yield "empty", b"\x04\x00"
    yield "zero-padding", good + bytes(200)
    yield "trailing-data", good + b"chrysalis"
    if subject.version == 5:
        yield "body-type-2-with-size-of-3", subject.signed(HEADER_BYTES, struct.pack("<H", 2))
        yield "body-type-1", subject.signed(HEADER_BYTES, struct.pack("<H", 1))
        yield "body-size", subject.signed(HEADER_BYTES + 2, struct.pack("<I", 584))
        yield "mr-servicetd", subject.quote(mr_servicetd=b"\x01" * 48)
        yield "tee-tcb-svn-2-lower", subject.signed(body + TEE_TCB_SVN_2, bytes(16))
    yield from _domains(subject)
    yield from _enclaves(subject)
    yield from _chains(subject)


def _domains(subject: Subject) -> Iterator[tuple[str, bytes]]:
    usual = int.from_bytes(pki.TD_ATTRIBUTES, "little")

    def attributes(value: int) -> bytes:
        return subject.quote(td_attributes=value.to_bytes(8, "little"))

    yield "debug", attributes(usual | 1)
    yield "tud-reserved-bit-1", attributes(usual | 1 << 1)
    yield "lass", attributes(usual | 1 << 27)
    yield "sept-ve-disable-off", attributes(0)
    yield "migratable", attributes(usual | 1 << 29)
    yield "pks", attributes(usual | 1 << 30)
    yield "kl", attributes(usual | 1 << 31)
    yield "tpa", attributes(usual | 1 << 62)
    yield "perfmon", attributes(usual | 1 << 63)
    yield "reserved-bit-40", attributes(usual | 1 << 40)
    yield "xfam-without-sse", subject.quote(xfam=bytes.fromhex("0100000000000000"))
    yield "xfam-reserved-bit", subject.quote(xfam=bytes.fromhex("e702060000000080"))
    yield "mrsignerseam-unknown", subject.quote(mrsignerseam=b"\x01" * 48)
    yield "seam-attributes", subject.signed(subject.body + SEAM_ATTRIBUTES, b"\x01" + bytes(7))
    yield "mrconfigid-anything", subject.quote(mrconfigid=b"\x01" * 48)
    yield "tee-tcb-svn-too-low", subject.quote(tee_tcb_svn=bytes([6, 1, 1] + [0] * 13))
    yield "module-version-unknown", subject.quote(tee_tcb_svn=bytes([6, 2, 3] + [0] * 13))
    yield "module-svn-too-low", subject.quote(tee_tcb_svn=bytes([3, 1, 3] + [0] * 13))
    yield "module-version-0", subject.quote(tee_tcb_svn=bytes([6, 0, 3] + [0] * 13))
    yield "module-version-0-too-low", subject.quote(tee_tcb_svn=bytes([4, 0, 3] + [0] * 13))


def _enclaves(subject: Subject) -> Iterator[tuple[str, bytes]]:
    yield "qe.debug", subject.enclave(QE_ATTRIBUTES, bytes([0x11 | QE_DEBUG]) + bytes(7))
    yield "qe.attributes", subject.enclave(QE_ATTRIBUTES, bytes([0x31]) + bytes(7))
    yield "qe.miscselect", subject.enclave(QE_MISCSELECT, b"\x01\x00\x00\x00")
    yield "qe.mrsigner", subject.quote(qe_signer=b"\x01" * 32)
    yield "qe.mrenclave-anything", subject.enclave(QE_MRENCLAVE, bytes(32))
    yield "qe.product", subject.enclave(QE_PRODUCT, struct.pack("<H", 1))
    yield "qe.svn-too-low", subject.quote(qe_svn=3)
    yield "qe.report-data-second-half", subject.enclave(QE_REPORT_DATA + 63, b"\x01")
    yield "qe.report-data-of-another-key", subject.enclave(QE_REPORT_DATA, bytes(32))


def _chains(subject: Subject) -> Iterator[tuple[str, bytes]]:
    certificates, foreign = subject.platform.certificates, subject.other.certificates
    pck, ca, root = certificates["pck"], certificates["ca"], certificates["root"]
    yield "chain.without-root", subject.quote(chain=pki.pem(pck, ca))
    yield "chain.leaf-only", subject.quote(chain=pki.pem(pck))
    yield "chain.reversed", subject.quote(chain=pki.pem(root, ca, pck))
    yield "chain.root-of-another", subject.quote(chain=pki.pem(pck, ca, foreign["root"]))
    yield "chain.ca-of-another", subject.quote(chain=pki.pem(pck, foreign["ca"], root))
    yield "chain.leaf-of-another", subject.quote(chain=pki.pem(foreign["pck"], ca, root))
    yield "chain.four", subject.quote(chain=pki.pem(pck, ca, root, root))
    yield "chain.text-behind", subject.quote(chain=pki.pem(pck, ca, root) + "more\n")
    yield "chain.nul-behind", subject.quote(chain=pki.pem(pck, ca, root) + "\0")
    yield "chain.tcb-signer-as-leaf", subject.quote(chain=pki.pem(certificates["tcb"], root))
    yield "chain.empty", subject.quote(chain="\n")


def _collaterals(subject: Subject) -> Iterator[tuple[str, Documents]]:
    for status in (
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "Revoked",
        "Unheard",
    ):
        yield f"status.{status}", subject.documents(CollateralShape(status=status))
        yield f"module-status.{status}", subject.documents(CollateralShape(module_status=status))
        yield f"qe-status.{status}", subject.documents(CollateralShape(qe_status=status))
    for name in ("pck", "ca", "tcb"):
        yield f"revoked.{name}", subject.documents(CollateralShape(revoked=[name]))
    yield "advisories", subject.documents(CollateralShape(advisories=["INTEL-SA-00001"]))
    yield "evaluation-number-0", subject.documents(CollateralShape(evaluation_data_number=0))
    yield "fmspc-of-another", subject.documents(CollateralShape(fmspc=bytes(6)))
    yield "pce-id-of-another", subject.documents(CollateralShape(pce_id=b"\x01\x00"))
    yield "crl.from-the-future", subject.documents(CollateralShape(crl_issue=AT + timedelta(days=1)))
    yield "crl.pck-expired", subject.documents(CollateralShape(crl_issue=AT - timedelta(days=9), crl_next=AT - timedelta(days=1)))
    yield "crl.root-expired", subject.documents(CollateralShape(crl_issue=AT - timedelta(days=9), root_crl_next=AT - timedelta(days=1)))
    yield "tcb-info.signed-by-pck", subject.documents(CollateralShape(tampering=Tampering(signer_is_pck=True)))
    for name, edit in _EDITS.items():
        yield name, subject.rewritten(edit)
    usual, foreign = subject.documents(), json.loads(subject.other.collateral(AT))
    yield "tcb-info.one-space-more", usual | {"tcb_info": usual["tcb_info"].replace(":", ": ", 1)}
    yield "qe-identity.one-space-more", usual | {"qe_identity": usual["qe_identity"].replace(":", ": ", 1)}
    for document in ("tcb_info_signature", "qe_identity_signature"):
        yield f"{document.replace('_', '-')}.flip", usual | {document: "01" + usual[document][2:]}
        yield f"{document.replace('_', '-')}.short", usual | {document: usual[document][2:]}
    for document in ("root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"):
        yield f"{document.replace('_', '-')}.of-another", usual | {document: foreign[document]}
    for document in ("tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"):
        leaf = usual[document].partition("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n"
        yield f"{document.replace('_', '-')}.leaf-only", usual | {document: leaf}
    for document in ("root_ca_crl", "pck_crl"):
        end = "00" if not usual[document].endswith("00") else "01"
        yield f"{document.replace('_', '-')}.flip", usual | {document: usual[document][:-2] + end}
        yield f"{document.replace('_', '-')}.empty", usual | {document: ""}
    yield "crls-exchanged", usual | {"root_ca_crl": usual["pck_crl"], "pck_crl": usual["root_ca_crl"]}


def _iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


_EDITS: dict[str, Edit] = {
    "tcb-info.id-sgx": lambda info, _: info.update(id="SGX"),
    "tcb-info.version-2": lambda info, _: info.update(version=2),
    "tcb-info.from-the-future": lambda info, _: info.update(issueDate=_iso(AT + timedelta(days=1))),
    "tcb-info.expired": lambda info, _: info.update(nextUpdate=_iso(AT - timedelta(seconds=1))),
    "tcb-info.expires-now": lambda info, _: info.update(nextUpdate=_iso(AT)),
    "tcb-info.without-levels": lambda info, _: info.update(tcbLevels=[]),
    "tcb-info.level-above": lambda info, _: info["tcbLevels"][0]["tcb"].update(pcesvn=pki.PCE_SVN + 1),
    "tcb-info.module-signer": lambda info, _: info["tdxModuleIdentities"][0].update(mrsigner="01" * 48),
    "tcb-info.module-signer-of-0": lambda info, _: info["tdxModule"].update(mrsigner="01" * 48),
    "tcb-info.module-attributes": lambda info, _: info["tdxModuleIdentities"][0].update(attributes="01" + "00" * 7),
    "tcb-info.without-module-identities": lambda info, _: info.update(tdxModuleIdentities=[]),
    "tcb-info.fmspc-in-lower-case": lambda info, _: info.update(fmspc=info["fmspc"].lower()),
    "tcb-info.member-unknown": lambda info, _: info.update(chrysalis=1),
    "tcb-info.second-level-matches": lambda info, _: info.update(
        tcbLevels=[
            {**info["tcbLevels"][0], "tcb": {**info["tcbLevels"][0]["tcb"], "pcesvn": pki.PCE_SVN + 1}},
            {**info["tcbLevels"][0], "tcbStatus": "OutOfDate"},
        ]
    ),
    "qe-identity.id-qe": lambda _, identity: identity.update(id="QE"),
    "qe-identity.version-3": lambda _, identity: identity.update(version=3),
    "qe-identity.from-the-future": lambda _, identity: identity.update(issueDate=_iso(AT + timedelta(days=1))),
    "qe-identity.expired": lambda _, identity: identity.update(nextUpdate=_iso(AT - timedelta(seconds=1))),
    "qe-identity.signer": lambda _, identity: identity.update(mrsigner="01" * 32),
    "qe-identity.product": lambda _, identity: identity.update(isvprodid=1),
    "qe-identity.miscselect": lambda _, identity: identity.update(miscselect="01000000"),
    "qe-identity.without-levels": lambda _, identity: identity.update(tcbLevels=[]),
    "qe-identity.evaluation-number-lower": lambda _, identity: identity.update(tcbEvaluationDataNumber=1),
}


def _times(subject: Subject) -> Iterator[tuple[str, datetime, Documents]]:
    usual = subject.documents()
    midnight = AT.replace(hour=0)
    end = midnight + pki.PERIOD
    yield "before-issue", midnight - timedelta(seconds=1), usual
    yield "at-issue", midnight, usual
    yield "before-next-update", end - timedelta(seconds=1), usual
    yield "at-next-update", end, usual
    yield "after-next-update", end + timedelta(seconds=1), usual
    for name, at in (("before-certificates", pki.NOT_BEFORE), ("after-certificates", pki.NOT_AFTER)):
        shift = timedelta(days=-2) if name.startswith("before") else timedelta(days=2)
        yield name, at + shift, subject.documents(at=at + shift)


def real(vectors: Path) -> Iterator[Case]:
    """The real quotes with the collateral of the manifest's outcomes, at its times, under Intel's root."""
    manifest = json.loads((vectors / "MANIFEST.json").read_text())
    root = (vectors / "dcap-qvl" / "TrustedRootCA.der").read_bytes()
    for outcome in manifest["outcomes"]:
        collateral = (vectors / "collateral" / f"{outcome['bundle']}.json").read_text()
        quote = read((vectors / outcome["quote"]).read_bytes())
        yield Case(outcome["quote"], outcome["bundle"], quote, collateral, from_unix(outcome["now"]), root)
