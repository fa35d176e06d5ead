"""The broker's client: pinned TLS, bounded answers, and refusals as exceptions that carry the broker's reasons.

Asynchronous; used by the worker's agent, the controller, the settler and the command line.  It checks whom it talks to
(the pin), never what the evidence is worth.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import ValidationError

from chrysalis.api.base import Model
from chrysalis.api.policy import Envelope, SignedPolicy
from chrysalis.wire.broker import (
    AttestResult,
    Challenge,
    Evidence,
    Problem,
    ReleaseRequest,
    ResultList,
    ResultStanding,
    ResultView,
    WrappedKey,
)
from chrysalis.wire.broker_evidence import BrokerEvidence
from chrysalis.wire.broker_views import AuditList, KeyRecordView, PolicyView
from chrysalis.wire.changes import PolicySimulation, ResultChanges
from chrysalis.wire.pinning import pinned_context
from chrysalis.wire.reasons import Refused, WireError, WireReason
from chrysalis.wire.recalls import Recalls
from chrysalis.wire.reference import ReferenceList

MAX_ANSWER_BYTES = 16 * 1024 * 1024
PROBLEM_TYPE = "application/problem+json"
LIMITS = httpx.Limits(max_keepalive_connections=0)
"""Each request is a connection of its own: requests are rare, and a kept one may be dead when the broker was restarted."""
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

M = TypeVar("M", bound=Model)


class BrokerClient:
    """One broker, at `url`, whose TLS key has the SHA-256 `spki_sha256` (hex).

    token gives the bearer for GET /v1/results (a projected ServiceAccount token, or wire.owner_token.make for this pin); it is
    called for each request, so a rotated token is picked up.  timeout is in seconds, for each request.
    """

    def __init__(self, url: str, *, spki_sha256: str, token: Callable[[], str] | None = None, timeout: float = 15.0) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise WireError(WireReason.SERVICE_UNREACHABLE, f"{url!r} is not an https URL", "give the broker's https address")
        try:
            self._port = parts.port or 443
            self._pin = bytes.fromhex(spki_sha256)
        except ValueError as error:
            raise WireError(
                WireReason.SERVICE_UNREACHABLE, f"{url!r} or its pin cannot be read", "give a URL, and the pin as 64 hex digits", str(error)
            ) from error
        if len(self._pin) != 32:
            raise WireError(WireReason.PIN_MISMATCH, "the pin is not 32 bytes", "give the SHA-256 of the broker's TLS key in hex")
        self._host = parts.hostname
        self._base = url.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._http: httpx.AsyncClient | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the client may be used again afterwards."""
        if self._http is not None:
            http, self._http = self._http, None
            await http.aclose()

    async def challenge(self) -> Challenge:
        """A fresh nonce, good for one attestation."""
        return await self._ask(Challenge, "POST", "/v1/challenge")

    async def attest(self, evidence: Evidence) -> AttestResult:
        """Have evidence appraised; raises Refused with every reason when it is not accepted."""
        return await self._ask(AttestResult, "POST", "/v1/attest", body=evidence)

    async def release(self, key_id: str, result_id: str) -> WrappedKey:
        """The model key, wrapped to the HPKE key that the result attests; raises Refused."""
        return await self._ask(WrappedKey, "POST", f"/v1/keys/{_label(key_id)}:release", body=ReleaseRequest(result_id=result_id))

    async def standing(self, result_id: str) -> ResultStanding:
        """Whether a result still counts; of one that the broker does not know it says that it has ended."""
        return await self._ask(ResultStanding, "GET", f"/v1/results/{quote(result_id, safe='')}:standing")

    async def put_key(self, key_id: str, envelope: Envelope) -> None:
        """Store or update a key record; envelope.payload is a wire.broker.KeyRecord in JSON, signed by its owner."""
        await self._send("PUT", f"/v1/keys/{_label(key_id)}", body=envelope)

    async def put_policy(self, name: str, envelope: Envelope) -> None:
        """Store a policy of a higher version; envelope.payload is a wire.broker.SignedPolicy in JSON, signed by its owner."""
        await self._send("PUT", f"/v1/policies/{_label(name)}", body=envelope)

    async def key(self, key_id: str, *, owner: str = "") -> KeyRecordView:
        """A key record without its key; raises Refused with status 404 where there is none that this caller may see.

        owner (hex) where the caller sees several owners' of one id.
        """
        return await self._ask(KeyRecordView, "GET", f"/v1/keys/{_label(key_id)}", query={"owner": owner} if owner else {})

    async def policy(self, name: str, *, owner: str = "") -> PolicyView:
        """The policy in force, with its owner's envelope; owner (hex) where the caller sees several owners' of one name."""
        return await self._ask(PolicyView, "GET", f"/v1/policies/{_label(name)}", query={"owner": owner} if owner else {})

    async def audit(self, *, after: int = 0, limit: int = 100) -> AuditList:
        """The next links of the audit log; for owners and administrators in role OwnerAdmin."""
        return await self._ask(AuditList, "GET", "/v1/audit", query={"after": str(after), "limit": str(limit)})

    async def results(
        self, *, namespace: str = "", worker: str = "", pod_uid: str = "", verdict: str = "", after: str = "", limit: int = 100
    ) -> list[ResultView]:
        """Attempts to attest, newest first, filtered by the claimed identity and the verdict (Accepted, Refused).

        With after (a result id), the next `limit` results younger than that one; go on with the first one's id.
        """
        filters = {"namespace": namespace, "worker": worker, "podUID": pod_uid, "verdict": verdict, "after": after, "limit": str(limit)}
        query = {name: value for name, value in filters.items() if value}
        return (await self._ask(ResultList, "GET", "/v1/results", query=query)).results

    async def result(self, result_id: str) -> ResultView:
        """One attempt to attest; raises Refused with status 404 when the broker does not know it."""
        return await self._ask(ResultView, "GET", f"/v1/results/{quote(result_id, safe='')}")

    async def watch_results(
        self, *, namespace: str = "", worker: str = "", pod_uid: str = "", verdict: str = "", after: int | None = None
    ) -> AsyncIterator[tuple[int, ResultView]]:
        """Every result that is issued, released or revoked from now on, or after the change `after`, as it is by then.

        Without end; each comes with the number to go on after.  A result is seen within two seconds of its change, whichever
        replica made it.  Raises Refused and WireError like any request; whoever goes on after one passes the last number.
        """
        filters = {"namespace": namespace, "worker": worker, "podUID": pod_uid, "verdict": verdict}
        query = {name: value for name, value in filters.items() if value} | {"wait": str(max(1, int(min(self._timeout / 2, 30))))}
        if after is None:
            after = (await self._ask(ResultList, "GET", "/v1/results", query={"limit": "1"})).change
        while True:
            changes = await self._ask(ResultChanges, "GET", "/v1/results", query=query | {"after": str(after)})
            after = changes.next
            for view in changes.results:
                yield after, view

    async def simulate(self, policy: SignedPolicy) -> PolicySimulation:
        """What a policy would change if its owner stored it; needs an owner's token.  Raises Refused."""
        return await self._ask(PolicySimulation, "POST", f"/v1/policies/{_label(policy.name)}:simulate", body=policy)

    async def bundle(self, result_id: str) -> bytes:
        """The evidence bundle of a result (chrysalis.wire.bundle), byte for byte and not judged; raises Refused."""
        return await self._send("GET", f"/v1/bundles/{quote(result_id, safe='')}")

    async def own_evidence(self, nonce: bytes) -> BrokerEvidence:
        """The broker's evidence about itself over a nonce of 32 bytes; not judged (chrysalis.wire.broker_evidence does)."""
        return await self._ask(BrokerEvidence, "GET", "/.well-known/attestation", query={"nonce": nonce.hex()})

    async def put_reference_values(self, envelope: Envelope) -> None:
        """Store a publisher's reference values; the payload is chrysalis.api.reference.ReferenceValues."""
        await self._send("PUT", "/v1/reference-values", body=envelope)

    async def reference_values(self) -> list[Envelope]:
        """The newest envelope of each publisher; whoever reads them checks the signatures."""
        return (await self._ask(ReferenceList, "GET", "/v1/reference-values")).documents

    async def jwks(self) -> dict[str, Any]:
        """The key set (RFC 7517) with the EAR key."""
        path = "/.well-known/jwks.json"
        try:
            keys = json.loads(await self._send("GET", path))
        except (ValueError, RecursionError) as error:
            raise _malformed(path, str(error)) from error
        if not isinstance(keys, dict):
            raise _malformed(path, "not a JSON object")
        return keys

    async def recalls(self) -> str:
        """The list of recalled signing keys, not checked (chrysalis.wire.recalls.open_list does)."""
        return (await self._ask(Recalls, "GET", "/.well-known/ear-recalls")).recalls

    async def healthy(self) -> bool:
        """Whether the pinned broker answers and says that it is ready."""
        try:
            await self._send("GET", "/readyz")
        except WireError:
            return False
        return True

    async def _ask(self, answer: type[M], method: str, path: str, *, body: Model | None = None, query: dict[str, str] | None = None) -> M:
        raw = await self._send(method, path, body=body, query=query)
        try:
            return answer.model_validate_json(raw)
        except ValidationError as error:
            raise _malformed(path, str(error)) from error

    async def _send(self, method: str, path: str, *, body: Model | None = None, query: dict[str, str] | None = None) -> bytes:
        """One request; the answer's bytes, or Refused, or WireError.  A lost connection is made anew once, pin included."""
        headers = {"accept": f"application/json, {PROBLEM_TYPE}"}
        if body is not None:
            headers["content-type"] = "application/json"
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token()}"
        content = None if body is None else body.model_dump_json(by_alias=True, exclude_none=True).encode()
        for last in (False, True):
            http = await self._connected()
            try:
                async with http.stream(method, path, content=content, params=query, headers=headers) as response:
                    return await _read(response, path)
            except httpx.ConnectError as error:
                # Nothing was sent: the service was restarted, perhaps with a new certificate of the same key.
                await self.aclose()
                if last:
                    raise _unreachable(self._base, error) from error
            except httpx.HTTPError as error:
                await self.aclose()
                raise _unreachable(self._base, error) from error
        raise AssertionError("the loop returns or raises")

    async def _connected(self) -> httpx.AsyncClient:
        async with self._lock:
            if self._http is None:
                server = await asyncio.to_thread(pinned_context, self._host, self._port, spki_sha256=self._pin, timeout=self._timeout)
                self._http = httpx.AsyncClient(
                    base_url=self._base, verify=server.context, timeout=self._timeout, trust_env=False, limits=LIMITS
                )
            return self._http


