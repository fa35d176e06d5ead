"""The settlement contract as the chain proves it, and waiting for a change of it.  The I/O is the ChainClient's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from chrysalis.chain import compiled, contract
from chrysalis.chain.client import ChainClient
from chrysalis.chain.proof import Account
from chrysalis.chain.reasons import UNREACHABLE, ChainError, ChainReason
from chrysalis.clock import Clock

POLL_SECONDS = 1.0
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """A settlement contract at a head."""

    account: Account
    state: contract.State

    @property
    def now(self) -> int:
        """The chain's time at that head, Unix seconds: what a commit's valid_until and a root's delay are measured by."""
        return self.account.head.gen_utime

    @property
    def surplus_nanoton(self) -> int:
        """What the balance holds beyond what is owed and the reserve; negative when it must be topped up."""
        return self.account.balance_nanoton - self.state.owed_nanoton - self.state.reserve_nanoton


async def read(client: ChainClient, address: str) -> Settlement:
    """The proven state of the settlement contract at a raw address.

    Raises ChainError: ContractAbsent, ContractForeign (other code than this version knows), and the client's own.
    """
    account = await client.account(address)
    if account.code is None or account.data is None:
        raise ChainError(
            ChainReason.CONTRACT_ABSENT,
            f"there is no contract at {address} ({account.status})",
            "deploy it with `chrysalis contract deploy`, or correct the address",
        )
    if bytes(account.code.hash).hex() != compiled.CODE_HASH:
        raise ChainError(
            ChainReason.CONTRACT_FOREIGN,
            f"the contract at {address} has other code than this version of Chrysalis knows",
            "check the address; a contract of another version is read with that version",
            f"code hash {bytes(account.code.hash).hex()}, known is {compiled.CODE_HASH}",
        )
    return Settlement(account=account, state=contract.parse_state(account.data))


async def wait_until(
    client: ChainClient, address: str, probe: Callable[[Account], T | None], *, clock: Clock, seconds: float, poll: float = POLL_SECONDS
) -> T:
    """Read an account again and again until `probe` gives something else than None; that is the result.

    Servers that cannot be reached for a moment are asked again.  Raises ChainError WaitTimedOut after `seconds`.
    """
    until = clock.monotonic() + seconds
    last = ""
    while True:
        try:
            found = probe(await client.account(address))
            if found is not None:
                return found
        except ChainError as error:
            if error.reason not in UNREACHABLE:
                raise
            last = error.message
        if clock.monotonic() >= until:
            raise ChainError(
                ChainReason.WAIT_TIMED_OUT,
                f"what was waited for at {address} did not happen within {seconds:.0f} seconds",
                "look at the account again later; a message that was sent may still take effect until it expires",
                last,
            )
        await asyncio.sleep(poll)
