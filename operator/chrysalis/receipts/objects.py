"""The signed objects of settlement, one model for each `typ` (settlement.md, wire format).

In Python amounts and counters are ints; on the wire they are decimal strings, times are integer seconds, hashes lower-case
hex.  `parse` takes only the wire form and only under the right key.  `sign` gives the compact token.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, ValidationInfo, model_validator

from chrysalis import amounts
from chrysalis.api.base import Model
from chrysalis.api.worker import Prices
from chrysalis.receipts import jws
from chrysalis.receipts.reasons import ReceiptError, ReceiptReason

MAX_CLIENTS = 1000
MAX_TICKET_CHARACTERS = 4096


def _amount(value: object, info: ValidationInfo) -> int:
    return amounts.parse(value) if info.mode == "json" else amounts.amount(value)


Amount = Annotated[int, BeforeValidator(_amount), PlainSerializer(str)]
"""An int in [0, 2^63) in Python, a decimal string on the wire: nanoton, or a counter."""
Seconds = Annotated[int, Field(ge=0, lt=1 << 53)]
"""Unix seconds."""
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 value, lower-case hex."""
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A raw Ed25519 public key, lower-case hex."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
SetName = Annotated[str, Field(pattern=r"^(none|-?[0-9]{1,10}:0:[0-9a-f]{64})$")]
"""Which contract settles: "<global_id>:0:<hex64>", or "none"."""
Nonce = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{21}[AQgw]$")]
"""16 bytes, base64url without padding and with zero trailing bits."""
Wallet = Annotated[str, Field(pattern=r"^(|0:[0-9a-f]{64})$")]


class SignedObject(Model):
    """What all signed objects share: strict types, a `typ`, and one way each to sign and to parse."""

    model_config = ConfigDict(strict=True)
    TYP: ClassVar[str]

    def claims(self) -> dict[str, Any]:
        """The payload's members, in the order of the definition."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def sign(self, key: jws.SigningKey) -> str:
        """The compact token."""
        return jws.sign(self.TYP, self.claims(), key)

    @classmethod
    def parse(cls, token: str, public_key: bytes) -> Self:
        """Check signature, type and every member; raises ReceiptError.  Times are not judged here."""
        return cls._read(jws.open_verified(token, cls.TYP, public_key))

    @classmethod
    def parse_unverified(cls, token: str) -> Self:
        """Read without checking the signature, to learn whose object it claims to be; proves nothing."""
        opened = jws.peek(token)
        if opened.typ != cls.TYP:
            raise ReceiptError(
                ReceiptReason.OBJECT_TYPE_UNEXPECTED,
                f"the token's typ is {opened.typ[:64]!r}, not {cls.TYP!r}",
                "use the object that belongs here",
            )
        return cls._read(opened)

    @classmethod
    def _read(cls, opened: jws.Opened) -> Self:
        try:
            return cls.model_validate_json(opened.payload, by_alias=True, by_name=False)
        except (ValidationError, ValueError, RecursionError) as error:
            raise ReceiptError(
                ReceiptReason.OBJECT_MALFORMED,
                f"the members of this {cls.TYP} are not what they must be",
                "get the object again from the part that signed it",
                str(error)[:1024],
            ) from error


class PriceList(Model):
    """Nanoton for one million units of each kind (of `job`: for one million jobs)."""

    prompt: Amount = 0
    cached: Amount = 0
    completion: Amount = 0
    reasoning: Amount = 0
    job: Amount = 0

    @classmethod
    def of(cls, prices: Prices) -> PriceList:
        """The wire form of a worker's configured prices."""
        return cls(**prices.model_dump())


class Use(Model):
    """What a job used, in units of each kind."""

    prompt: Amount = 0
    cached: Amount = 0
    completion: Amount = 0
    reasoning: Amount = 0
    job: Amount = 0


class Offer(SignedObject):
    """A worker's prices and address; signed by its receipt key.  A new price is a new offer."""

    TYP = "chrysalis-offer+jwt"

    set: SetName
    wrk: Hash
    model: Annotated[str, Field(min_length=1, max_length=63)]
    digest: Digest
    prices: PriceList
    address: Annotated[str, Field(max_length=512)]
    sni: Annotated[str, Field(max_length=253)]
    iat: Seconds
    exp: Seconds


