"""AUC against its definition: every pair of a positive and a negative, counted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrec_gr.metrics import auc


def auc_by_pairs(labels: np.ndarray, scores: np.ndarray) -> float:
    wins = 0.0
    positives, negatives = scores[labels == 1], scores[labels == 0]
    for positive in positives:
        for negative in negatives:
            wins += 1.0 if positive > negative else 0.5 if positive == negative else 0.0
    return wins / (len(positives) * len(negatives))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=60).filter(
        lambda rows: len({label for label, _ in rows}) == 2
    )
)
def test_equals_the_share_of_pairs_won(rows: list[tuple[int, int]]) -> None:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    assert auc(labels, scores) == pytest.approx(auc_by_pairs(labels, scores), abs=1e-15)
    # and nothing but the order counts
    assert auc(labels, np.exp(scores.astype(np.float64))) == auc(labels, scores)


def test_untied_floats_equal_the_share_of_pairs_won() -> None:
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 400), generator.normal(size=400)
    assert auc(labels, scores) == pytest.approx(auc_by_pairs(labels, scores), abs=1e-15)


def test_large_counts_do_not_overflow() -> None:
    labels = np.arange(400_000) % 2
    assert auc(labels.astype(np.int8), labels.astype(np.float32)) == 1.0
    assert auc(labels, np.zeros(400_000, np.float32)) == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_takes_tensors_of_any_precision(dtype: torch.dtype) -> None:
    scores = torch.tensor([0.5, -1.0, 2.0, 0.5], dtype=dtype, requires_grad=True)
    assert auc(torch.tensor([1.0, 0.0, 1.0, 0.0]), scores) == 0.875


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1], [0.1, 0.2], "all 2 labels are 1"),
        ([0], [0.1], "all 1 labels are 0"),
        ([], [], "no rows"),
        ([0, 2, 1], [0.1, 0.2, 0.3], "row 1 holds"),
        ([0.0, np.nan], [0.1, 0.2], "row 1 holds"),
        ([0, 1], [0.1], "1 for 2 labels"),
        ([0, 1], [0.1, np.nan], "row 1 is NaN"),
        ([[0, 1]], [[0.1, 0.2]], "one dimension"),
    ],
)
def test_refuses_what_has_no_auc(labels: list, scores: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(np.array(labels), np.array(scores))
