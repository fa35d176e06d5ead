"""Spending from a wallet: send, and know from proven state that it was sent.  The key is a Signer that is passed in."""

from __future__ import annotations

from chrysalis.amounts import ton
from chrysalis.chain.client import ChainClient
from chrysalis.chain.proof import Account
from chrysalis.chain.reasons import ChainError, ChainReason
from chrysalis.chain.settlement import wait_until
from chrysalis.chain.signer import Signer
from chrysalis.chain.wallet import VALID_SECONDS, Transfer, wallet_address, wallet_body, wallet_seqno, wallet_state_init
from chrysalis.clock import Clock

FEES_NANOTON = 20_000_000
"""Kept back for the wallet's own fees when it is asked whether the balance is enough."""


class Purse:
    """A v4r2 wallet that one program spends from (two at once would use the same sequence number)."""

    def __init__(self, client: ChainClient, signer: Signer, clock: Clock) -> None:
        self._client, self._signer, self._clock = client, signer, clock
        self.address = wallet_address(signer.public_key)

    async def account(self) -> Account:
        """The wallet's proven state."""
        return await self._client.account(self.address)

    async def spend(self, transfers: list[Transfer], *, seconds: float = VALID_SECONDS) -> Account:
        """Send 1 to 4 messages and wait until the wallet has sent them; its state from *before*.

        Deploys the wallet with its first message.  Raises ChainError: BalanceTooLow, MessageRefused, WaitTimedOut (then it
        is certain only after `seconds` that the message can no longer take effect).
        """
        before = await self.account()
        needed = sum(transfer.value_nanoton for transfer in transfers) + FEES_NANOTON
        if before.balance_nanoton < needed:
            raise ChainError(
                ChainReason.BALANCE_TOO_LOW,
                f"the wallet {self.address} holds {ton(before.balance_nanoton)} and {ton(needed)} are needed",
                "send the wallet the difference and try again",
            )
        seqno = wallet_seqno(before.data)
        body = wallet_body(self._signer, seqno=seqno, valid_until=before.head.gen_utime + VALID_SECONDS, transfers=transfers)
        init = None if before.active else wallet_state_init(self._signer.public_key)
        await self._client.send_external(self.address, body, init)

        def sent(account: Account) -> Account | None:
            return account if account.active and wallet_seqno(account.data) > seqno else None

        await wait_until(self._client, self.address, sent, clock=self._clock, seconds=seconds)
        return before
