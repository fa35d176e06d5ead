"""Publishers' reference values at the broker: taken under their signature, shown to everybody, and what they withdraw refused."""

from __future__ import annotations

import threading
from collections.abc import Collection

from pydantic import ValidationError

from chrysalis import strict_json
from chrysalis.api import initdata as initdata_form
from chrysalis.api.initdata import Initdata
from chrysalis.api.policy import Envelope
from chrysalis.api.reference import ReferenceValues
from chrysalis.attestation.reference import Measured, withdrawn
from chrysalis.attestation.verdict import Verdict
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.reference_store import StoredReference
from chrysalis.broker.store import Store
from chrysalis.broker.version_floors import Floors, Kind
from chrysalis.clock import Clock, rfc3339, unix
from chrysalis.wire import dsse
from chrysalis.wire.broker import NamedReason
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.reference import PAYLOAD_REFERENCE_VALUES, ReferenceList


class References:
    """The newest documents of the publishers that the settings name.  Thread-safe."""

    def __init__(self, *, store: Store, publishers: Collection[bytes], clock: Clock, floors: Floors | None = None) -> None:
        self._store = store
        self._publishers = {key.hex() for key in publishers}
        self._clock = clock
        self._floors = floors or Floors()
        self._lock = threading.Lock()
        self._read: dict[tuple[str, int], ReferenceValues] = {}

    def put(self, envelope: Envelope) -> bool:
        """Store a publisher's document; False when exactly this one is stored.

        1. A named publisher signed it.  2. The signed bytes are reference values.  3. Its version is higher than the stored one's,
        and nothing that was withdrawn is missing.  4. What is newly withdrawn has every living result judged again.
        Raises BrokerError and WireError.
        """
        try:
            verified = dsse.verify(envelope, PAYLOAD_REFERENCE_VALUES, [bytes.fromhex(key) for key in self._publishers])  # 1
        except WireError as error:
            if error.reason != WireReason.ENVELOPE_SIGNATURE_INVALID:
                raise
            raise BrokerError(
                BrokerReason.PUBLISHER_NOT_ALLOWED,
                "no publisher that this broker knows signed these reference values",
                "list the publisher's key under `referencePublishers` of the broker's settings, or sign with a listed one",
                error.detail,
            ) from error
        try:
            strict_json.each_once(verified.payload)  # 2
            values = ReferenceValues.model_validate_json(verified.payload)
            payload = verified.payload.decode()
        except (ValidationError, UnicodeDecodeError, strict_json.MemberTwice) as error:
            raise BrokerError(
                BrokerReason.MESSAGE_MALFORMED,
                "the signed bytes are not reference values of this version",
                "make them with `chrysalis reference sign`",
                str(error)[:1024],
            ) from error
        stored = StoredReference(verified.public_key.hex(), values.version, payload, envelope.model_dump_json(by_alias=True))
        self._floors.check_new(Kind.REFERENCE_VALUES, stored.publisher, "", stored.version)
        return self._store.put_reference(stored, unix(self._clock.now()))  # 3, 4

    def published(self) -> ReferenceList:
        """The newest envelope of each publisher."""
        found = [self._store.reference(publisher) for publisher in sorted(self._publishers)]
        return ReferenceList(documents=[Envelope.model_validate_json(stored.envelope) for stored in found if stored is not None])

    def reasons(self, toml: bytes, initdata: Initdata, verdict: Verdict) -> list[NamedReason]:
        """Why evidence that measures this is refused: what a publisher has withdrawn of it.

        Raises BrokerError (VersionLost) where a rollback has lost a publisher's newer document: what that withdrew is not known.
        """
        documents = self._documents()
        if not documents:
            return []
        measured = Measured(
            image_digest=initdata.identity.image_digest,
            template_version=initdata.identity.template_version,
            policy_digest=initdata_form.policy_digest(toml),
            registers=verdict.measurements,
        )
        return [
            NamedReason(
                reason=BrokerReason.REFERENCE_VALUE_WITHDRAWN,
                message=f"{entry.kind.value} {entry.value} was withdrawn by its publisher at {rfc3339(entry.since)}: {entry.why}"[:512],
                remedy="move to a release whose reference values are current (`chrysalis reference get` shows them)",
            )
            for entry in withdrawn(documents, measured)
        ]

    def _documents(self) -> list[ReferenceValues]:
        """What is stored now, by whichever replica; a document is parsed once."""
        if not self._publishers:
            return []
        found = []
        versions = self._store.reference_versions()
        for publisher in self._publishers:
            self._floors.check_use(Kind.REFERENCE_VALUES, publisher, "", versions.get(publisher, 0))
        for publisher, version in versions.items():
            if publisher not in self._publishers:
                continue
            with self._lock:
                values = self._read.get((publisher, version))
            if values is None:
                stored = self._store.reference(publisher)
                if stored is None:
                    continue
                values = _signed(stored)
                with self._lock:
                    self._read = {key: held for key, held in self._read.items() if key[0] != publisher}
                    self._read[publisher, stored.version] = values
            found.append(values)
        return found


def _signed(stored: StoredReference) -> ReferenceValues:
    """Read a stored document; its signature counts here, too: who can write to the database withdraws no withdrawal by it."""
    try:
        envelope = Envelope.model_validate_json(stored.envelope)
        verified = dsse.verify(envelope, PAYLOAD_REFERENCE_VALUES, [bytes.fromhex(stored.publisher)])
        values = ReferenceValues.model_validate_json(verified.payload)
        if values.version != stored.version:
            raise ValueError(f"version {values.version} is signed, {stored.version} is stored")
    except (WireError, ValueError) as error:
        raise BrokerError(
            BrokerReason.STATE_UNUSABLE,
            f"the stored reference values of {stored.publisher[:16]} are not what their publisher signed",
            "find out who could write to the database; let the publisher store them again in a higher version",
            str(error)[:512],
        ) from error
    return values
