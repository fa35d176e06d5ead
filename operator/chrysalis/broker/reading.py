"""What a caller may read of stored records and of the audit log.

What is another tenant's is answered exactly as what does not exist: same reason, same words, after the same query.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from chrysalis.api.policy import Envelope
from chrysalis.broker import audit
from chrysalis.broker.audit import AuditRecord
from chrysalis.broker.callers import Caller
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.store import Store
from chrysalis.wire.broker import KeyRecord
from chrysalis.wire.broker_views import AuditLink, AuditList, KeyRecordView, PolicyView


def _among(caller: Caller, owner: str) -> frozenset[str] | None:
    """The owners whose records a caller sees, or of these the one that it names; None: all."""
    if not owner:
        return caller.owners
    named = frozenset({owner.lower()})
    return named if caller.owners is None else caller.owners & named


def key_record(
    store: Store, caller: Caller, key_id: str, owner: str = "", known: Callable[[str], bool] = lambda _owner: True
) -> KeyRecordView:
    """A key record without its key.

    owner (hex) is needed only where the caller sees records of this id by several owners.  known: whether an owner is any tenant's.
    Raises BrokerError: NotFound, MessageMalformed.
    """
    found = store.keys_named(key_id, _among(caller, owner))
    if not found:
        raise _not_found("key record")
    if len(found) > 1:
        raise BrokerError(
            BrokerReason.MESSAGE_MALFORMED, f"several owners have a key {key_id!r}", "name the owner's key: ?owner=64 hex digits"
        )
    record = KeyRecord.model_validate_json(found[0].record)
    meant = store.key_named(key_id, record.model_digest, known=known)
    first = meant is not None and meant.owner == found[0].owner
    members = record.model_dump(include=set(KeyRecordView.model_fields))
    return KeyRecordView.model_validate(members | {"meant_without_owner": first})


def policy(store: Store, caller: Caller, name: str, owner: str = "") -> PolicyView:
    """The newest stored version of a policy.

    owner (hex) is needed only where the caller sees policies of this name by several owners.
    Raises BrokerError: NotFound, MessageMalformed.
    """
    found = store.policies_named(name, _among(caller, owner))
    if not found:
        raise _not_found("policy")
    if len(found) > 1:
        raise BrokerError(
            BrokerReason.MESSAGE_MALFORMED, f"several owners have a policy {name!r}", "name the owner's key: ?owner=64 hex digits"
        )
    stored = found[0]
    envelope = Envelope.model_validate_json(stored.envelope)
    return PolicyView(owner=stored.owner, name=stored.name, version=stored.version, envelope=envelope)


def audit_links(store: Store, caller: Caller, after: int, limit: int, now: datetime) -> AuditList:
    """The next links of the audit log's chain, with the records of the caller's own tenant.

    Raises BrokerError (CallerNotAllowed) for who may not change anything: readers have no part in the audit.
    """
    if not caller.changeable:
        raise BrokerError(
            BrokerReason.CALLER_NOT_ALLOWED,
            "only an owner or an OwnerAdmin of a tenant may read the audit log",
            "send a token signed by the owner's key, or come in that role",
        )
    before = store.audit_page(after - 1, 1) if after else []
    records = store.audit_page(after, limit)
    head, head_hash = store.audit_head()
    previous = before[0].hash if before and before[0].seq == after else records[0].previous if records else head_hash
    links = [_link(record, caller.changes(str(record.document.get("owner", "")))) for record in records]
    return AuditList(
        previous=audit.GENESIS if after == 0 else previous, links=links, head=head, head_hash=head_hash, read_at=now.replace(microsecond=0)
    )


def _link(record: AuditRecord, own: bool) -> AuditLink:
    if not own:
        return AuditLink(seq=record.seq, hash=record.hash)
    return AuditLink(seq=record.seq, hash=record.hash, at=record.at, event=record.event, document=record.document)


def _not_found(what: str) -> BrokerError:
    return BrokerError(BrokerReason.NOT_FOUND, f"there is no such {what}", "check the name, and whose credentials these are")
