"""TON dictionaries (HashmapE 256, TL-B `hashmap.tlb`): build, read, prove.  Pure; imports no network.

Built here and not with pytoniq-core's HashMap: a leaf's proof, a proof of absence and a bound on what a stranger's
dictionary may make us do need the walk itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.slice import Slice
from pytoniq_core.boc.tvm_bitarray import TvmBitarray

from chrysalis.chain.reasons import ChainError, ChainReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

KEY_BITS = 256
MAX_ENTRIES = 15_000
"""The most entries that the contract takes (settlement.md, limits); a dictionary with more is refused."""
ORDINARY, PRUNED, MERKLE_PROOF = -1, 1, 3


@dataclass(frozen=True)
class Edge:
    """One cell of a dictionary, taken apart: its label, and what follows it."""

    label: str  # '0' and '1'
    rest: int  # key bits below the label; 0 at a leaf
    body: Slice  # a leaf's value, or a fork's two references


def build(entries: Mapping[bytes, int], store: Callable[[Builder, int], Builder]) -> Cell | None:
    """The root cell of a dictionary from 32-byte keys to values; None when it is empty."""
    if not entries:
        return None
    keys = sorted(entries)
    if any(len(key) != KEY_BITS // 8 for key in keys):
        raise ValueError("keys have 32 bytes")
    return _edge([format(int.from_bytes(key, "big"), f"0{KEY_BITS}b") for key in keys], [entries[key] for key in keys], 0, store)


def _edge(keys: Sequence[str], values: Sequence[int], at: int, store: Callable[[Builder, int], Builder]) -> Cell:
    """The cell of sorted keys that agree in their first `at` bits."""
    first, last = keys[0], keys[-1]
    end = at
    while end < KEY_BITS and first[end] == last[end]:
        end += 1
    cell = label(first[at:end], KEY_BITS - at)
    if end == KEY_BITS:
        return store(cell, values[0]).end_cell()
    split = next(i for i, key in enumerate(keys) if key[end] == "1")
    left = _edge(keys[:split], values[:split], end + 1, store)
    right = _edge(keys[split:], values[split:], end + 1, store)
    return cell.store_ref(left).store_ref(right).end_cell()


def label(bits: str, limit: int) -> Builder:
    """A builder that starts with the shortest of the three encodings of a label (hml_short, hml_long, hml_same)."""
    count, width = len(bits), limit.bit_length()
    short, long, same = 2 * count + 2, 2 + width + count, 3 + width
    builder = Builder()
    if count > 1 and len(set(bits)) == 1 and same < min(short, long):
        return builder.store_bits("11" + bits[0]).store_uint(count, width)
    if long < short:
        return builder.store_bits("10").store_uint(count, width).store_bits(bits)
    return builder.store_bits("0" + "1" * count + "0" + bits)


def edge(cell: Cell, limit: int) -> Edge:
    """Take one ordinary cell of a dictionary apart; limit: the key bits that it and what is below it decide."""
    if cell.type_ != ORDINARY:
        raise _malformed("a cell on the way is pruned or exotic")
    body = cell.begin_parse()
    try:
        if not body.load_bit():
            count = 0
            while body.load_bit():
                count += 1
            bits = _bits(body, count)
        elif not body.load_bit():
            bits = _bits(body, body.load_uint(limit.bit_length()))
        else:
            bit = str(body.load_bit())
            bits = bit * body.load_uint(limit.bit_length())
    except Exception as error:  # pytoniq-core raises many kinds for a slice that is too short
        raise _malformed(f"a label cannot be read: {error}") from error
    if len(bits) > limit:
        raise _malformed(f"a label of {len(bits)} bits where {limit} remain")
    return Edge(bits, limit - len(bits), body)


def _bits(body: Slice, count: int) -> str:
    if count > body.remaining_bits:
        raise ValueError(f"{count} bits are announced and {body.remaining_bits} are there")
    return body.load_bits(count).to01() if count else ""


def find(root: Cell | None, key: bytes) -> Slice | None:
    """The value's slice under a key; None when the dictionary *proves* that the key is absent.

    Works on pruned dictionaries; raises ChainError (DictionaryMalformed) where the way to the key is pruned away or
    is no dictionary.
    """
    path = _path(root, key)
    return path[-1][1].body if path and path[-1][1].rest == 0 and _covers(path, key) else None


def prove(root: Cell | None, key: bytes) -> Cell:
    """A Merkle proof cell of the path to a key: every branch beside it is pruned.  ChainError WalletNotInRoot when absent."""
    path = _path(root, key)
    if not path or path[-1][1].rest != 0 or not _covers(path, key):
        raise ChainError(
            ChainReason.WALLET_NOT_IN_ROOT,
            f"the dictionary has no entry for 0:{key.hex()}",
            "check the wallet; a wallet that has earned nothing yet has no entry, and a newer epoch may have one",
        )
    return merkle_proof(_without_branches(path, path[-1][0]))


def partial(root: Cell, key: bytes, end: Callable[[Cell], Cell] = lambda cell: cell) -> Cell:
    """The dictionary with every branch beside the way to a key pruned, present or absent; end: applied to the last cell."""
    path = _path(root, key)
    return _without_branches(path, end(path[-1][0]))


def _without_branches(path: Sequence[tuple[Cell, Edge, int]], cell: Cell) -> Cell:
    for parent, _, right in reversed(path[:-1]):
        refs = list(parent.refs)
        refs[right], refs[1 - right] = cell, pruned(refs[1 - right])
        cell = Cell(parent.bits, refs, ORDINARY)
    return cell


def _path(root: Cell | None, key: bytes) -> list[tuple[Cell, Edge, int]]:
    """The cells from the root to where the way to the key ends, each with its parts and the side taken after it."""
    if root is None:
        return []
    bits, at, cell = format(int.from_bytes(key, "big"), f"0{KEY_BITS}b"), 0, root
    path: list[tuple[Cell, Edge, int]] = []
    while True:
        parted = edge(cell, KEY_BITS - at)
        at += len(parted.label)
        if parted.rest == 0 or bits[at - len(parted.label) : at] != parted.label:
            path.append((cell, parted, 0))
            return path
        right = int(bits[at])
        path.append((cell, parted, right))
        if len(cell.refs) < 2:
            raise _malformed("a fork without two branches")
        cell = cell.refs[right]
        at += 1


def _covers(path: Sequence[tuple[Cell, Edge, int]], key: bytes) -> bool:
    """Whether the labels and turns of a path that ends at a leaf spell the key."""
    spelled = "".join(parted.label + (str(right) if parted.rest else "") for _, parted, right in path)
    return spelled == format(int.from_bytes(key, "big"), f"0{KEY_BITS}b")


def items(root: Cell | None, *, limit: int = MAX_ENTRIES) -> Iterator[tuple[bytes, Slice]]:
    """All keys with their values' slices, in order; ChainError beyond `limit` entries or on anything that is no dictionary."""
    stack = [(root, "")] if root is not None else []
    count = 0
    while stack:
        cell, prefix = stack.pop()
        parted = edge(cell, KEY_BITS - len(prefix))
        prefix += parted.label
        if parted.rest == 0:
            count += 1
            if count > limit:
                raise _malformed(f"more than {limit} entries")
            yield int(prefix, 2).to_bytes(KEY_BITS // 8, "big"), parted.body
            continue
        if len(cell.refs) != 2 or parted.body.remaining_bits:
            raise _malformed("a fork is two branches and nothing else")
        stack.append((cell.refs[1], prefix + "1"))
        stack.append((cell.refs[0], prefix + "0"))


def pruned(cell: Cell) -> Cell:
    """The pruned branch of level 1 that stands for a cell."""
    data = b"\x01\x01" + cell.get_hash(0) + cell.get_depth(0).to_bytes(2, "big")
    return exotic(data, [], PRUNED)


def merkle_proof(cell: Cell) -> Cell:
    """The Merkle proof cell over a (partly pruned) tree."""
    data = b"\x03" + cell.get_hash(0) + cell.get_depth(0).to_bytes(2, "big")
    return exotic(data, [cell], MERKLE_PROOF)


def exotic(data: bytes, refs: Sequence[Cell], kind: int) -> Cell:
    """An exotic cell of whole bytes."""
    bits = TvmBitarray(1023)
    bits.frombytes(data)
    return Cell(bits, list(refs), kind)


def _malformed(detail: str) -> ChainError:
    return ChainError(
        ChainReason.DICTIONARY_MALFORMED,
        "the dictionary is malformed or pruned where it is needed",
        "get the epoch's earned.boc again; it must hash to the root on chain",
        detail,
    )
