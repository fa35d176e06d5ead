"""Files: liteservers in both forms, seeds; and the wallet's cells."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pytoniq.contract.wallets.wallet import WalletV4R2

from chrysalis.chain import servers, wallet
from chrysalis.chain.reasons import ChainError, ChainReason
from chrysalis.chain.signer import SeedSigner

KEY = "ab" * 32
OWN = {"liteservers": [{"host": "10.0.0.1", "port": 4000, "key": KEY}], "minServers": 1, "globalId": -777}
GLOBAL = {
    "@type": "config.global",
    "liteservers": [
        {"ip": -2018135749, "port": 53312, "id": {"@type": "pub.ed25519", "key": base64.b64encode(bytes.fromhex(KEY)).decode()}}
    ],
}


def write(path: Path, document: Any) -> Path:
    file = path / "chain.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return file


def test_both_forms_are_read(tmp_path: Path) -> None:
    own = servers.load(write(tmp_path, OWN))
    assert (own.min_servers, own.global_id, own.liteservers[0].port) == (1, -777, 4000)
    theirs = servers.load(write(tmp_path, GLOBAL))
    assert (theirs.min_servers, theirs.global_id) == (2, -239)
    assert (theirs.liteservers[0].host, theirs.liteservers[0].key) == ("135.181.177.59", KEY)


def without(**changes: Any) -> dict[str, Any]:
    return {"liteservers": [OWN["liteservers"][0] | changes]}


BAD = [
    ("not JSON", "{"),
    ("not an object", "[]"),
    ("no liteservers", {}),
    ("an empty list", {"liteservers": []}),
    ("a short key", without(key="ab")),
    ("a port of 0", without(port=0)),
    ("minServers of 0", OWN | {"minServers": 0}),
    ("a global config without keys", {"liteservers": [{"ip": 1, "port": 2, "id": {}}]}),
    ("nested too deep", "[" * 100_000),
]


@pytest.mark.parametrize(("name", "document"), BAD, ids=[row[0] for row in BAD])
def test_files_of_liteservers_that_are_not_read(tmp_path: Path, name: str, document: Any) -> None:
    with pytest.raises(ChainError) as refused:
        servers.load(write(tmp_path, document))
    assert refused.value.reason == ChainReason.CELL_MALFORMED


@pytest.mark.parametrize("form", ["raw", "hex", "hex with a newline"])
def test_seeds(tmp_path: Path, form: str) -> None:
    seed = secrets.token_bytes(32)
    file = tmp_path / "seed"
    file.write_bytes({"raw": seed, "hex": seed.hex().encode(), "hex with a newline": seed.hex().encode() + b"\n"}[form])
    signer = SeedSigner.from_file(file)
    assert signer.public_key == SeedSigner(seed).public_key
    Ed25519PublicKey.from_public_bytes(signer.public_key).verify(signer.sign(b"x"), b"x")


@pytest.mark.parametrize("data", [b"", b"abandon " * 24, b"\x00" * 31, b"00" * 33], ids=["empty", "a mnemonic", "short", "long"])
def test_files_that_are_no_seeds(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "seed"
    file.write_bytes(data)
    with pytest.raises(ChainError) as refused:
        SeedSigner.from_file(file)
    assert refused.value.reason == ChainReason.SEED_INVALID


def test_the_wallet_is_pytoniqs() -> None:
    signer = SeedSigner(secrets.token_bytes(32))
    init = wallet.wallet_state_init(signer.public_key)
    data = WalletV4R2.create_data_cell(public_key=signer.public_key, wallet_id=wallet.WALLET_ID, wc=0)
    assert init.data.hash == data.hash
    assert wallet.wallet_address(signer.public_key) == "0:" + init.serialize().hash.hex()
    assert wallet.wallet_seqno(init.data) == wallet.wallet_seqno(None) == 0


@pytest.mark.parametrize(("count", "fine"), [(0, False), (1, True), (4, True), (5, False)])
def test_a_wallet_sends_one_to_four_messages(count: int, fine: bool) -> None:
    signer = SeedSigner(secrets.token_bytes(32))
    transfers = [wallet.Transfer(to="0:" + "11" * 32, value_nanoton=1)] * count
    if fine:
        body = wallet.wallet_body(signer, seqno=1, valid_until=2, transfers=transfers)
        signature = body.begin_parse().load_bytes(64)
        assert len(signature) == 64
        assert len(body.refs) == count
    else:
        with pytest.raises(ValueError, match="1 to 4"):
            wallet.wallet_body(signer, seqno=1, valid_until=2, transfers=transfers)
