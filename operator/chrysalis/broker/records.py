"""What owners store: key records and policies.  Only under an allowed owner's signature, and never an older version."""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache
from typing import TypeVar

from pydantic import ValidationError

from chrysalis import strict_json
from chrysalis.api.base import Model
from chrysalis.api.policy import Envelope, SignedPolicy
from chrysalis.broker import recovery
from chrysalis.broker.encryption import KeyEncryption
from chrysalis.broker.name_budget import NameBudget
from chrysalis.broker.quota_store import Allowance
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.store import Store, StoredKey, StoredPolicy
from chrysalis.broker.tenants import Tenants
from chrysalis.broker.version_floors import Floors, Kind
from chrysalis.clock import Clock, unix
from chrysalis.sealing import package
from chrysalis.sealing.reasons import SealingError
from chrysalis.wire import dsse
from chrysalis.wire.broker import PAYLOAD_KEY_RECORD, PAYLOAD_POLICY, KeyRecord
from chrysalis.wire.reasons import WireError, WireReason

M = TypeVar("M", bound=Model)
REMEMBERED = 32
"""How many key records and policies stay parsed, by their text."""


def key_context(key_id: str, owner: str, record: str) -> bytes:
    """What a stored key's encryption is bound to: whose it is, and the record's own text (StoredKey.record).

    Whoever can write to the database and changes who may get a key, changes what it does not open with any more.
    """
    return f"chrysalis/v1/stored-key\0{owner}\0{key_id}\0{hashlib.sha256(record.encode()).hexdigest()}".encode()


class OwnersRecords:
    """Takes owners' signed documents and finds them again."""

    def __init__(
        self,
        *,
        store: Store,
        tenants: Tenants,
        encryption: KeyEncryption,
        clock: Clock,
        floors: Floors | None = None,
        names: NameBudget | None = None,
    ) -> None:
        """names: room in the anchor, where there is one."""
        self._store = store
        self._tenants = tenants
        self._owners = tenants.owner_keys
        self._encryption = encryption
        self._clock = clock
        self._floors = floors or Floors()
        self._names = names

    def put_key(self, key_id: str, envelope: Envelope) -> bool:
        """Store a key record; False when exactly this one is stored.

        1. An allowed owner signed it.  2. It names that owner, and the key of the path.  3. It holds an age identity.
        4. The owner's stored record of this id, if any, is of a lower version.  Other owners' records of the id are nobody's business.
        Raises BrokerError and WireError.
        """
        verified = self._verified(envelope, PAYLOAD_KEY_RECORD)  # 1
        record = _parse(KeyRecord, verified.payload)
        if record.owner_public_key.lower() != verified.public_key.hex():  # 2
            raise BrokerError(
                BrokerReason.OWNER_MISMATCH,
                "the key record names another owner than its signer",
                "sign it with that owner's key",
            )
        if record.key_id != key_id:
            raise _name_mismatch("key record", record.key_id, key_id)
        try:
            package.check_identity(record.key)  # 3
        except SealingError as error:
            raise BrokerError(BrokerReason.KEY_MALFORMED, error.message, error.remedy) from error
        owner = verified.public_key.hex()
        self._floors.check_new(Kind.KEY_RECORD, owner, key_id, record.version)
        secret = record.key.strip().encode()
        terms = record.model_copy(update={"key": "", "owner_public_key": owner}).model_dump_json(by_alias=True)
        stored = StoredKey(
            key_id=key_id,
            owner=owner,
            model_digest=record.model_digest,
            version=record.version,
            payload_sha256=hashlib.sha256(verified.payload).hexdigest(),
            record=terms,
            sealed_key=self._encryption.encrypt(secret, key_context(key_id, owner, terms)),
            key_since=self._key_since(key_id, owner, secret, record.version),
            recovery=recovery.seal(verified.payload, record.recovery_recipients),
        )
        return self._store.put_key(stored, unix(self._clock.now()), self._allowance(owner))  # 4

    def put_policy(self, name: str, envelope: Envelope) -> bool:
        """Store a policy under its signer; False when exactly this one is stored.

        1. An allowed owner signed it.  2. The signed bytes are a policy of this name.  3. Its version is higher than the
        stored one's.  Raises BrokerError and WireError.
        """
        verified = self._verified(envelope, PAYLOAD_POLICY)  # 1
        policy = _signed_policy(verified.payload)  # 2
        if policy.name != name:
            raise _name_mismatch("policy", policy.name, name)
        stored = StoredPolicy(
            owner=verified.public_key.hex(),
            name=name,
            version=policy.spec.version,
            payload=verified.payload.decode(),
            envelope=envelope.model_dump_json(by_alias=True),
        )
        self._floors.check_new(Kind.POLICY, stored.owner, name, stored.version)
        return self._store.put_policy(stored, unix(self._clock.now()), self._allowance(stored.owner))  # 3

    def is_owner(self, owner: str) -> bool:
        """Whether the settings list this owner's key (hex) among a tenant's."""
        return self._tenants.of(owner) is not None

    def record(self, stored: StoredKey) -> KeyRecord:
        """The key record's signed members; `key` is empty.

        Raises BrokerError: VersionLost where a rollback has lost a newer version; OwnerNotAllowed when its owner is no tenant's any
        more: taking an owner out of the settings ends what was stored under its key.
        """
        if self._tenants.of(stored.owner) is None:
            raise BrokerError(
                BrokerReason.OWNER_NOT_ALLOWED,
                f"the owner of the key {stored.key_id} is not any tenant's",
                "list the owner's key among a tenant's in the broker's settings",
            )
        self._floors.check_use(Kind.KEY_RECORD, stored.owner, stored.key_id, stored.version)
        return _record(stored.record)

    def policy_of(self, record: KeyRecord, records: int | None = None) -> SignedPolicy | None:
        """The policy that the record's owner bound the key to, in its current version; None when there is none.

        records: `Inputs.records` as read a moment ago, where it was.
        Raises BrokerError: StateUnusable when what is stored is not what that owner signed, VersionLost as `record` does.
        """
        stored = self._store.policy(record.owner_public_key, record.policy_name, records)
        if stored is None:
            return None
        self._floors.check_use(Kind.POLICY, stored.owner, stored.name, stored.version)
        return _policy(stored)

    def _allowance(self, owner: str) -> Allowance | None:
        tenant = self._tenants.of(owner)
        return None if tenant is None else Allowance.of(tenant, self._names)

    def _key_since(self, key_id: str, owner: str, secret: bytes, version: int) -> int:
        """The version since which the key is this one: an update that repeats it lets earlier results go on."""
        held = self._store.key(owner, key_id)
        if held is None:
            return version
        before = self._encryption.decrypt(held.sealed_key, key_context(key_id, owner, held.record))
        return held.key_since if hmac.compare_digest(before, secret) else version

    def _verified(self, envelope: Envelope, payload_type: str) -> dsse.Verified:
        try:
            return dsse.verify(envelope, payload_type, self._owners)
        except WireError as error:
            if error.reason == WireReason.ENVELOPE_SIGNATURE_INVALID:
                raise BrokerError(
                    BrokerReason.OWNER_NOT_ALLOWED,
                    "no allowed owner signed this document",
                    "sign it with an owner's key that the broker's settings list as a tenant's",
                    error.detail,
                ) from error
            raise


