"""Keys of raw ids against SipHash-2-4 and SplitMix64 written from their definitions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from torchrec_gr.schema.raw_id_keys import NO_ID, raw_id_keys

MASK = (1 << 64) - 1


def siphash(data: bytes, key: bytes = b"0123456789123456") -> int:
    """Aumasson and Bernstein, "SipHash: a fast short-input PRF", section 2."""
    k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
    state = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D]
    state += [k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(place: int, bits: int) -> None:
        state[place] = (state[place] << bits | state[place] >> (64 - bits)) & MASK

    def half(a: int, b: int, bits: int) -> None:
        state[a] = (state[a] + state[b]) & MASK
        rotate(b, bits)
        state[b] ^= state[a]

    def rounds(num: int) -> None:
        for _ in range(num):
            half(0, 1, 13)
            rotate(0, 32)
            half(2, 3, 16)
            half(0, 3, 21)
            half(2, 1, 17)
            rotate(2, 32)

    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) % 256])
    for first in range(0, len(padded), 8):
        word = int.from_bytes(padded[first : first + 8], "little")
        state[3] ^= word
        rounds(2)
        state[0] ^= word
    state[2] ^= 0xFF
    rounds(4)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


def mixed(bits: int) -> int:
    """SplitMix64's finaliser."""
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & MASK
    return bits ^ (bits >> 31)


def test_the_oracle_is_siphash() -> None:
    """The vector of the paper's appendix A."""
    assert siphash(bytes(range(15)), bytes(range(16))) == 0xA129CA6149BE45E5


def test_strings_are_hashed() -> None:
    words = ["", "a", "B0007", "ü", "a longer id, of more than eight bytes", "7 bytes", "8 bytes."]
    ids = pa.array([*words, None], pa.large_string())
    keys = raw_id_keys(ids)
    assert keys.dtype == np.int64
    expected = [mixed(siphash(word.encode())) for word in words]
    assert [int(key) & MASK for key in keys[:-1]] == expected
    assert keys[-1] == NO_ID
    assert np.array_equal(raw_id_keys(pa.chunked_array([ids.slice(0, 3), ids.slice(3)])), keys)


def test_integers_are_their_own_keys() -> None:
    ids = pa.array([0, None, 7, (1 << 63) - 1], pa.int64())
    assert raw_id_keys(ids).tolist() == [0, NO_ID, 7, (1 << 63) - 1]
    assert raw_id_keys(pa.chunked_array([ids, ids])).tolist() == [*raw_id_keys(ids)] * 2
    assert raw_id_keys(ids.slice(0, 0)).tolist() == []
    assert raw_id_keys(pa.array([], pa.large_string())).tolist() == []


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="int64 or large_string, got double"):
        raw_id_keys(pa.array([0.5]))
