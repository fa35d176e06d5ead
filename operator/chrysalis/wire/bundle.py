"""The evidence bundle: one file with everything that a verdict rests on, to be judged again offline, at any time.

The file is canonical JSON (members sorted, no space between them, UTF-8) and one newline, so that one content has one form,
and the bundle's digest is the SHA-256 of the file as it lies on the disk.  It proves nothing by itself:
chrysalis.wire.bundle_judgement judges it.  docs/wire/bundle.md describes it, docs/wire/bundle.schema.json is its JSON Schema.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from chrysalis import strict_json
from chrysalis.api.base import Hex32, InUtc, Model
from chrysalis.api.policy import AttestationPolicySpec, Envelope, Placement
from chrysalis.api.worker import Isolation
from chrysalis.attestation.freshness import Freshness, FreshnessMode, Revocation
from chrysalis.receipts import jws
from chrysalis.receipts.objects import Digest, Seconds, SignedObject
from chrysalis.receipts.reasons import ReceiptError
from chrysalis.wire.broker import Evidence, NamedReason
from chrysalis.wire.bundle_answers import AnswersOf
from chrysalis.wire.gpu import GpuAnswers
from chrysalis.wire.reasons import WireError, WireReason
from chrysalis.wire.recalls import MAX_LIST_BYTES

SCHEMA: Literal["chrysalis/bundle/v1"] = "chrysalis/bundle/v1"
MEDIA_TYPE = "application/vnd.chrysalis.bundle.v1+json"
MAX_BUNDLE_BYTES = 8 * 1024 * 1024
MAX_WIDE_BYTES = 1024 * 1024
"""Of a file with anything but ASCII: one such character makes every copy of the text four times as large.  What is large in a bundle is
ASCII (base64, hexadecimal, PEM, Intel's documents)."""
MAX_CONTAINERS, MAX_ITEMS = 20_000, 50_000
"""Brackets and commas in a file, those in its texts included: each object and list takes a hundred times the room of its two brackets.
A bundle has some thousands, most of them in the TCB info."""
MAX_COLLATERAL_CHARACTERS = 4 * 1024 * 1024
MAX_TOKEN_CHARACTERS = 16 * 1024


class BundlePolicy(Model):
    """What the evidence was judged under: the owner's signed bytes or, where nobody signed it, the policy itself."""

    envelope: Envelope | None = None
    unsigned: AttestationPolicySpec | None = None

    @model_validator(mode="after")
    def _one_policy(self) -> BundlePolicy:
        if (self.envelope is None) == (self.unsigned is None):
            raise ValueError("give exactly one of envelope and unsigned")
        return self


class BundleResult(Model):
    """The verdict as it was recorded.  The tokens are signed; the members beside them are a readable copy."""

    result_id: Annotated[str, Field(max_length=36)] = ""
    verdict: Literal["Accepted", "Refused"]
    reasons: Annotated[list[NamedReason], Field(max_length=256)] = []
    evidence_class: Annotated[str, Field(max_length=16)] = ""
    tcb_status: Annotated[str, Field(max_length=64)] = ""
    measurement_name: Annotated[str, Field(max_length=63)] = ""
    expires_at: Annotated[AwareDatetime, InUtc] | None = None
    limited_by: Annotated[str, Field(max_length=64)] = ""
    revoked_at: Annotated[AwareDatetime, InUtc] | None = None
    ear: Annotated[str, Field(max_length=MAX_TOKEN_CHARACTERS)] = ""
    receipt_certificate: Annotated[str, Field(max_length=MAX_TOKEN_CHARACTERS)] = ""


class BundleBroker(Model):
    """The broker that judged: where it runs, and its public keys."""

    placement: Placement
    spki_sha256: Hex32
    ear_key: Hex32


class BundleVerification(Model):
    """How a client had verified the worker when it made the bundle: a readable record that nothing signs."""

    mode: FreshnessMode
    freshness: Freshness
    revocation: Revocation
    evidence_class: Annotated[str, Field(max_length=16)]
    isolation: Isolation
    judged_by: Literal["Client", "Broker"]  # who compared the evidence with the policy
    gpu_answers: AnswersOf | None = None  # whose answers of NVIDIA's services are enclosed; bundles of earlier versions do not say


class Bundle(Model):
    """Evidence, collateral, policy, result and times.

    source says who put it together and so whose nonce the evidence carries: Broker (the broker's, spent at once), Client (a
    client's own where `verification.mode` is fresh-quote, else the broker's), Files (somebody's; not known).
    """

    schema_version: Literal["chrysalis/bundle/v1"] = SCHEMA
    source: Literal["Broker", "Client", "Files"]
    made_at: Annotated[AwareDatetime, InUtc]
    judged_at: Annotated[AwareDatetime, InUtc]  # whole seconds: of the recorded verdict, and of judging again unless another is asked for
    evidence: Evidence
    collateral: Annotated[str, Field(max_length=MAX_COLLATERAL_CHARACTERS)]  # QuoteCollateralV3 JSON, byte for byte
    gpu_answers: GpuAnswers | None = None  # of NVIDIA's services, where they were asked
    policy: BundlePolicy | None = None  # absent where the attempt failed before a policy was found
    result: BundleResult | None = None
    broker: BundleBroker | None = None
    verification: BundleVerification | None = None  # of source Client alone
    recalls: Annotated[str, Field(max_length=MAX_LIST_BYTES)] = ""  # the broker's list of recalled signing keys when this was made
    statement: Annotated[str, Field(max_length=MAX_TOKEN_CHARACTERS)] = ""  # BundleStatement by the broker's EAR key

    @model_validator(mode="after")
    def _times_are_whole(self) -> Bundle:
        if self.judged_at.microsecond:
            raise ValueError("judgedAt is in whole seconds")
        return self

    @model_validator(mode="after")
    def _verification_is_a_clients(self) -> Bundle:
        if self.verification is not None and self.source != "Client":
            raise ValueError("verification stands in the bundles of clients alone")
        return self


class BundleStatement(SignedObject):
    """The broker's word for a whole bundle: `digest` is that of the bundle without `statement`."""

    TYP: ClassVar[str] = "chrysalis-bundle+jwt"

    digest: Digest
    result_id: str
    iat: Seconds


def to_bytes(bundle: Bundle) -> bytes:
    """The file: the one form of this content."""
    return canonical(bundle.to_json_dict())


def digest(file: bytes) -> str:
    """sha256:<hex> of a bundle's file."""
    return "sha256:" + hashlib.sha256(file).hexdigest()


def stated(bundle: Bundle, key: jws.SigningKey, iat: int) -> Bundle:
    """The bundle with the broker's statement over everything else in it."""
    bare = bundle.model_copy(update={"statement": ""})
    result_id = bundle.result.result_id if bundle.result else ""
    return bare.model_copy(update={"statement": BundleStatement(digest=bare_digest(bare), result_id=result_id, iat=iat).sign(key)})


def bare_digest(bundle: Bundle) -> str:
    """What a statement signs: the digest of the bundle without its statement."""
    return digest(canonical({name: value for name, value in bundle.to_json_dict().items() if name != "statement"}))


class BundleFile:
    """A bundle as it was read: the model, and the digests of the very bytes (a later version may know more members)."""

    def __init__(self, bundle: Bundle, digest: str, bare_digest: str) -> None:
        self.bundle = bundle
        self.digest = digest
        self.bare_digest = bare_digest

    @classmethod
    def read(cls, file: bytes) -> Self:
        """Read a file; raises WireError: BundleTooLarge, BundleMalformed (also for any other form of the same content)."""
        limit = MAX_BUNDLE_BYTES if file.isascii() else MAX_WIDE_BYTES
        if len(file) > limit:
            wide = "" if limit == MAX_BUNDLE_BYTES else ", and is not all ASCII"
            raise WireError(
                WireReason.BUNDLE_TOO_LARGE,
                f"the bundle has more than {limit} bytes{wide}",
                "give one evidence bundle, as `chrysalis bundle` or a broker wrote it",
            )
        try:
            if file.count(b"{") + file.count(b"[") > MAX_CONTAINERS or file.count(b",") > MAX_ITEMS:
                raise ValueError(f"it has more than {MAX_CONTAINERS} objects and lists, or {MAX_ITEMS} members and items")
            document = strict_json.loads(file, whole=True)
            if not isinstance(document, dict):
                raise ValueError("not one JSON object")
            if document.get("schemaVersion") != SCHEMA:
                raise ValueError(f"schemaVersion is {str(document.get('schemaVersion'))[:64]!r}; this version reads {SCHEMA!r}")
            if canonical(document) != file:
                raise ValueError("not in canonical form (sorted members, no spaces, one newline at the end)")
            bundle = Bundle.model_validate(document, by_alias=True, by_name=False)
        except ValidationError as error:
            found = error.errors(include_input=False, include_url=False, include_context=False)
            raise _malformed("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in found[:8])[:1024]) from None
        except strict_json.MemberTwice:
            raise _malformed("a member stands there twice") from None
        except (ValueError, RecursionError) as error:
            raise _malformed(str(error)[:1024]) from error
        bare = {name: value for name, value in document.items() if name != "statement"}
        return cls(bundle, digest(file), digest(canonical(bare)))


def canonical(document: dict[str, Any]) -> bytes:
    """Canonical JSON and a newline; raises ValueError for what has none (lone surrogates, NaN)."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return b"%b\n" % text.encode()


def token_claim(token: str, *path: str) -> str:
    """A text claim of a JWT without checking anything, for a readable copy beside the token; "" where there is none."""
    try:
        found: Any = json.loads(jws.from_b64u(token.split(".")[1]))
        for name in path:
            found = found[name]
    except (ValueError, LookupError, TypeError, RecursionError, ReceiptError):
        return ""
    return found if isinstance(found, str) else ""


def _malformed(detail: str) -> WireError:
    return WireError(
        WireReason.BUNDLE_MALFORMED,
        "this is not an evidence bundle of this version",
        "give the file as `chrysalis bundle` or the broker wrote it, unchanged",
        detail,
    )
