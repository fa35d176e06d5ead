"""Cells that blocks and states are made of, which pytoniq-core reads but does not write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell

from chrysalis.chain.dictionary import exotic, label, pruned

MERKLE_UPDATE = 4
NO_CURRENCIES = Builder().store_coins(0).store_bit_int(0).end_cell()
"""CurrencyCollection of nothing."""


@dataclass(frozen=True)
class Leaf:
    """A value of an augmented dictionary and the coins that its extra counts."""

    coins: int
    value: Builder


def depth_balance(coins: int) -> Cell:
    """DepthBalanceInfo: what the accounts' dictionary is augmented with."""
    return Builder().store_uint(0, 5).store_coins(coins).store_bit_int(0).end_cell()


def currencies(coins: int) -> Cell:
    """CurrencyCollection: what dictionaries of transactions are augmented with."""
    return Builder().store_coins(coins).store_bit_int(0).end_cell()


def augmented(entries: Mapping[int, Leaf], bits: int, extra: Callable[[int], Cell]) -> Cell:
    """HashmapAug: a cell with root and extra; entries must not be empty."""
    keys = sorted(entries)
    return _augmented([format(key, f"0{bits}b") for key in keys], [entries[key] for key in keys], bits, 0, extra)[0]


def augmented_or_empty(entries: Mapping[int, Leaf], bits: int, extra: Callable[[int], Cell]) -> Cell:
    """HashmapAugE: the same with its first bit, and empty where there is nothing."""
    if not entries:
        return Builder().store_bit_int(0).store_cell(extra(0)).end_cell()
    total = sum(leaf.coins for leaf in entries.values())
    return Builder().store_bit_int(1).store_ref(augmented(entries, bits, extra)).store_cell(extra(total)).end_cell()


def _augmented(keys: Sequence[str], leaves: Sequence[Leaf], bits: int, at: int, extra: Callable[[int], Cell]) -> tuple[Cell, int]:
    end = at
    while end < bits and keys[0][end] == keys[-1][end]:
        end += 1
    cell = label(keys[0][at:end], bits - at)
    if end == bits:
        return cell.store_cell(extra(leaves[0].coins)).store_cell(leaves[0].value.end_cell()).end_cell(), leaves[0].coins
    split = next(i for i, key in enumerate(keys) if key[end] == "1")
    left, left_coins = _augmented(keys[:split], leaves[:split], bits, end + 1, extra)
    right, right_coins = _augmented(keys[split:], leaves[split:], bits, end + 1, extra)
    total = left_coins + right_coins
    return cell.store_ref(left).store_ref(right).store_cell(extra(total)).end_cell(), total


def merkle_update(old: Cell, new: Cell) -> Cell:
    """MERKLE_UPDATE with both sides pruned: hashes and depths are all that a proof needs."""
    data = b"\x04" + old.get_hash(0) + new.get_hash(0) + old.get_depth(0).to_bytes(2, "big") + new.get_depth(0).to_bytes(2, "big")
    return exotic(data, [pruned(old), pruned(new)], MERKLE_UPDATE)


def with_pruned(cell: Cell, indexes: Sequence[int]) -> Cell:
    """The cell with some of its references replaced by pruned branches."""
    return Cell(cell.bits, [pruned(ref) if index in indexes else ref for index, ref in enumerate(cell.refs)], cell.type_)


def with_ref(cell: Cell, index: int, replacement: Cell) -> Cell:
    """The cell with one of its references replaced."""
    refs = list(cell.refs)
    refs[index] = replacement
    return Cell(cell.bits, refs, cell.type_)


def bag(roots: Sequence[Cell]) -> bytes:
    """A bag of cells with several roots (pytoniq-core writes one only)."""
    indexed: dict[Cell, None] = {}
    for root in roots:
        root.order(indexed)
    order = {cell: index for index, cell in enumerate(indexed)}
    width = (len(order).bit_length() + 7) // 8
    payload = b"".join(cell.serialize(order, width) for cell in order)
    size = (len(payload).bit_length() + 7) // 8
    head = b"\xb5\xee\x9c\x72" + bytes([width, size]) + len(order).to_bytes(width, "big") + len(roots).to_bytes(width, "big")
    listed = b"".join(order[root].to_bytes(width, "big") for root in roots)
    return head + bytes(width) + len(payload).to_bytes(size, "big") + listed + payload
