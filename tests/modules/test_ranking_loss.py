"""Binary cross-entropy, its units and its errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.modules.impression_ranker import ImpressionRanker
from torchrec_gr.modules.ranking_loss import RankingLoss
from torchrec_gr.sequences.request_batch import ImpressionBatch


def test_mean_over_weights_and_tasks() -> None:
    logits = torch.tensor([[0.3, -2.0], [1.5, 0.1], [4.0, 4.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    loss, output = RankingLoss()(logits, labels, torch.tensor([1.0, 1.0, 0.0]))
    p = torch.sigmoid(logits[:2]).detach()
    expected = -(labels[:2] * p.log() + (1 - labels[:2]) * (1 - p).log())
    torch.testing.assert_close(loss.detach(), expected.mean())
    torch.testing.assert_close(output.loss_sum, expected.sum())
    assert float(output.num_units) == 4
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[2].abs().max() == 0


def test_rows_that_only_fill_up_teach_nothing() -> None:
    logits = torch.randn(2, 1, requires_grad=True)
    loss, output = RankingLoss()(logits, torch.ones(2, 1), torch.zeros(2))
    assert float(loss.detach()) == 0
    assert float(output.num_units) == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.zeros(2, 1))


def test_no_candidates() -> None:
    logits = torch.zeros(0, 1, requires_grad=True)
    loss, output = RankingLoss()(logits, torch.zeros(0, 1))
    assert float(loss.detach()) == 0
    assert float(output.num_units) == 0
    loss.backward()


def test_without_labels_only_scores() -> None:
    logits = torch.randn(3)
    _, output = RankingLoss()(logits, None)
    assert output.labels is None
    torch.testing.assert_close(output.logits, logits.unsqueeze(1))
    assert float(output.num_units) == 0


def test_wrong_shapes_say_so() -> None:
    with pytest.raises(ValueError, match=r"\(3, 1\) do not fit labels of shape \(2, 1\)"):
        RankingLoss()(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"weights: expected one a candidate, shape \(3,\)"):
        RankingLoss()(torch.zeros(3), torch.zeros(3), torch.zeros(2))


class _DenseOnly(nn.Module):
    def forward(self, dense_features: torch.Tensor, _: KeyedJaggedTensor) -> torch.Tensor:
        return dense_features.sum(dim=1)


def test_impression_ranker_takes_logits_without_a_task_axis() -> None:
    dense = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
    labels = torch.tensor([1.0, 0.0])
    batch = ImpressionBatch(
        dense_features=dense,
        sparse_features=KeyedJaggedTensor.empty(),
        labels=labels,
        weights=torch.ones(2),
        user_ids=torch.zeros(2).long(),
        source_rows=torch.arange(2),
    )
    loss, output = ImpressionRanker(_DenseOnly())(batch)
    expected = nn.functional.binary_cross_entropy_with_logits(dense.sum(dim=1), labels)
    torch.testing.assert_close(loss, expected)
    assert output.logits is not None
    assert output.logits.shape == output.labels.shape == (2, 1)
