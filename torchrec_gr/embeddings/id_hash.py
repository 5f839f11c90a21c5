"""Which row of a table of fixed size an id of any value is hashed to."""

from __future__ import annotations

from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31


def hash_ids(ids: Tensor, num_rows: int, *, seed: int, function: int) -> Tensor:
    """Hashes raw ids to rows, by one of a family of functions.

    A function is SplitMix64's finaliser of the id xor a key; the key of function k is the k-th
    number of SplitMix64 started with the seed. So rows follow from the arguments alone, on every
    device and in every process. Rows are drawn from all 64 bits: no row is favoured by more than
    num_rows / 2**64.

    Args:
        ids: [n] int64, of any value.
        num_rows: of the table, at least 1; no power of two is needed.
        seed: of the family, any integer.
        function: which one, from 0.

    Returns:
        [n] int64 in [0, num_rows).

    Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, with
    Stafford's 13th set of constants.
    """
    key = _mix_number(seed + (function + 1) * _GAMMA)
    return _mix(ids ^ _signed(key)) % num_rows


def _mix(hashed: Tensor) -> Tensor:
    for shift, factor in _ROUNDS:
        hashed = (hashed ^ _logical_shift(hashed, shift)) * _signed(factor)
    return hashed ^ _logical_shift(hashed, _LAST_SHIFT)


def _logical_shift(bits: Tensor, shift: int) -> Tensor:
    """Shifts right and fills with zeros, where torch fills with copies of the sign."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)


def _mix_number(number: int) -> int:
    """`_mix` of a Python integer, of whose bits the lowest 64 count."""
    number %= 1 << 64
    for shift, factor in _ROUNDS:
        number = (number ^ (number >> shift)) * factor % (1 << 64)
    return number ^ (number >> _LAST_SHIFT)


def _signed(bits: int) -> int:
    """The int64 of these 64 bits."""
    return bits - (1 << 64) if bits >> 63 else bits
