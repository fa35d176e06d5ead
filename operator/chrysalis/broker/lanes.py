"""Places for attestations, and a queue before them that is fair to networks of every width, not to whoever has most addresses."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from chrysalis.broker.reasons import BrokerError, BrokerReason

QUEUE_SECONDS = 5.0
"""For an attestation to wait for its place."""

Turn = asyncio.Future[None]


@dataclass
class _Node:
    """A network that somebody waits in: its parts, in turn, or at the end of a path its attempts, in order."""

    parts: OrderedDict[str, _Node] = field(default_factory=OrderedDict)
    turns: deque[Turn] = field(default_factory=deque)
    count: int = 0


class Lane:
    """Some places, and a bounded queue before them; used on one event loop only.

    Whoever waits has a path: from the widest network around it down to its address.  A place that becomes free goes to the networks
    in turn, within a network to its parts in turn, and so on: of two providers each gets half of the places, however many networks
    and addresses one of them uses, and within a provider the same holds for its customers.

    When the queue is full, the newcomer takes the place of the last attempt of whoever has most: the widest network with the most
    attempts, within it the part with the most.  Where that is not more than the newcomer's own, the newcomer is refused.
    """

    def __init__(self, places: int, queue: int) -> None:
        self._free = places
        self._most = queue
        self._root = _Node()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._root.count

    def admits(self, path: tuple[str, ...]) -> bool:
        """Whether somebody of this path may wait now."""
        return bool(self._free) or self.waiting < self._most or self._longest(path) is not None

    @contextlib.asynccontextmanager
    async def place(self, path: tuple[str, ...]) -> AsyncIterator[None]:
        """A place, for as long as the block runs; raises BrokerError (Busy)."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(path)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, path: tuple[str, ...]) -> None:
        if self.waiting >= self._most:
            self._displace(path)
        turn: Turn = asyncio.get_running_loop().create_future()
        for node in self._line(path):
            node.count += 1
        node.turns.append(turn)
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # the place came in the same moment
            else:
                self._forget(path, turn)
            if isinstance(error, TimeoutError):
                raise busy() from error
            raise

    def _line(self, path: tuple[str, ...]) -> Iterator[_Node]:
        """The nodes of a path, from the root on, made where they are missing."""
        node = self._root
        yield node
        for name in path:
            node = node.parts.setdefault(name, _Node())
            yield node

    def _pass_on(self) -> None:
        """Give a place to the next in turn, or keep it free."""
        while self.waiting:
            node, path = self._root, list[str]()
            while node.parts:
                name, part = next(iter(node.parts.items()))
                node.parts.move_to_end(name)
                path.append(name)
                node = part
            turn = node.turns[0]
            self._forget(tuple(path), turn)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _longest(self, path: tuple[str, ...]) -> tuple[str, ...] | None:
        """The path of whoever has to make room for a newcomer of this path; None where nobody has."""
        node, found, own = self._root, list[str](), True
        while node.parts:
            name = max(node.parts, key=lambda name: node.parts[name].count)
            mine = path[len(found)] if own and len(found) < len(path) else ""
            if own and name != mine:
                held = node.parts[mine].count if mine in node.parts else 0
                if node.parts[name].count > held + 1:
                    own = False
                elif held:
                    name = mine  # nobody else has more: room is made among the newcomer's own neighbours
                else:
                    return None
            found.append(name)
            node = node.parts[name]
        return None if own else tuple(found)

    def _displace(self, path: tuple[str, ...]) -> None:
        longest = self._longest(path)
        if longest is None:
            raise busy()
        *_, node = self._line(longest)
        last = node.turns[-1]
        self._forget(longest, last)
        if not last.done():
            last.set_exception(busy())

    def _forget(self, path: tuple[str, ...], turn: Turn) -> None:
        line, node = [self._root], self._root
        for name in path:
            if name not in node.parts:
                return
            node = node.parts[name]
            line.append(node)
        if turn not in node.turns:
            return
        node.turns.remove(turn)
        for held in line:
            held.count -= 1
        for name, outer, inner in zip(reversed(path), reversed(line[:-1]), reversed(line[1:]), strict=True):
            if not inner.count:
                del outer.parts[name]


def busy() -> BrokerError:
    """There is no place for an attestation."""
    return BrokerError(BrokerReason.BUSY, "too many attestations at once", "try again in a second")
