"""The worker's offers: its measured prices, signed by its receipt key.

A ticket pins an offer by hash and stays good until the offer ends, so earlier offers are kept, on the same storage as the
receipts.  An offer that still has half of its life is made again by nobody: clients' tickets stay stable over renewals.
"""

from __future__ import annotations

from pathlib import Path

from chrysalis.api.initdata import MeasuredIdentity
from chrysalis.clock import Clock, unix
from chrysalis.receipts import jws
from chrysalis.receipts.objects import Offer, PriceList
from chrysalis.receipts.reasons import ReceiptError
from chrysalis_worker.keys import DomainKeys

FILE = "offers.jws"
LIFE_SECONDS = 24 * 3600


class OfferBook:
    """All offers of this domain, by hash; the last one is current."""

    def __init__(self, folder: Path, domain: DomainKeys, identity: MeasuredIdentity, clock: Clock) -> None:
        self._path = folder / FILE
        self._domain = domain
        self._identity = identity
        self._clock = clock
        self._tokens: dict[str, str] = {}
        self._offers: dict[str, Offer] = {}
        for line in self._path.read_text().splitlines() if self._path.exists() else []:
            try:
                self._add(line, Offer.parse(line, domain.receipt_public))
            except ReceiptError:
                continue  # cut short by a kill; nobody was given it

    def current(self) -> str:
        """The offer to show, a compact token; a new one when half of the last one's life is over."""
        now = unix(self._clock.now())
        if self._offers:
            token, offer = list(self._tokens.values())[-1], list(self._offers.values())[-1]
            if now >= offer.iat and now < offer.exp - LIFE_SECONDS // 2:
                return token
        offer = Offer(
            set=self._identity.set,
            wrk=self._domain.wrk,
            model=self._identity.model.name,
            digest=self._identity.model.digest,
            prices=PriceList.of(self._identity.prices),
            address="",  # found through Kubernetes in this version
            sni="",
            iat=now,
            exp=now + LIFE_SECONDS,
        )
        token = offer.sign(self._domain.receipt)
        with self._path.open("a") as file:
            file.write(token + "\n")
        self._add(token, offer)
        return token

    def find(self, digest: str) -> Offer | None:
        """The offer with this hash, expired or not."""
        return self._offers.get(digest)

    def tokens(self, hashes: set[str]) -> list[str]:
        """The compact offers of these hashes, as far as they are this domain's."""
        return [token for digest, token in self._tokens.items() if digest in hashes]

    def _add(self, token: str, offer: Offer) -> None:
        digest = jws.identity(token)
        self._tokens[digest] = token
        self._offers[digest] = offer
