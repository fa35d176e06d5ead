"""The simulated platform: a synthetic PKI in the shape of Intel's, made at run time, and what it signs.

It makes what dcap-qvl accepts under its root and what nothing accepts under Intel's: a PCK certificate with the SGX
extension, a quoting enclave, quotes of versions 4 and 5, TCB info, QE identity and revocation lists.  Tests bend each part
with CollateralShape and the arguments of `quote`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from e2e.simtd import eventlog
from e2e.simtd.der import SGX_EXTENSION, sgx_extension

ROOT_NAME = "Simulated SGX Root CA"
CA_NAME = "Simulated SGX PCK Platform CA"
PCK_NAME = "Simulated SGX PCK Certificate"
TCB_SIGNER_NAME = "Intel SGX TCB Signing"
"""The one name that verifiers demand by its letters; the organisation beside it says that it is simulated."""
ORGANISATION = "Chrysalis Simulated Platform"


@dataclass(frozen=True)
class Names:
    """The common names of the certificates of a quote.  Some verifiers compare them, letter by letter, with Intel's."""

    root: str = ROOT_NAME
    ca: str = CA_NAME
    pck: str = PCK_NAME


SIMULATED_NAMES = Names()

NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2049, 12, 31, tzinfo=UTC)
PERIOD = timedelta(days=30)
"""Between issue and nextUpdate, as Intel's."""
FMSPC = bytes.fromhex("51d000000000")
PCE_ID = bytes(2)
CPU_SVN = bytes([3] * 16)
PCE_SVN = 11
TEE_TCB_SVN = bytes([6, 1, 3] + [0] * 13)
TCB_DATE = "2025-01-01T00:00:00Z"
EVALUATION_DATA_NUMBER = 20
TD_ATTRIBUTES = bytes.fromhex("0000001000000000")
"""SEPT_VE_DISABLE and nothing else."""
XFAM = bytes.fromhex("e702060000000000")
QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_SIGNER = hashlib.sha256(b"Simulated quoting enclave's signer").digest()
QE_ENCLAVE = hashlib.sha256(b"Simulated quoting enclave").digest()
QE_PRODUCT = 2
QE_SVN = 6
STATE_FILE = "simulated-platform.json"
_KEYS = ("root", "ca", "pck", "tcb", "attestation")
_CERTIFICATES = ("root", "ca", "pck", "tcb")


@dataclass(frozen=True)
class Tampering:
    """What a test changes in the documents before (`edit`) they are signed, and by whom they are signed."""

    edit: Callable[[dict[str, Any], dict[str, Any]], None] | None = None  # of TCB info and QE identity, in place
    signer_is_pck: bool = False  # TCB info signed by the PCK key, chain included: a leaked platform key


@dataclass(frozen=True)
class CollateralShape:
    """How the platform's collateral looks; the default is an up-to-date platform with nothing revoked."""

    status: str = "UpToDate"
    module_status: str = "UpToDate"
    qe_status: str = "UpToDate"
    advisories: Sequence[str] = ()
    tcb_date: str = TCB_DATE
    evaluation_data_number: int = EVALUATION_DATA_NUMBER
    fmspc: bytes = FMSPC
    pce_id: bytes = PCE_ID
    crl_issue: datetime | None = None  # None: with the other documents
    crl_next: datetime | None = None
    root_crl_next: datetime | None = None
    crl_number: int | None = None  # of both lists; None: the day of their issue
    period: timedelta = PERIOD  # from issue to nextUpdate, where nothing above says otherwise
    revoked: Sequence[str] = ()  # of "pck", "ca", "tcb"
    tampering: Tampering = field(default_factory=Tampering)


UP_TO_DATE = CollateralShape()


