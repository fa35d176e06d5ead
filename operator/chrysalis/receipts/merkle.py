"""The Merkle tree of RFC 9162 (section 2.1) over SHA-256: tree hash, inclusion proofs and their verification.

An entry of the receipt log is the 32-byte SHA-256 of a receipt's compact JWS; its leaf hash is SHA-256(0x00 ‖ entry).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from chrysalis.receipts.reasons import ReceiptError, ReceiptReason

EMPTY = hashlib.sha256(b"").digest()
"""The root of the tree without entries."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(entries: Sequence[bytes]) -> bytes:
    """The tree hash of the entries in order."""
    return _root([leaf_hash(e) for e in entries])


def inclusion_proof(entries: Sequence[bytes], index: int) -> list[bytes]:
    """The path that proves that entries[index] stands in the tree of all of them; raises IndexError outside of it."""
    if not 0 <= index < len(entries):
        raise IndexError(f"no entry {index} in a tree of {len(entries)}")
    level, path = [leaf_hash(e) for e in entries], []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level, index = _above(level), index >> 1
    return path


def verify_inclusion(entry: bytes, index: int, size: int, path: Sequence[bytes], expected_root: bytes) -> None:
    """RFC 9162, section 2.1.3.2; raises ReceiptError unless the path proves the entry at that index of a tree of that size."""
    if not 0 <= index < size:
        raise _invalid(f"no entry {index} in a tree of {size}")
    first, last, hashed = index, size - 1, leaf_hash(entry)
    for sibling in path:
        if last == 0:
            raise _invalid("the path is longer than the tree is high")
        if first & 1 or first == last:
            hashed = node_hash(sibling, hashed)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            hashed = node_hash(hashed, sibling)
        first, last = first >> 1, last >> 1
    if last != 0 or hashed != expected_root:
        raise _invalid("the path leads to another root")


def _root(level: list[bytes]) -> bytes:
    if not level:
        return EMPTY
    while len(level) > 1:
        level = _above(level)
    return level[0]


def _above(level: list[bytes]) -> list[bytes]:
    """One level up: pairs are joined, and an odd last node rises as it is (equal to RFC 9162's split at a power of two)."""
    joined = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    return joined + level[-1:] if len(level) & 1 else joined


def _invalid(detail: str) -> ReceiptError:
    return ReceiptError(
        ReceiptReason.INCLUSION_PROOF_INVALID,
        "the proof does not show the receipt in the log",
        "get the proof again for this epoch",
        detail,
    )
