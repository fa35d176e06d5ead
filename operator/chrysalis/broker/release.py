"""Releasing a model key: only to an accepted, living result, re-checked at this moment, and only wrapped to its key."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Collection, Sequence

from chrysalis.broker.callers import Caller
from chrysalis.broker.encryption import KeyEncryption
from chrysalis.broker.judging import Judge, check_class, check_isolation
from chrysalis.broker.metrics import Metrics
from chrysalis.broker.reappraisal import revocation_of
from chrysalis.broker.reasons import BrokerError, BrokerReason
from chrysalis.broker.records import OwnersRecords, key_context
from chrysalis.broker.rooms import Inputs
from chrysalis.broker.signed_results import SignedResults
from chrysalis.broker.state_keys import StateKeys
from chrysalis.broker.store import Checked, Revocation, Store, StoredKey, StoredResult
from chrysalis.clock import Clock, from_unix, unix
from chrysalis.errors import ChrysalisError
from chrysalis.sealing import hpke
from chrysalis.wire.broker import ReleaseRequest, ResultView, WrappedKey
from chrysalis.wire.ear import Ear

log = logging.getLogger(__name__)
ATTEST_AGAIN = "attest again and ask with the new result"
ATTEMPTS = 3
"""How often a release is checked when what it rests on changes under it."""
REVOKED_BY_OWNER = "RevokedByOwner"
"""The word that stands in a result which its owner revoked; other results name why their evidence is refused by now."""


class Results:
    """Reading, revoking and using results.  Thread-safe."""

    def __init__(
        self,
        *,
        store: Store,
        judge: Judge,
        records: OwnersRecords,
        encryption: KeyEncryption,
        keys: StateKeys,
        signed: SignedResults,
        clock: Clock,
        metrics: Metrics,
        recalled: Callable[[int], Collection[str]],
    ) -> None:
        """recalled: thumbprints of the signing keys that are recalled, as of a number of `Inputs.shared` (EarKeys.recalled)."""
        self._store = store
        self._judge = judge
        self._records = records
        self._encryption = encryption
        self._keys = keys
        self._signed = signed
        self._clock = clock
        self._metrics = metrics
        self._recalled = recalled

    def release(self, key_id: str, request: ReleaseRequest) -> WrappedKey:
        """The model key for the domain that a result attests.

        1. Key record and result exist.  2. The result was accepted, for this very key, and is neither expired nor revoked, nor signed
        by a key that any replica has recalled by now.
        3. The policy is still the one that it was judged by, and recent enough for the record.  4. The key is the one that was
        there at the attestation; model, isolation and evidence class are those that the record allows.  Where collateral or
        reference values have changed and nobody has come to this result yet, its evidence is judged again.  5. The release is in
        the audit log.  6. The key goes out wrapped to the attested HPKE key, for this key id, model and result only.

        The request needs no credential: whoever asks, only the attested domain can open the answer.  Raises BrokerError.
        """
        for _ in range(ATTEMPTS):
            answer = self._release(key_id, request)
            if answer is not None:
                return answer
        raise BrokerError(BrokerReason.BUSY, "the key record or its policy change faster than they are checked", "try again in a second")

    def _release(self, key_id: str, request: ReleaseRequest) -> WrappedKey | None:
        """One attempt; None when what it was checked against has changed before it was in the audit log."""
        found = self._store.releasing(request.result_id)
        result, inputs, awaited = found or (None, None, False)
        now = unix(self._clock.now())
        # Only the result says whose key of this name is meant, and for no other name is looked: nobody learns which there are.
        stored = None
        if result is not None and inputs is not None and result.verdict == "Accepted" and result.key_id == key_id:
            stored = self._store.key(result.owner, key_id, inputs.records)
        try:
            if result is None or inputs is None:  # 1
                raise BrokerError(BrokerReason.RESULT_UNKNOWN, "there is no such result", ATTEST_AGAIN)
            if result.verdict != "Accepted":  # 2
                raise BrokerError(BrokerReason.RESULT_REFUSED, "this attempt to attest was refused", "see its reasons")
            if result.key_id != key_id:
                raise _another_key()
            if stored is None:  # 1
                raise BrokerError(BrokerReason.KEY_UNKNOWN, f"there is no key record {key_id!r}", "let the model's owner store it")
            token = self._check(stored, result, now, inputs)
            judged = self._judge_again(result) if awaited else frozenset()
            info = hpke.model_key_info(key_id, token.result.model_digest, result.result_id)
            secret = self._encryption.decrypt(stored.sealed_key, key_context(key_id, stored.owner, stored.record))
            now = unix(self._clock.now())
            _check_expiry(result, now)  # again: the key service may have taken a while
            wrapped = hpke.wrap(bytes.fromhex(token.keys.hpke), secret, info)
        except ChrysalisError as error:
            self._metrics.releases.labels("refused", error.reason).inc()
            log.warning("release refused", extra={"event": "ReleaseRefused", "reason": error.reason, "result": request.result_id})
            # A stranger can invent names without end; the chain records what concerns a real result, for its key and its owner.
            if result is not None and result.owner:
                refusal = {
                    "keyId": result.key_id,
                    "owner": result.owner,
                    "resultId": result.result_id,
                    "reason": str(error.reason),
                    "podUID": result.pod_uid,
                }
                version = 0 if stored is None else stored.version
                self._store.record_refusal(result.result_id, result.key_id, version, now, refusal)
            raise
        document: dict[str, str | int] = {
            "keyId": key_id,
            "keyVersion": stored.version,
            "resultId": result.result_id,
            "owner": stored.owner,
            "policyName": token.result.policy_name,
            "policyVersion": token.result.policy_version,
            "evidenceClass": token.result.evidence_class,
            "placement": token.result.placement.value,
            "hpke": token.keys.hpke,
            "podUID": result.pod_uid,
        }
        checked = Checked((stored.version, token.result.policy_version), inputs.shared, judged)
        policy_name = token.result.policy_name
        if not self._store.record_release(result.result_id, key_id, checked, stored.owner, policy_name, now, document):  # 5
            return None
        self._metrics.releases.labels("released", "").inc()
        log.info("key released", extra={"event": "KeyReleased", "result": result.result_id})
        return WrappedKey(  # 6
            key_id=key_id, wrapped=base64.b64encode(wrapped).decode(), result_id=result.result_id
        )

    def _judge_again(self, result: StoredResult) -> frozenset[int]:
        """Judge the evidence now where a sweep is still to come to it; returns the requests that this has satisfied.

        Raises BrokerError (ResultRevoked) where the evidence would be refused: the result ends here, as the sweep would end it.
        """
        awaited = self._store.awaited_sweeps(result.result_id)
        if not awaited:
            return frozenset()
        cause, at = next(iter(awaited.values())), self._clock.now()
        revocation = revocation_of(self._judge, result.result_id, self._store.evidence(result.result_id), cause, at)
        if revocation is not None:
            if self._store.revoke([revocation], unix(at)):
                self._metrics.revocations.labels(cause.value, revocation.reason).inc()
            raise _revoked(f"{revocation.reason}: {revocation.message}")
        return frozenset(awaited)

    def view(self, caller: Caller, result_id: str) -> ResultView:
        """One result as its callers see it; raises BrokerError (ResultUnknown), also for another owner's."""
        return _view(self._of(caller, result_id))

    def list(
        self,
        caller: Caller,
        *,
        namespace: str = "",
        worker: str = "",
        pod_uid: str = "",
        verdict: str = "",
        after: str = "",
        limit: int = 100,
    ) -> list[ResultView]:
        """Results that match, newest first; with after, the next younger ones.  Raises BrokerError (ResultUnknown)."""
        found = self._store.results(
            namespace=namespace,
            worker=worker,
            pod_uid=pod_uid,
            verdict=verdict,
            owners=caller.owners,
            namespaces=caller.namespaces,
            after=after,
            limit=limit,
        )
        return [_view(result) for result in found]

    def changes(
        self,
        caller: Caller,
        after: int,
        *,
        namespace: str = "",
        worker: str = "",
        pod_uid: str = "",
        verdict: str = "",
        limit: int = 100,
    ) -> Sequence[tuple[int, ResultView]]:
        """The next results that changed after a number, each with the number of its last change, in that order."""
        found = self._store.changes(
            after,
            namespace=namespace,
            worker=worker,
            pod_uid=pod_uid,
            verdict=verdict,
            owners=caller.owners,
            namespaces=caller.namespaces,
            limit=limit,
        )
        return [(number, _view(result)) for number, result in found]

    def revoke(self, caller: Caller, result_id: str) -> ResultView:
        """End a result before its time; its key's owner may, and its tenant's administrators in role OwnerAdmin.

        Raises BrokerError (CallerNotAllowed, ResultUnknown).
        """
        result, now = self._of(caller, result_id), unix(self._clock.now())
        if not caller.changes(result.owner):
            raise BrokerError(
                BrokerReason.CALLER_NOT_ALLOWED,
                "only the owner of its key, or an OwnerAdmin of its tenant, may revoke a result",
                "send a token signed by the owner's key, or come in that role",
            )
        document = {"resultId": result_id, "keyId": result.key_id, "owner": result.owner, "by": caller.name, "reason": REVOKED_BY_OWNER}
        self._store.revoke(
            [Revocation(result_id, REVOKED_BY_OWNER, "the owner of the key revoked it, or an administrator of the tenant", document)], now
        )
        return _view(self._of(caller, result_id))

    def _of(self, caller: Caller, result_id: str) -> StoredResult:
        result = self._store.result(result_id)
        if result is None or not caller.sees(result.owner, result.namespace):
            raise BrokerError(BrokerReason.RESULT_UNKNOWN, "there is no such result", "list the results with GET /v1/results")
        return result

    def _check(self, stored: StoredKey, result: StoredResult, now: int, inputs: Inputs) -> Ear:
        """Steps 2 to 4 of an accepted result for this key; its facts come from the token that this broker signed."""
        _check_expiry(result, now)
        if result.revoked_at is not None:
            raise _revoked(f"{result.revoked_reason}: {result.revoked_message}")
        token = self._signed.open(_view(result).ear, self._keys.ear_public, self._clock.now(), self._recalled(inputs.shared))
        if (token.jti, token.result.key_id, token.result.policy_owner) != (result.result_id, stored.key_id, stored.owner):
            # The columns beside the token chose the row; who may write to the database chooses them.
            raise BrokerError(BrokerReason.RESULT_FOR_ANOTHER_KEY, "the result's token is of another result or key", ATTEST_AGAIN)
        record = self._records.record(stored)
        policy = self._records.policy_of(record, inputs.records)  # 3
        if policy is None or (policy.name, policy.spec.version) != (token.result.policy_name, token.result.policy_version):
            raise BrokerError(BrokerReason.POLICY_CHANGED, "the owner has stored another policy since", ATTEST_AGAIN)
        if policy.spec.version < record.min_policy_version:
            raise BrokerError(
                BrokerReason.POLICY_TOO_OLD, f"the key record asks for policy version {record.min_policy_version}", ATTEST_AGAIN
            )
        if token.result.key_since != stored.key_since:  # 4
            raise BrokerError(BrokerReason.KEY_CHANGED, "the owner has replaced the model key since", ATTEST_AGAIN)
        if token.result.model_digest != record.model_digest:
            raise BrokerError(BrokerReason.MODEL_MISMATCH, "the key record is for another model by now", ATTEST_AGAIN)
        check_isolation(record, token.result.isolation)
        check_class(record, token.result.evidence_class)
        return token


def _check_expiry(result: StoredResult, now: int) -> None:
    if result.expires_at is None or now >= result.expires_at:
        raise BrokerError(BrokerReason.RESULT_EXPIRED, "the result has expired", ATTEST_AGAIN)


def _another_key() -> BrokerError:
    return BrokerError(BrokerReason.RESULT_FOR_ANOTHER_KEY, "the result is for another key", "ask for the measured keyId's key")


def _revoked(why: str) -> BrokerError:
    return BrokerError(BrokerReason.RESULT_REVOKED, f"this result was revoked: {why}", "ask the model's owner, or attest again")


def _view(result: StoredResult) -> ResultView:
    return ResultView.model_validate_json(result.document).model_copy(
        update={
            "key_released_at": None if result.released_at is None else from_unix(result.released_at),
            "revoked_at": None if result.revoked_at is None else from_unix(result.revoked_at),
            "revoked_reason": result.revoked_reason or "",
            "revoked_message": result.revoked_message or "",
        }
    )
