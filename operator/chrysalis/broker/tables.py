"""The broker's tables.  Times are Unix seconds; documents are JSON texts kept byte for byte; keys and digests are hex."""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, String, Table, Text, text

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
metadata = MetaData(naming_convention=NAMING)

spent_nonces = Table(
    "spent_nonces",
    metadata,
    Column("nonce", String(64), primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
    Index("ix_spent_nonces_expires_at", "expires_at"),
)

key_records = Table(
    "key_records",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("key_id", String(63), primary_key=True),
    Column("model_digest", String(71), nullable=False),  # of the record
    Column("number", BigInteger, nullable=False),  # in the order in which owners first stored this id for this model
    Column("version", BigInteger, nullable=False),
    Column("payload_sha256", String(64), nullable=False),  # of the signed payload: the same envelope again changes nothing
    Column("record", Text, nullable=False),  # the record's JSON without `key`
    Column("sealed_key", LargeBinary, nullable=False),
    Column("key_since", BigInteger, nullable=False),  # the version in which the key itself was last replaced
    Column("recovery", LargeBinary, nullable=False),  # age: the record with its key, to its owner's recipients; empty without
    Column("updated_at", BigInteger, nullable=False),
    CheckConstraint("version >= 1", name="version"),
    Index("ix_key_records_key_id", "key_id", "model_digest", "number"),
)

policies = Table(
    "policies",
    metadata,
    Column("owner", String(64), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("payload", Text, nullable=False),  # the signed bytes
    Column("envelope", Text, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    CheckConstraint("version >= 1", name="version"),
)

collateral_documents = Table(
    "collateral_documents",
    metadata,
    Column("root", String(64), primary_key=True),  # SHA-256 of the trust root
    Column("kind", String(16), primary_key=True),
    Column("name", String(16), primary_key=True),  # FMSPC, PCK authority, or empty
    Column("channel", String(16), primary_key=True),  # of updates; empty for revocation lists
    Column("body", LargeBinary),  # NULL as long as it was asked for in vain
    Column("signature", LargeBinary),
    Column("issuers", Text),
    Column("digest", String(64), nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("ends_at", BigInteger, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    Column("checked_at", BigInteger, nullable=False),
    Column("next_attempt_at", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("reason", String(64), nullable=False),
    Column("failed_at", BigInteger, nullable=False),
    Column("claimed_by", String(16), nullable=False),
    Column("claimed_until", BigInteger, nullable=False),
    CheckConstraint("(body IS NULL) = (digest = '')", name="document_has_a_digest"),
)

results = Table(
    "results",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # the number of the change that made it
    Column("changed", BigInteger, nullable=False, unique=True),  # the number of its last change
    Column("result_id", String(36), nullable=False, unique=True),
    Column("verdict", String(16), nullable=False),
    Column("namespace", String(63), nullable=False),
    Column("worker", String(63), nullable=False),
    Column("pod_uid", String(63), nullable=False),
    Column("key_id", String(63), nullable=False),
    Column("owner", String(64), nullable=False),  # of the key record; empty where there is none
    Column("policy_name", String(63), nullable=False),  # that it was judged by; empty where there was none
    Column("policy_version", BigInteger, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("released_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("revoked_reason", String(64)),
    Column("revoked_message", Text),
    Column("document", Text, nullable=False),  # ResultView as it was issued
    CheckConstraint("verdict IN ('Accepted', 'Refused')", name="verdict"),
    CheckConstraint("(verdict = 'Accepted') = (expires_at IS NOT NULL)", name="accepted_expires"),
    CheckConstraint("verdict = 'Accepted' OR released_at IS NULL", name="refused_releases_nothing"),
    Index("ix_results_namespace", "namespace", "worker", "seq"),
    Index("ix_results_pod_uid", "pod_uid", "seq"),
    CheckConstraint("(revoked_at IS NULL) = (revoked_reason IS NULL)", name="revoked_for_a_reason"),
    Index("ix_results_owner", "owner", "seq"),
    Index("ix_results_living", "owner", "verdict", "expires_at"),  # these two are for quotas
    Index("ix_results_recent", "owner", "verdict", "issued_at"),
    Index("ix_results_key_id", "key_id", "seq"),
)

gpu_devices = Table(
    "gpu_devices",  # that accepted results rest on, see chrysalis.broker.gpu_store
    metadata,
    Column("result_id", String(36), ForeignKey("results.result_id", ondelete="CASCADE"), primary_key=True),
    Column("device_id", String(64), primary_key=True),  # SHA-256 of the device's identity key
    Column("receipt_key", String(64), nullable=False),  # of the trust domain
    Index("ix_gpu_devices_device_id", "device_id"),
)

ocsp_answers = Table(
    "ocsp_answers",  # about the authorities in devices' chains, see chrysalis.broker.ocsp_store
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the certificate
    Column("certificate", LargeBinary, nullable=False),
    Column("issuer", LargeBinary, nullable=False),
    Column("body", LargeBinary),  # NULL as long as it was asked for in vain
    Column("state", String(16), nullable=False),
    Column("this_update", BigInteger, nullable=False),
    Column("ends_at", BigInteger, nullable=False),
    Column("next_attempt_at", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=False),
    CheckConstraint("(body IS NULL) = (state = 'Missing')", name="state"),
    Index("ix_ocsp_answers_next_attempt_at", "next_attempt_at"),
)

counters = Table(
    "counters",  # `changes` numbers every change of a result; for the others see chrysalis.broker.rooms.Counter
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

releases = Table(
    "releases",  # what was answered to requests for a key: once in the audit log, then counted
    metadata,
    Column("result_id", String(36), ForeignKey("results.result_id", ondelete="CASCADE"), primary_key=True),
    Column("key_id", String(63), primary_key=True),
    Column("key_version", BigInteger, primary_key=True),
    Column("outcome", String(64), primary_key=True),  # Released, or the reason of the refusal
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("times", BigInteger, nullable=False),
)

evidence = Table(
    "evidence",  # of every judged attempt, as long as its result is kept
    metadata,
    Column("result_id", String(36), ForeignKey("results.result_id", ondelete="CASCADE"), primary_key=True),
    Column("message", LargeBinary, nullable=False),  # zlib: the Evidence without what lies in documents
    Column("at", BigInteger, nullable=False),  # the time that it was judged at
    Column("key_version", BigInteger, nullable=False),  # of the key record; 0 where there was none
    Column("size", BigInteger, nullable=False),  # of the message and its documents as they are stored, shared ones included
)

documents = Table(
    "documents",  # large parts of evidence, each once
    metadata,
    Column("digest", String(64), primary_key=True),  # SHA-256 of the text
    Column("body", LargeBinary, nullable=False),  # zlib
)

evidence_documents = Table(
    "evidence_documents",
    metadata,
    Column("result_id", String(36), ForeignKey("evidence.result_id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(32), primary_key=True),  # collateral, gpuAnswers, nrasKeys, or the member of the Evidence
    Column("digest", String(64), ForeignKey("documents.digest"), nullable=False),
    Index("ix_evidence_documents_digest", "digest"),
)

reappraisals = Table(
    "reappraisals",  # what is still to be judged again; a row goes when its sweep has come to the end
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("cause", String(32), nullable=False),
    Column("owner", String(64), nullable=False),  # empty members of the scope mean every one
    Column("policy_name", String(63), nullable=False),
    Column("key_id", String(63), nullable=False),
    Column("requested_at", BigInteger, nullable=False),
    Column("cursor", BigInteger, nullable=False),  # results up to this number are done
    Column("holder", String(36), nullable=False),  # the replica that works on it
    Column("held_until", BigInteger, nullable=False),
)

reference_values = Table(
    "reference_values",  # what publishers signed; the newest version of each counts
    metadata,
    Column("publisher", String(64), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("payload", Text, nullable=False),  # the signed bytes
    Column("envelope", Text, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    CheckConstraint("version >= 1", name="version"),
)

ANCHORED = "event IN ('AnchorStarted', 'AnchorForgotten')"
"""The records that say whether an anchor follows this database; few, and looked for at each start."""

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("event", String(32), nullable=False),
    Column("document", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    CheckConstraint("seq >= 1", name="seq"),
    Index("ix_audit_anchored", "seq", sqlite_where=text(ANCHORED), postgresql_where=text(ANCHORED)),
)

audit_checkpoints = Table(
    "audit_checkpoints",  # how far the log was verified; one row
    metadata,
    Column("name", String(16), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("token", Text, nullable=False),  # signed by the broker, see chrysalis.broker.audit_check
)

ear_keys = Table(
    "ear_keys",  # what signs results, below the pinned anchor
    metadata,
    Column("kid", String(64), primary_key=True),
    Column("certificate", Text, nullable=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("signs_until", BigInteger, nullable=False),
    Column("verifies_until", BigInteger, nullable=False),
    CheckConstraint("not_before <= signs_until AND signs_until <= verifies_until", name="times"),
)

recalled_keys = Table(
    "recalled_keys",  # signing keys whose results count no more; never forgotten
    metadata,
    Column("kid", String(64), primary_key=True),
    Column("recalled_at", BigInteger, nullable=False),
    Column("reason", String(256), nullable=False),
)

version_floors = Table(
    "version_floors",  # versions that an anchor had noted before a rollback was accepted: nothing lower counts or is taken
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("owner", String(64), primary_key=True),  # of the policy or key record; the publisher
    Column("name", String(63), primary_key=True),  # of the policy or key; empty for reference values
    Column("version", BigInteger, nullable=False),
    CheckConstraint("version >= 1", name="version"),
)

state_keys = Table(
    "state_keys",  # the broker's own keys, where replicas share them
    metadata,
    Column("name", String(32), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