async def _read(response: httpx.Response, path: str) -> bytes:
    raw = bytearray()
    async for chunk in response.aiter_bytes():
        raw += chunk
        if len(raw) > MAX_ANSWER_BYTES:
            raise WireError(WireReason.ANSWER_TOO_LARGE, f"the answer to {path} is over {MAX_ANSWER_BYTES} bytes", "ask for less")
    if response.is_success:
        return bytes(raw)
    if response.headers.get("content-type", "").split(";")[0].strip() == PROBLEM_TYPE:
        try:
            problem = Problem.model_validate_json(bytes(raw))
        except ValidationError as error:
            raise _malformed(path, str(error)) from error
        raise Refused(problem)
    raise _malformed(path, f"HTTP {response.status_code} {response.reason_phrase} without a problem document")


def _label(name: str) -> str:
    if not LABEL.fullmatch(name):
        raise WireError(WireReason.ANSWER_MALFORMED, f"{name[:80]!r} is not a DNS label", "key ids and policy names are DNS labels")
    return name


def _malformed(path: str, detail: str) -> WireError:
    return WireError(WireReason.ANSWER_MALFORMED, f"the answer to {path} is not what this version expects", "compare the versions", detail)


def _unreachable(base: str, error: Exception) -> WireError:
    return WireError(
        WireReason.SERVICE_UNREACHABLE,
        f"no answer from {base}",
        "check that the broker runs and that the network policy lets this process reach it",
        f"{type(error).__name__}: {error}",
    )
