"""contract.commit and contract.claim: gas in the real TVM, against the bound and the prototype's figures of settlement.md.

Gas is the invariant; what it costs in nanoton follows the chain's configuration.
"""

from __future__ import annotations

import secrets
import statistics

from bench import Row
from chrysalis.chain.client import external_message
from chrysalis.chain.contract import CLAIM_VALUE_NANOTON, account_id, claim_body, earned_cell
from chrysalis.chain.signer import SeedSigner
from chrysalis.chain.wallet import Transfer, wallet_address, wallet_body, wallet_state_init
from e2e.devnet.ledger import Executed
from e2e.devnet.pool import TON, Pool
from e2e.devnet.tvm import Tvm

IDS = ("contract.commit", "contract.claim")
WALLETS = 100
ROUNDS = 5
COMMIT_GAS = 9_000
"""All checks of a commit stay below this: an external message has a credit of 10,000."""
CLAIM_NANOTON = 10_150_000
"""What a claim cost in all at 100 wallets in the prototype (settlement.md)."""


def measure() -> list[Row]:
    """Gas of a commit that promotes (the dearer kind), and of a claim among a hundred wallets; the worst of five."""
    commits: list[int] = []
    claims: list[int] = []
    costs: list[int] = []
    with Tvm() as tvm:
        for _ in range(ROUNDS):
            pool, signer = Pool(tvm), SeedSigner(secrets.token_bytes(32))
            own = account_id(wallet_address(signer.public_key))
            pool.ledger.place(own, wallet_state_init(signer.public_key), TON, pool.now)
            leaves = {wallet: TON // 100 for wallet in [own, *(secrets.token_bytes(32) for _ in range(WALLETS - 1))]}
            pool.commit(leaves, fees=TON // 1000)
            pool.activate()
            leaves = {wallet: amount + TON // 100 for wallet, amount in leaves.items()}
            commits.append(pool.commit(leaves, fees=TON // 1000).gas_used)
            pool.activate()
            done = _claim(pool, signer, leaves)
            claims.append(next(transaction.gas_used for transaction in done if transaction.account == pool.account))
            costs.append(TON + leaves[own] - pool.ledger.balance(own))
    commit, claim, cost = max(commits), max(claims), statistics.median(costs)
    return [
        Row(
            id="contract.commit",
            value=float(commit),
            unit="gas",
            reference=f"bound of its checks: {COMMIT_GAS} gas",
            ratio=commit / COMMIT_GAS,
            reach="< 1.00 ×",
            ok=commit < COMMIT_GAS,
        ),
        Row(
            id="contract.claim",
            value=float(claim),
            unit="gas",
            reference=f"all fees of the wallet {cost / 1e6:.2f}M nanoton; prototype {CLAIM_NANOTON / 1e6:.2f}M",
            ratio=cost / CLAIM_NANOTON,
            reach=None,  # the prototype let what the message had left go with the payout; here it comes back, in a message more
            ok=None,
        ),
    ]


def _claim(pool: Pool, signer: SeedSigner, leaves: dict[bytes, int]) -> list[Executed]:
    """The wallet claims for itself: its own transaction, the contract's, and what comes back."""
    address = wallet_address(signer.public_key)
    body = claim_body(account_id(address), earned_cell(leaves))
    transfer = Transfer(to=pool.address, value_nanoton=CLAIM_VALUE_NANOTON, body=body)
    order = wallet_body(signer, seqno=0, valid_until=0, transfers=[transfer])
    return pool.ledger.drain(external_message(address, order), pool.now)
