"""MTGR's dynamic mask against its rules, token by token."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.sequences.dense_masks import Token, assert_same, mask_of, masks_of, offsets_of, tokens
from torchrec_gr.sequences.request_batch import NO_TIME
from torchrec_gr.sequences.visibility import mtgr

Row = tuple[int, list[int], list[int]]
"""Static tokens, times of real-time tokens in rising order, times of candidates."""


def _sees(query: Token, key: Token) -> bool:
    if key.kind == "candidate":
        return False
    if key.kind == "static":
        return True
    if query.kind == "static":
        return False
    if query.kind == "candidate":
        return key.time < query.time
    return key.time <= query.time


def _check(rows: list[Row], dtype: torch.dtype) -> None:
    expected, times = [], []
    for num_static, real_time, candidates in rows:
        expected.append(
            mask_of(
                _sees,
                tokens("static", num_static)
                + [Token("real-time", i, t) for i, t in enumerate(real_time)]
                + [Token("candidate", i, t) for i, t in enumerate(candidates)],
            )
        )
        # The times of static tokens are noise that nobody may read.
        noise = [NO_TIME, torch.iinfo(torch.int64).max, 2]
        times += noise[:num_static] + real_time + candidates
    offsets = offsets_of([len(mask) for mask in expected], dtype)
    spans = mtgr(
        offsets,
        torch.tensor([num_static for num_static, _, _ in rows], dtype=dtype),
        torch.tensor([len(real_time) for _, real_time, _ in rows], dtype=dtype),
        torch.tensor(times, dtype=torch.int64),
    )
    assert_same(masks_of(spans, offsets), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("latest", [4, 10**9], ids=["many ties", "hardly a tie"])
def test_random_rows(latest: int, dtype: torch.dtype) -> None:
    rng = random.Random(0)

    def times(largest_count: int) -> list[int]:
        return [rng.randint(0, latest) for _ in range(rng.randint(0, largest_count))]

    _check([(rng.randint(0, 3), sorted(times(5)), times(4)) for _ in range(2000)], dtype)


_times = st.lists(
    st.sampled_from([NO_TIME + 1, NO_TIME + 2, -1, 0, 1, -NO_TIME - 2, -NO_TIME - 1])
    | st.integers(NO_TIME + 1, -NO_TIME - 1),
    max_size=5,
)


@example([(0, [5], [6, 7])])
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), _times.map(sorted), _times), min_size=1, max_size=5))
def test_times_of_any_size(rows: list[Row]) -> None:
    _check(rows, torch.int64)


OFFSETS, ONE = torch.tensor([0, 4]), torch.tensor([1])


@pytest.mark.parametrize(
    ("message", "num_static", "num_real_time", "times"),
    [
        ("num_static: .* got 5 at index 0", 5, 0, [0, 1, 2, 3]),
        ("num_static: .* got -1 at index 0", -1, 2, [0, 1, 2, 3]),
        ("num_real_time: .* got 4 at index 0", 1, 4, [0, 1, 2, 3]),
        ("num_real_time: .* got -1 at index 0", 1, -1, [0, 1, 2, 3]),
        ("times: .* oldest first, got 1 at index 2", 1, 2, [0, 2, 1, 3]),
        ("times: expected the time .* at index 1", 1, 2, [NO_TIME, NO_TIME, 1, 3]),
        ("offsets: expected to end at 3, .* got 4", 1, 2, [0, 1, 2]),
        (r"times: expected \[T\] int64", 1, 2, [0.0, 1.0, 2.0, 3.0]),
    ],
)
def test_what_is_wrong_is_named(
    message: str, num_static: int, num_real_time: int, times: list[int]
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        mtgr(OFFSETS, ONE * num_static, ONE * num_real_time, torch.tensor(times))