@dataclass(frozen=True)
class SimulatedPlatform:
    """One machine's keys and certificates, by their names: root, ca, pck, tcb, and the attestation key of its enclave."""

    keys: dict[str, ec.EllipticCurvePrivateKey]
    certificates: dict[str, x509.Certificate]

    @classmethod
    def create(
        cls,
        *,
        fmspc: bytes = FMSPC,
        pce_id: bytes = PCE_ID,
        dynamic_platform: bool = True,
        cached_keys: bool = False,
        smt: bool = True,
        names: Names = SIMULATED_NAMES,
    ) -> SimulatedPlatform:
        """New keys, and certificates of a platform with these properties."""
        keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in _KEYS}
        extension = sgx_extension(
            fmspc=fmspc,
            ppid=hashlib.sha256(public_bytes(keys["pck"])).digest()[:16],
            pce_id=pce_id,
            cpu_svn=CPU_SVN,
            pce_svn=PCE_SVN,
            instance_id=bytes(16),
            dynamic_platform=dynamic_platform,
            cached_keys=cached_keys,
            smt=smt,
        )
        certificates = {
            "root": certificate(names.root, keys["root"], names.root, keys["root"], path_length=1),
            "ca": certificate(names.ca, keys["ca"], names.root, keys["root"], path_length=0),
            "pck": certificate(names.pck, keys["pck"], names.ca, keys["ca"], sgx=extension),
            "tcb": certificate(TCB_SIGNER_NAME, keys["tcb"], names.root, keys["root"]),
        }
        return cls(keys, certificates)

    @classmethod
    def load_or_create(cls, directory: Path, at: datetime | None = None) -> SimulatedPlatform:
        """The platform whose keys a private file in this directory holds; made there at the first call, by one process only.

        at: the time of the call; the certificates are valid from 2020 to 2049, so it only has to lie there.
        """
        if at is not None and not NOT_BEFORE <= at < NOT_AFTER:
            raise ValueError(f"the clock says {at}; the Simulated certificates are valid from {NOT_BEFORE.year} to {NOT_AFTER.year}")
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(directory / f"{STATE_FILE}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (directory / STATE_FILE).exists():
                return cls.load(directory)
            platform = cls.create()
            platform.save(directory)
            return platform

    @classmethod
    def load(cls, directory: Path) -> SimulatedPlatform:
        """Read what `save` wrote."""
        document = json.loads((directory / STATE_FILE).read_text())
        keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        for name in _KEYS:
            key = serialization.load_pem_private_key(document["keys"][name].encode(), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError(f"{directory / STATE_FILE}: {name} is not an elliptic-curve key")
            keys[name] = key
        return cls(keys, {name: x509.load_pem_x509_certificate(document["certificates"][name].encode()) for name in _CERTIFICATES})

    def save(self, directory: Path) -> None:
        """Write the keys to a file that only this user can read; all or nothing."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        document = {
            "schemaVersion": "chrysalis-simtd/v1",
            "keys": {
                name: key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                ).decode()
                for name, key in self.keys.items()
            },
            "certificates": {name: pem(certificate) for name, certificate in self.certificates.items()},
        }
        partial = directory / f"{STATE_FILE}.{os.getpid()}"
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(document, file)
        partial.rename(directory / STATE_FILE)

    @property
    def root_der(self) -> bytes:
        """The trust anchor that a policy must name to accept this platform."""
        return self.certificates["root"].public_bytes(serialization.Encoding.DER)

    @property
    def ppid(self) -> str:
        """The machine's id, lower-case hex."""
        return hashlib.sha256(public_bytes(self.keys["pck"])).digest()[:16].hex()

    @property
    def event_log(self) -> bytes:
        """The boot event log of every domain on this platform; it replays to RTMR0–3."""
        return eventlog.EVENT_LOG

    def reference_values(self) -> dict[str, Any]:
        """What the platform's vendor would publish: the measurements of every domain here, by their names in a policy's tuple,
        and the attributes and CPU features in the form of the policy's masks."""
        return {
            "schemaVersion": "chrysalis-simtd/v1",
            "name": f"simulated-firmware-v{eventlog.VERSION}",
            "mrtd": eventlog.MRTD.hex(),
            **{f"rtmr{index}": value.hex() for index, value in enumerate(eventlog.registers())},
            "mrseam": eventlog.MRSEAM.hex(),
            "mrowner": "00" * 48,
            "mrownerconfig": "00" * 48,
            "tdAttributes": {"value": TD_ATTRIBUTES.hex(), "mask": "ff" * 8},
            "xfam": {"value": XFAM.hex(), "mask": "ff" * 8},
        }

    @property
    def pck_chain(self) -> str:
        """The chain in every quote, PEM, leaf first."""
        return pem(self.certificates["pck"], self.certificates["ca"], self.certificates["root"])

    def collateral(self, at: datetime, shape: CollateralShape = UP_TO_DATE) -> str:
        """QuoteCollateralV3 JSON: issued at the beginning of the day of `at`, in UTC, and current for 30 days."""
        issue = at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return json.dumps(self.documents(issue, shape))

    def documents(self, issue: datetime, shape: CollateralShape = UP_TO_DATE) -> dict[str, str]:
        """The nine documents of one issue, by their names in QuoteCollateralV3."""
        tcb_info, qe_identity = _tcb_info(issue, shape), _qe_identity(issue, shape)
        if shape.tampering.edit is not None:
            shape.tampering.edit(tcb_info, qe_identity)
        info, identity = (json.dumps(document, separators=(",", ":")) for document in (tcb_info, qe_identity))
        chain = pem(self.certificates["tcb"], self.certificates["root"])
        info_key, info_chain = self.keys["tcb"], chain
        if shape.tampering.signer_is_pck:
            info_key, info_chain = self.keys["pck"], self.pck_chain
        revoked_by_ca = [self.certificates[name].serial_number for name in shape.revoked if name == "pck"]
        revoked_by_root = [self.certificates[name].serial_number for name in shape.revoked if name != "pck"]
        crl_issue = shape.crl_issue or issue
        number = int(crl_issue.timestamp()) // 86400 if shape.crl_number is None else shape.crl_number
        return {
            "pck_crl_issuer_chain": pem(self.certificates["ca"], self.certificates["root"]),
            "root_ca_crl": self._crl("root", revoked_by_root, crl_issue, shape.root_crl_next or crl_issue + shape.period, number).hex(),
            "pck_crl": self._crl("ca", revoked_by_ca, crl_issue, shape.crl_next or crl_issue + shape.period, number).hex(),
            "tcb_info_issuer_chain": info_chain,
            "tcb_info": info,
            "tcb_info_signature": raw_signature(info_key, info.encode()).hex(),
            "qe_identity_issuer_chain": chain,
            "qe_identity": identity,
            "qe_identity_signature": raw_signature(self.keys["tcb"], identity.encode()).hex(),
        }

    def _crl(self, issuer: str, serials: Sequence[int], issue: datetime, next_update: datetime, number: int) -> bytes:
        key = self.keys[issuer]
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificates[issuer].subject)
            .last_update(issue)
            .next_update(next_update)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        for serial in serials:
            builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(issue).build())
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    def quote(
        self,
        report_data: bytes = bytes(64),
        *,
        mrtd: bytes = eventlog.MRTD,
        rtmrs: Sequence[bytes] = (eventlog.RTMR0, eventlog.RTMR1, eventlog.RTMR2, eventlog.RTMR3),
        mrconfigid: bytes = bytes(48),
        mrowner: bytes = bytes(48),
        mrownerconfig: bytes = bytes(48),
        mrseam: bytes = eventlog.MRSEAM,
        mrsignerseam: bytes = bytes(48),
        seam_attributes: bytes = bytes(8),
        td_attributes: bytes = TD_ATTRIBUTES,
        xfam: bytes = XFAM,
        tee_tcb_svn: bytes = TEE_TCB_SVN,
        tee_tcb_svn_2: bytes | None = None,
        mr_servicetd: bytes = bytes(48),
        version: int = 4,
        qe_signer: bytes = QE_SIGNER,
        qe_svn: int = QE_SVN,
        chain: str | None = None,
    ) -> bytes:
        """A quote over these values, signed by the platform's quoting enclave; version 4 or 5.

        tee_tcb_svn_2: the levels of now, which version 5 has beside those of the domain's start; None: the same.
        """
        header = struct.pack("<HHI4s16s20s", version, 2, 0x81, bytes(4), QE_VENDOR, bytes(20))
        body = tee_tcb_svn + mrseam + mrsignerseam + seam_attributes + td_attributes + xfam
        body += mrtd + mrconfigid + mrowner + mrownerconfig + b"".join(rtmrs) + report_data
        if len(body) != 584:
            raise ValueError(f"the fields have {len(body)} bytes together; a TD report has 584")
        if version == 5:
            body += (tee_tcb_svn if tee_tcb_svn_2 is None else tee_tcb_svn_2) + mr_servicetd
            header += struct.pack("<HI", 3, len(body))
        nonce = bytes(range(32))
        key = self.keys["attestation"]
        binding = hashlib.sha256(public_bytes(key) + nonce).digest() + bytes(32)
        enclave = bytes(16) + bytes(4) + bytes(28) + bytes.fromhex("11000000000000000700000000000000") + QE_ENCLAVE + bytes(32)
        enclave += qe_signer + bytes(96) + struct.pack("<HH", QE_PRODUCT, qe_svn) + bytes(60) + binding
        certificates = (chain or self.pck_chain).encode()
        inner = enclave + _certified(self.keys["pck"], enclave) + struct.pack("<H", len(nonce)) + nonce
        inner += struct.pack("<HI", 5, len(certificates)) + certificates
        signed = raw_signature(key, header + body) + public_bytes(key) + struct.pack("<HI", 6, len(inner)) + inner
        return header + body + struct.pack("<I", len(signed)) + signed


