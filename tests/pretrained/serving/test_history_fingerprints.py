"""Two fingerprints are equal where the events are, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.pretrained.serving.history_fingerprints import history_fingerprints


def feature(rows: list[list[int]], dtype: torch.dtype = torch.int64) -> JaggedTensor:
    values = torch.tensor([value for row in rows for value in row], dtype=dtype)
    return JaggedTensor(values, lengths=torch.tensor([len(row) for row in rows]))


def test_any_difference_counts() -> None:
    rows = [[1, 2, 3], [1, 2], [2, 1, 3], [1, 2, 3, 0], [], [0], [0, 0], [2**40 + 1], [1], [-1]]
    found = history_fingerprints([feature(rows)])
    assert len(set(found)) == len(rows)
    zeros = [[0] * len(row) for row in rows]
    assert not set(found) & set(history_fingerprints([feature(rows), feature(zeros)]))
    first, second = feature([[1, 2], [3, 4]]), feature([[3, 4], [1, 2]])
    assert history_fingerprints([first, second]) != history_fingerprints([second, first])


def test_company_and_dtype_do_not_count() -> None:
    together = history_fingerprints([feature([[5], [1, 2], [], [1, 2]])])
    assert together[1] == together[3] == history_fingerprints([feature([[1, 2]])])[0]
    assert together == history_fingerprints([feature([[5], [1, 2], [], [1, 2]], torch.int32)])


def test_features_of_one_history_have_its_length() -> None:
    with pytest.raises(ValueError, match="as many values in each row"):
        history_fingerprints([feature([[1, 2], [3]]), feature([[1], [2, 3]])])
