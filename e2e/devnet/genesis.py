"""The chain configuration of the devnet: the sandbox's, with our own global id and validators."""

from __future__ import annotations

from collections.abc import Sequence

from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.boc.hashmap import HashMap

GLOBAL_ID = -777
"""Not -239 (mainnet) nor -3 (testnet), so that nothing signed here means anything there."""
PARAM_GLOBAL_ID, PARAM_VALIDATORS, PARAM_SIZE_LIMITS = 19, 34, 43


def configuration(base: Cell, *, global_id: int = GLOBAL_ID, validators: Sequence[bytes] = ()) -> Cell:
    """The configuration dictionary with params 19 (global id), 43 (size limits, which the sandbox leaves out) and, where
    validators are given, 34 replaced.

    validators: raw Ed25519 public keys, all of weight 1.
    """
    params = base.begin_parse().load_hashmap(32, key_deserializer=lambda bits: int(bits, 2), value_deserializer=lambda s: s.load_ref())
    params[PARAM_GLOBAL_ID] = Builder().store_int(global_id, 32).end_cell()
    params[PARAM_SIZE_LIMITS] = _size_limits()
    if validators:
        params[PARAM_VALIDATORS] = _validator_set(validators)
    dictionary = HashMap(32, value_serializer=lambda cell, builder: builder.store_ref(cell))
    dictionary.map = params
    return dictionary.serialize()


def _size_limits() -> Cell:
    """size_limits_config#01 with mainnet's limits of a message."""
    limits = Builder().store_uint(1, 8).store_uint(1 << 21, 32).store_uint(1 << 13, 32).store_uint(1000, 32)
    return limits.store_uint(512, 16).store_uint(65_535, 32).store_uint(512, 16).end_cell()


def _validator_set(keys: Sequence[bytes]) -> Cell:
    """validators_ext#12 utime_since utime_until total main total_weight list:(HashmapE 16 ValidatorDescr)."""
    described = HashMap(16, value_serializer=lambda cell, builder: builder.store_cell(cell))
    for index, key in enumerate(keys):
        descr = Builder().store_uint(0x73, 8).store_uint(0x8E81278A, 32).store_bytes(key).store_uint(1, 64).store_bytes(bytes(32))
        described.set_int_key(index, descr.end_cell())
    count = len(keys)
    head = Builder().store_uint(0x12, 8).store_uint(0, 32).store_uint(2**32 - 1, 32).store_uint(count, 16).store_uint(count, 16)
    return head.store_uint(count, 64).store_maybe_ref(described.serialize()).end_cell()
