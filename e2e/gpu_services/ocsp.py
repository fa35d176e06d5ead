"""Simulated OCSP responder for the chains of simulated devices and RIMs: each answer is signed by the key of the certificate's issuer."""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as builders

from chrysalis.clock import Clock
from e2e.gpu_services.faults import Fault
from e2e.simtd.gpu import RIM_NAMES, SimulatedDevice, SimulatedGpus

LIFE = timedelta(hours=24)


class SimulatedOcsp:
    """Knows the certificates of the devices and of the RIMs' signers that it was told; the others, and nothing else, are unknown to it.

    revoked: serial numbers.  life: of its answers.  ahead: of its clock.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.life = LIFE
        self.ahead = timedelta(0)
        self.revoked: set[int] = set()
        self._known: dict[int, tuple[x509.Certificate, x509.Certificate, ec.EllipticCurvePrivateKey]] = {}

    def tell(self, device: SimulatedDevice) -> None:
        """Answer for this device's authorities from now on."""
        chain = device.certificates
        for place in range(1, len(chain) - 1):
            self._known[chain[place].serial_number] = (chain[place], chain[place + 1], device.keys[place + 1])

    def tell_rims(self, vendor: SimulatedGpus) -> None:
        """Answer for the signers of this vendor's RIMs from now on."""
        for place, name in enumerate(RIM_NAMES[1:]):
            certificate, issuer = vendor.rim_signers[place : place + 2]
            self._known[certificate.serial_number] = (certificate, issuer, vendor.keys[name])

    def answer(self, body: bytes, fault: Fault = Fault.NONE) -> bytes | None:
        """The answer to a request (DER); None where that is none."""
        try:
            asked = builders.load_der_ocsp_request(body)
            known = self._known.get(asked.serial_number)
        except ValueError:
            return None
        if fault is Fault.TRY_LATER or known is None:
            status = builders.OCSPResponseStatus.TRY_LATER if fault is Fault.TRY_LATER else builders.OCSPResponseStatus.UNAUTHORIZED
            return builders.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
        certificate, issuer, key = known
        if fault is Fault.OTHER_CERTIFICATE:
            certificate = next(one for serial, (one, _, _) in self._known.items() if serial != asked.serial_number)
        now = self.clock.now() + self.ahead
        revoked = certificate.serial_number in self.revoked
        status_said = builders.OCSPCertStatus.REVOKED if revoked else builders.OCSPCertStatus.GOOD
        begins = now - 2 * self.life if fault is Fault.STALE else now
        builder = builders.OCSPResponseBuilder().add_response(
            cert=certificate,
            issuer=issuer,
            algorithm=hashes.SHA256(),
            cert_status=builders.OCSPCertStatus.UNKNOWN if fault is Fault.UNKNOWN else status_said,
            this_update=begins,
            next_update=begins + self.life,
            revocation_time=now if revoked and fault is not Fault.UNKNOWN else None,
            revocation_reason=None,
        )
        builder = builder.responder_id(builders.OCSPResponderEncoding.HASH, issuer)
        if fault is not Fault.NO_NONCE:
            nonce = asked.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce if len(asked.extensions) else None
            if nonce is not None:
                builder = builder.add_extension(x509.OCSPNonce(bytes(32) if fault is Fault.WRONG_NONCE else nonce), critical=False)
        answer = builder.sign(key, hashes.SHA384()).public_bytes(Encoding.DER)
        if fault is Fault.FORGED:  # the library signs with no other key than the responder's; its signature stands at the end
            answer = answer[:-1] + bytes([answer[-1] ^ 1])
        return answer
