"""`python -m e2e.devnet.vectors`: the golden bytes of the contract's cells, to docs/wire/settlement-cells.json.

Written once; the tests of chrysalis.chain and those of the contract in the TVM both compare with the file.  Keys and
addresses are constants here, because bytes that never change are the point.
"""

from __future__ import annotations

import json
from typing import Any

from pytoniq_core.boc.address import Address
from pytoniq_core.boc.cell import Cell
from pytoniq_core.tlb.transaction import MessageAny

from chrysalis.chain import contract
from chrysalis.chain.client import external_message
from chrysalis.chain.contract import Commit, CommitContent, Policy
from chrysalis.chain.signer import SeedSigner
from e2e.cache import REPOSITORY
from e2e.devnet.genesis import configuration
from e2e.devnet.ledger import Ledger, internal_message
from e2e.devnet.tvm import Tvm

FILE = REPOSITORY / "docs" / "wire" / "settlement-cells.json"
SIGNER = SeedSigner(bytes(range(32)))
ACCOUNT = bytes.fromhex("11" * 32)
POLICY = Policy(
    global_id=-777,
    owner="0:" + "aa" * 32,
    guardian="0:" + "bb" * 32,
    fee_bps=200,
    delay_seconds=10_800,
    min_interval_seconds=10_800,
    per_epoch_cap_nanoton=1_000_000_000_000,
)
LEAVES = {
    bytes.fromhex("00" * 31 + "01"): 1,
    bytes.fromhex("22" * 32): 1_500_000_000,
    bytes.fromhex("22" * 31 + "23"): 2_000_000_000,
    bytes.fromhex("ff" * 32): (1 << 39) - 1,
}
CLAIMANT = bytes.fromhex("22" * 32)
COMMITTED_AT = 1_800_000_000
CLAIMED_AT = COMMITTED_AT + POLICY.delay_seconds


def commit() -> Commit:
    """Epoch 1 of the vectors."""
    content = CommitContent(
        epoch=1,
        prev=contract.ZERO_HASH,
        root=contract.earned_root(LEAVES),
        earned_nanoton=sum(LEAVES.values()),
        fees_nanoton=10_000_000,
        log_root=bytes.fromhex("33" * 32),
        log_size=21,
    )
    return Commit(global_id=POLICY.global_id, contract=ACCOUNT, valid_until=COMMITTED_AT + 300, content=content)


def encoded() -> dict[str, Any]:
    """Every cell as chrysalis.chain writes it: bags of cells and hashes in hexadecimal."""
    one = commit()
    earned = contract.earned_cell(LEAVES)
    return {
        "initialData": contract.initial_data(POLICY, SIGNER.public_key).to_boc().hex(),
        "policy": POLICY.cell().to_boc().hex(),
        "earned": contract.earned_boc(earned).hex(),
        "earnedRoot": contract.root_hash(earned).hex(),
        "content": one.content.to_boc().hex(),
        "contentHash": one.content.hash.hex(),
        "commitHash": one.hash.hex(),
        "commitBody": one.signed_body(SIGNER.sign(one.hash)).to_boc().hex(),
        "claimBody": contract.claim_body(CLAIMANT, earned, 7).to_boc().hex(),
        "topUpBody": contract.top_up_body(7).to_boc().hex(),
        "setPausedBody": contract.set_paused_body(True, 7).to_boc().hex(),
        "rotateBody": contract.rotate_body(ACCOUNT, 7).to_boc().hex(),
        "cancelBody": contract.cancel_body(7).to_boc().hex(),
        "withdrawFeesBody": contract.withdraw_fees_body(5, 7).to_boc().hex(),
        "requestSurplusBody": contract.request_surplus_body(5, 7).to_boc().hex(),
        "withdrawSurplusBody": contract.withdraw_surplus_body(7).to_boc().hex(),
    }


def after(steps: dict[str, str]) -> dict[str, Any]:
    """The whole file; steps: what the TVM made of it (data after the commit, after the claim)."""
    return {
        "schemaVersion": 1,
        "about": "cells of contracts/settlement_root.tolk; bags of cells in hexadecimal; see operator/chrysalis/chain/contract.py",
        "signerSeed": bytes(range(32)).hex(),
        "contract": ACCOUNT.hex(),
        "committedAt": COMMITTED_AT,
        "claimedAt": CLAIMED_AT,
        "claimant": CLAIMANT.hex(),
        "leaves": {key.hex(): str(value) for key, value in LEAVES.items()},
        "cells": encoded(),
        "states": steps,
    }


def run_in_tvm() -> dict[str, str]:
    """Place the contract, run commit and claim of the vectors in the TVM, and read its data after each."""
    cells = encoded()
    address = "0:" + ACCOUNT.hex()
    with Tvm() as tvm:
        ledger = Ledger(tvm, configuration(tvm.default_config(), global_id=POLICY.global_id))
        ledger.place(ACCOUNT, contract.state_init(POLICY, SIGNER.public_key), 1 << 42, COMMITTED_AT)

        def data() -> str:
            init = ledger.state(ACCOUNT)
            assert init is not None
            return str(init.data.to_boc().hex())

        ledger.run(external_message(address, Cell.one_from_boc(bytes.fromhex(cells["commitBody"]))), COMMITTED_AT)
        committed = data()
        claim = Cell.one_from_boc(bytes.fromhex(cells["claimBody"]))
        source = Address((0, CLAIMANT))
        done = ledger.run(internal_message(source=source, destination=Address(address), value=10**9, body=claim), CLAIMED_AT)
        payout = done.sent[0]
        return {"afterCommit": committed, "afterClaim": data(), "payout": _body(payout)}


def _body(message: Cell) -> str:
    return str(MessageAny.deserialize(message.begin_parse()).body.to_boc().hex())


if __name__ == "__main__":
    FILE.write_text(json.dumps(after(run_in_tvm()), indent=1) + "\n")
