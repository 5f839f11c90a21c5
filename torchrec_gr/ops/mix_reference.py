"""The hash of ids, as csrc/mix.h has it, on Python's integers."""

from __future__ import annotations

_MASK = 2**64 - 1


def mix(x: int) -> int:
    """A bijection of the integers from 0 to 2^64 - 1."""
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD & _MASK
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return x ^ x >> 33


def hash_id(id_: int, salt: int) -> int:
    """One hash out of many, told apart by a salt: from 0 to 2^64 - 1, as are ids modulo 2^64."""
    return mix((id_ & _MASK) ^ mix(salt & _MASK))