@lru_cache(maxsize=REMEMBERED)
def _record(text: str) -> KeyRecord:
    return KeyRecord.model_validate_json(text)


@lru_cache(maxsize=REMEMBERED)
def _policy(stored: StoredPolicy) -> SignedPolicy:
    """Read a stored policy; its signature counts at each use, not only when it came: the database is no authority."""
    try:
        envelope = Envelope.model_validate_json(stored.envelope)
        verified = dsse.verify(envelope, PAYLOAD_POLICY, [bytes.fromhex(stored.owner)])
        policy = SignedPolicy.of_payload(verified.payload)
        if (verified.payload.decode(), policy.name, policy.spec.version) != (stored.payload, stored.name, stored.version):
            raise ValueError("payload, name or version is another than the signed one")
    except (WireError, ValueError) as error:
        raise BrokerError(
            BrokerReason.STATE_UNUSABLE,
            f"the stored policy {stored.name} is not what its owner signed",
            "find out who could write to the database; let the owner store the policy again in a higher version",
            str(error)[:512],
        ) from error
    return policy


def _signed_policy(payload: bytes) -> SignedPolicy:
    try:
        return SignedPolicy.of_payload(payload)
    except ValidationError as error:
        raise _not_a(SignedPolicy, _described(error)) from error
    except ValueError as error:
        raise _not_a(SignedPolicy, str(error)) from error


def _parse(model: type[M], payload: bytes) -> M:
    try:
        strict_json.each_once(payload)
        return model.model_validate_json(payload)
    except strict_json.MemberTwice as error:
        raise _not_a(model, "a member stands twice in one object") from error
    except ValidationError as error:
        raise _not_a(model, _described(error)) from error


def _described(error: ValidationError) -> str:
    # Never the input itself, nor an error that holds it: a key record holds the key.
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False, include_url=False)[:8])


def _not_a(model: type[Model], detail: str) -> BrokerError:
    words = f"the signed bytes are not a {model.__name__}"
    return BrokerError(BrokerReason.MESSAGE_MALFORMED, words, "make it with this version's tools", detail[:1024])


def _name_mismatch(what: str, signed: str, named: str) -> BrokerError:
    return BrokerError(
        BrokerReason.NAME_MISMATCH, f"the signed {what} is called {signed!r}, not {named!r}", "put it to the name that stands in it"
    )
