"""Golden byte vectors of the signed objects: what this code makes equals docs/wire/receipts.json, byte for byte.

`python tests/receipts/test_vectors.py` writes the file again, for a deliberate change of the format.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chrysalis.receipts import jws, merkle, pricing, salted, worker_id
from chrysalis.receipts.objects import (
    ClientList,
    Close,
    ListedClient,
    Offer,
    PartyToken,
    PriceList,
    Receipt,
    ReceiptKeyCertificate,
    SettlerToken,
    SignedObject,
    Status,
    Ticket,
    Use,
)

FILE = Path(__file__).resolve().parents[2] / "docs/wire/receipts.json"
SEEDS = {"receipt": b"\x01" * 32, "client": b"\x02" * 32, "reservation": b"\x03" * 32, "ear": b"\x04" * 32}
SET = "-239:0:" + "ab" * 32


def build() -> dict[str, Any]:
    keys = {name: Ed25519PrivateKey.from_private_bytes(seed) for name, seed in SEEDS.items()}
    public = {name: key.public_key().public_bytes_raw() for name, key in keys.items()}
    wrk = worker_id(public["receipt"])
    salt, request, response = bytes(range(32)), b'{"input":"cat"}', b'{"data":[]}'
    digest = "sha256:" + hashlib.sha256(b"model").hexdigest()
    prices = PriceList(prompt=2_000_000_001, job=7)
    offer = Offer(
        set=SET,
        wrk=wrk,
        model="minilm",
        digest=digest,
        prices=prices,
        address="10.0.0.1:8443",
        sni="",
        iat=1_800_000_000,
        exp=1_800_003_600,
    )
    offer_token = offer.sign(keys["receipt"])
    ticket = Ticket(
        set=SET,
        wrk=wrk,
        offer=jws.identity(offer_token),
        exp=1_800_000_600,
        nonce=jws.b64u(bytes(range(16))),
        digest=digest,
        max=1_000_000,
        req=salted.request_hash(salt, request),
    )
    ticket_token = ticket.sign(keys["client"])
    use = Use(prompt=321, job=1)
    receipt = Receipt(
        set=SET,
        wrk=wrk,
        seq=1,
        prev=wrk,
        offer=jws.identity(offer_token),
        ticket=ticket_token,
        use=use,
        amt=pricing.amount(use, prices, ticket.max),
        status=Status.DONE,
        rsp=salted.response_hash(salt, response),
        t=1_800_000_100,
    )
    objects: list[tuple[SignedObject, str]] = [
        (offer, "receipt"),
        (
            ClientList(set=SET, keys=[ListedClient(key=public["client"].hex(), cap=5_000_000_000)], iat=1_800_000_000, exp=1_800_086_400),
            "reservation",
        ),
        (ticket, "client"),
        (receipt, "receipt"),
        (Close(res="cd" * 32, total=641_999, t=1_800_000_700), "receipt"),
        (
            ReceiptKeyCertificate(
                receipt_key=public["receipt"].hex(),
                set=SET,
                wallet="0:" + "ef" * 32,
                reservation_keys=[public["reservation"].hex()],
                result_id="01890000-0000-7000-8000-000000000000",
                nbf=1_800_000_000,
                exp=1_800_003_600,
            ),
            "ear",
        ),
        (SettlerToken(aud=wrk, iat=1_800_000_000, exp=1_800_000_060), "reservation"),
        (PartyToken(aud=SET, iat=1_800_000_000, exp=1_800_000_060), "client"),
    ]
    entries = [hashlib.sha256(bytes([n])).digest() for n in range(7)]
    return {
        "schemaVersion": "chrysalis/v1",
        "about": "Golden vectors of settlement's signed objects. Seeds are public test values; amounts in nanoton.",
        "keys": {n: {"seed": SEEDS[n].hex(), "public": public[n].hex(), "kid": jws.thumbprint(public[n])} for n in SEEDS},
        "wrk": wrk,
        "objects": [
            {"typ": o.TYP, "signer": s, "claims": o.claims(), "token": o.sign(keys[s]), "identity": jws.identity(o.sign(keys[s]))}
            for o, s in objects
        ],
        "salted": {"salt": salt.hex(), "request": request.hex(), "req": ticket.req, "response": response.hex(), "rsp": receipt.rsp},
        "prices": [
            {"use": {"prompt": str(p), "job": str(j)}, "prices": {"prompt": str(pp), "job": str(pj)}, "max": str(m), "amt": str(a)}
            for p, j, pp, pj, m in [
                (321, 1, 2_000_000_001, 7, 1_000_000),
                (1, 1, 999_999, 0, 10),
                (1, 1, 999_999, 1, 10),
                (10, 0, 10**6, 0, 3),
            ]
            for a in [pricing.amount(Use(prompt=p, job=j), PriceList(prompt=pp, job=pj), m)]
        ],
        "fees": [
            {"amt": str(a), "bps": b, "fee": str(pricing.fee(a, b))} for a, b in [(641_999, 500), (19, 500), (20, 500), (1, 10_000), (7, 0)]
        ],
        "merkle": {
            "entries": [e.hex() for e in entries],
            "roots": [merkle.root(entries[:n]).hex() for n in range(8)],
            "path5of7": [p.hex() for p in merkle.inclusion_proof(entries, 5)],
        },
    }


def test_the_code_reproduces_the_golden_vectors() -> None:
    assert build() == json.loads(FILE.read_text())


OWN = [cls for cls in SignedObject.__subclasses__() if cls.__module__ == SignedObject.__module__]  # others may be imported elsewhere


@pytest.mark.parametrize("cls", OWN, ids=lambda c: c.TYP)
def test_every_type_has_a_vector_that_parses_and_signs_to_the_same_bytes(cls: type[SignedObject]) -> None:
    document = json.loads(FILE.read_text())
    (vector,) = [v for v in document["objects"] if v["typ"] == cls.TYP]
    key = document["keys"][vector["signer"]]
    parsed = cls.parse(vector["token"], bytes.fromhex(key["public"]))
    assert parsed.claims() == vector["claims"]
    assert parsed.sign(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["seed"]))) == vector["token"]


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
