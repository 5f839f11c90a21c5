"""The ids that the benchmarks of tables read."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.embeddings.traffic import raw_ids, scatter_rows, zipf_ranks


def test_a_rank_is_met_in_proportion_to_its_inverse() -> None:
    ranks = zipf_ranks(400_000, 1_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(ranks, minlength=1_000).double()
    expected = (1 / torch.arange(1, 1_001).double()).log1p() / math.log(1_001)
    assert torch.allclose(counts[:100] / 400_000, expected[:100], rtol=0.15)
    assert counts[500:].sum() / 400_000 == pytest.approx(0.1, abs=0.01)


def test_ranks_end_with_the_last_id() -> None:
    assert zipf_ranks(1_000, 1, torch.Generator().manual_seed(0)).unique().tolist() == [0]
    drawn = zipf_ranks(10_000, 5, torch.Generator().manual_seed(0))
    assert drawn.unique().tolist() == [0, 1, 2, 3, 4]


def test_each_rank_has_a_row_of_its_own_and_neighbours_lie_apart() -> None:
    rows = scatter_rows(torch.arange(1 << 12), 1 << 12)
    assert rows.sort().values.tolist() == list(range(1 << 12))
    assert rows[:100].diff().abs().min() > 100
    with pytest.raises(ValueError, match="power of two, got 100"):
        scatter_rows(torch.arange(10), 100)


def test_raw_ids_differ_and_have_any_sign() -> None:
    ids = raw_ids(torch.arange(10_000))
    assert len(ids.unique()) == len(ids)
    assert (ids < 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert ids.abs().max() > 2**62