def public_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public point as quotes carry it: x ‖ y, 64 bytes."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-256 as r ‖ s, 64 bytes."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@lru_cache(maxsize=64)
def _certified(pck: ec.EllipticCurvePrivateKey, enclave: bytes) -> bytes:
    """The platform's signature over its quoting enclave's report: made once for an attestation key, as the real enclave does."""
    return raw_signature(pck, enclave)


def pem(*certificates: x509.Certificate) -> str:
    """A PEM chain, in this order."""
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in certificates)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "ZZ"),
        ]
    )


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    path_length: int | None = None,
    sgx: bytes | None = None,
) -> x509.Certificate:
    """A certificate authority where there is a path length, a leaf otherwise."""
    is_ca = path_length is not None
    usage = x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
    point = x509.DistributionPoint([x509.UniformResourceIdentifier("https://simulated.invalid/crl")], None, None, None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(is_ca, path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.CRLDistributionPoints([point]), critical=False)
    )
    if sgx is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(SGX_EXTENSION), sgx), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tcb_info(issue: datetime, shape: CollateralShape) -> dict[str, Any]:
    level: dict[str, Any] = {
        "tcb": {
            "sgxtcbcomponents": [{"svn": 2}] * 16,
            "pcesvn": PCE_SVN,
            "tdxtcbcomponents": [{"svn": svn} for svn in (5, 0, 2, *([0] * 13))],
        },
        "tcbDate": shape.tcb_date,
        "tcbStatus": shape.status,
    }
    if shape.advisories:
        level["advisoryIDs"] = list(shape.advisories)
    module = {
        "id": "TDX_01",
        "mrsigner": "00" * 48,
        "attributes": "00" * 8,
        "attributesMask": "FF" * 8,
        "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": shape.tcb_date, "tcbStatus": shape.module_status}],
    }
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": _iso(issue),
        "nextUpdate": _iso(issue + shape.period),
        "fmspc": shape.fmspc.hex().upper(),
        "pceId": shape.pce_id.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": shape.evaluation_data_number,
        "tdxModule": {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8},
        "tdxModuleIdentities": [module],
        "tcbLevels": [level],
    }


def _qe_identity(issue: datetime, shape: CollateralShape) -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": _iso(issue),
        "nextUpdate": _iso(issue + shape.period),
        "tcbEvaluationDataNumber": shape.evaluation_data_number,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11" + "00" * 15,
        "attributesMask": "FB" + "FF" * 7 + "00" * 8,
        "mrsigner": QE_SIGNER.hex().upper(),
        "isvprodid": QE_PRODUCT,
        "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": shape.tcb_date, "tcbStatus": shape.qe_status}],
    }
