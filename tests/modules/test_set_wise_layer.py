"""Sets of candidates, attended one by one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from torchrec_gr.modules.set_wise_layer import SetWiseLayer

DIM = 6


@pytest.fixture
def layer() -> SetWiseLayer:
    torch.manual_seed(0)
    return SetWiseLayer(DIM, num_heads=1, feed_forward_dim=5, max_seq_len=9).double()


def of_one_set(layer: SetWiseLayer, x: Tensor) -> Tensor:
    """LiGR's layer over tokens that all see each other."""
    ligr = layer.layer
    q, k, v = ligr.projection(layer_norm(x, (DIM,), ligr.norm.weight, ligr.norm.bias)).chunk(3, 1)
    attended = (q @ k.T / math.sqrt(DIM)).softmax(1) @ v
    x = x + ligr.output(attended) * ligr.attention_gate(x).sigmoid()
    fed = ligr.feed_forward(ligr.feed_forward_norm(x))
    return x + fed * ligr.feed_forward_gate(x).sigmoid()


@pytest.mark.parametrize(
    "rows", [[[5, 5, 7], [], [7, 5, 7, 5, 7], [5]], [[1]], [[], []], [[9, 8, 7], [7, 8, 9]]]
)
def test_a_set_is_the_candidates_of_one_row_and_one_moment(
    layer: SetWiseLayer, rows: list[list[int]]
) -> None:
    layer = layer.float()
    lengths = torch.tensor([len(row) for row in rows])
    times = torch.tensor([time for row in rows for time in row], dtype=torch.int64)
    x = torch.randn(len(times), DIM)
    result = layer(x, lengths, times)
    owners = [(row, time) for row, of_row in enumerate(rows) for time in of_row]
    expected = torch.zeros_like(x)
    for owner in set(owners):
        members = [i for i, other in enumerate(owners) if other == owner]
        expected[members] = of_one_set(layer, x[members])
    torch.testing.assert_close(result, expected)