class ListedClient(Model):
    """A client key on an account's allow-list, and what it may spend at one worker in a UTC day, in nanoton."""

    key: Key
    cap: Amount


class ClientList(SignedObject):
    """The clients whose tickets the owner pays for; signed by a reservation key."""

    TYP = "chrysalis-clients+jwt"

    set: SetName
    keys: Annotated[list[ListedClient], Field(max_length=MAX_CLIENTS)]
    iat: Seconds
    exp: Seconds

    @model_validator(mode="after")
    def _a_key_stands_once(self) -> Self:
        if len({c.key for c in self.keys}) != len(self.keys):
            raise ValueError("a key stands twice in the list")
        return self


class Ticket(SignedObject):
    """A client's consent to one job, without a reservation (OwnerFunded); signed by the client's key."""

    TYP = "chrysalis-ticket+jwt"

    res: Literal["none"] = "none"
    set: SetName
    wrk: Hash
    offer: Hash
    exp: Seconds
    nonce: Nonce
    digest: Digest
    max: Amount
    req: Hash


class Status(StrEnum):
    """How a job ended; `failed` bills nothing, `cancelled` and `exhausted` bill what was delivered."""

    DONE = "done"
    CANCELLED = "cancelled"
    EXHAUSTED = "exhausted"
    FAILED = "failed"


class Receipt(SignedObject):
    """What a finished job used and costs; the links of a worker's hash chain; signed by its receipt key.

    `ticket` is the client's compact token, or "" where `set` is "none" (an in-house pool has no tickets).
    """

    TYP = "chrysalis-receipt+jwt"

    set: SetName
    wrk: Hash
    seq: Amount
    prev: Hash
    res: Literal["none"] = "none"
    offer: Hash
    ticket: Annotated[str, Field(max_length=MAX_TICKET_CHARACTERS)]
    use: Use
    amt: Amount
    status: Status
    rsp: Hash
    t: Seconds

    @model_validator(mode="after")
    def _paid_jobs_carry_their_ticket(self) -> Self:
        if (self.set == "none") != (self.ticket == ""):
            raise ValueError("a receipt carries a ticket exactly when its set is a contract")
        if self.seq < 1:
            raise ValueError("seq counts from 1")
        return self


class Close(SignedObject):
    """A worker's word that no more receipts come for a reservation; signed by its receipt key."""

    TYP = "chrysalis-close+jwt"

    res: Hash
    total: Amount
    t: Seconds


class ReceiptKeyCertificate(SignedObject):
    """The broker's word that a receipt key lives in an appraised domain, and for whose wallet; signed by the EAR key."""

    TYP = "chrysalis-receipt-key+jwt"

    receipt_key: Key
    set: SetName
    wallet: Wallet
    reservation_keys: Annotated[list[Key], Field(max_length=2)]
    result_id: Annotated[str, Field(max_length=36)]
    nbf: Seconds
    exp: Seconds


class SettlerToken(SignedObject):
    """The settler's bearer token at one worker (aud = wrk); signed by a reservation key."""

    TYP = "chrysalis-settler+jwt"

    aud: Hash
    iat: Seconds
    exp: Seconds


class PartyToken(SignedObject):
    """A party's bearer token at the settler, for its own receipts; signed by a client's or a reservation key (aud = set)."""

    TYP = "chrysalis-party+jwt"

    aud: SetName
    iat: Seconds
    exp: Seconds


def check_time(what: str, now: int, *, exp: int, not_before: int = 0, leeway: int = 0) -> None:
    """Refuse an object outside its time; `now`, `exp`, `not_before` in Unix seconds; valid while not_before ≤ now < exp."""
    if now >= exp + leeway:
        raise ReceiptError(
            ReceiptReason.OBJECT_EXPIRED,
            f"the {what} has expired",
            "ask its signer for a new one, and compare the clocks",
            f"exp {exp}, now {now}",
        )
    if now < not_before - leeway:
        raise ReceiptError(
            ReceiptReason.OBJECT_NOT_YET_VALID, f"the {what} is from the future", "compare the clocks", f"from {not_before}, now {now}"
        )
