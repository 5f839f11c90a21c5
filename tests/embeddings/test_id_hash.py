"""Hashing raw ids to rows: the same everywhere and for ever, evenly, and each function its own."""

from __future__ import annotations

import pytest
import torch

from torchrec_gr.embeddings.id_hash import hash_ids

EDGES = [-(2**63), -(2**63) + 1, -1, 0, 1, 2, 12345678901, 2**62, 2**63 - 1]

# rows of EDGES by (num_rows, seed, function); tables on disk depend on them: they must never change
GOLDEN: dict[tuple[int, int, int], list[int]] = {
    (80000000, 0, 0): [
        79656087,
        56008421,
        36060288,
        4807871,
        6163191,
        31290745,
        15321512,
        2448660,
        14653760,
    ],
    (80000000, 0, 7): [
        70558172,
        35088735,
        44587342,
        21160074,
        66090574,
        79251288,
        66463337,
        52499098,
        74109934,
    ],
    (1000003, 42, 1): [160531, 878401, 950029, 937988, 468409, 983293, 588733, 236533, 722801],
    (1099511627776, -1, 0): [
        194806809892,
        686713579789,
        63135886883,
        975049919352,
        990930776893,
        314894242654,
        241757050454,
        360021412282,
        595789109737,
    ],
}


def splitmix(state: int) -> int:
    """The number that SplitMix64 gives for a state, in plain Python."""
    z = state & (2**64 - 1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def test_the_finaliser_is_splitmix64() -> None:
    """Its first numbers from seed 0, as its authors publish them, start the key of each function:
    the id that equals a key's xor with a state hashes to what plain Python gives."""
    gamma = 0x9E3779B97F4A7C15
    assert [hex(splitmix(k * gamma)) for k in (1, 2, 3)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]
    drawn = torch.randint(-(2**63), 2**63 - 1, (500,), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([drawn, torch.tensor(EDGES)])
    for seed in (0, 1, -5, 2**70):
        for function in (0, 1, 7):
            key = splitmix(seed + (function + 1) * gamma)
            for num_rows in (1, 2, 1000, 80_000_000, 2**31 - 1, 2**40):
                expected = [
                    _as_int64(splitmix((id % 2**64) ^ key)) % num_rows for id in ids.tolist()
                ]
                rows = hash_ids(ids, num_rows, seed=seed, function=function)
                assert rows.tolist() == expected


def _as_int64(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


@pytest.mark.parametrize("case", GOLDEN)
def test_rows_are_those_of_every_version(case: tuple[int, int, int]) -> None:
    num_rows, seed, function = case
    rows = hash_ids(torch.tensor(EDGES), num_rows, seed=seed, function=function)
    assert rows.tolist() == GOLDEN[case]


@pytest.mark.parametrize("start", [0, -50_000, 2**63 - 50_000])
@pytest.mark.parametrize("stride", [1, 1024])
def test_rows_are_drawn_evenly(start: int, stride: int) -> None:
    """Chi-squared of 100 rows under 50,000 neighbouring ids; 99 degrees of freedom, sd 14."""
    ids = start + stride * torch.arange(50_000 // stride + 5_000)
    for function in range(3):
        counts = hash_ids(ids, 100, seed=0, function=function).bincount(minlength=100)
        mean = len(ids) / 100
        chi_squared = ((counts - mean) ** 2 / mean).sum().item()
        assert 40 < chi_squared < 170


def test_functions_and_seeds_do_not_know_of_each_other() -> None:
    ids = torch.arange(20_000)
    rows = [
        hash_ids(ids, 100, seed=seed, function=function) for seed in (0, 1) for function in (0, 1)
    ]
    for i, some in enumerate(rows):
        for others in rows[:i]:
            # Of 20,000 ids, 200 would have the same row by chance; sd 14.
            assert 130 < int((some == others).sum()) < 270


def test_under_compile_and_on_odd_shapes() -> None:
    ids = torch.tensor(EDGES)
    expected = hash_ids(ids, 1_000_003, seed=3, function=1)
    compiled = torch.compile(lambda x: hash_ids(x, 1_000_003, seed=3, function=1), dynamic=True)
    assert torch.equal(compiled(ids), expected)
    assert torch.equal(compiled(ids[1:4]), expected[1:4])
    assert hash_ids(ids[:0], 7, seed=0, function=0).shape == (0,)
