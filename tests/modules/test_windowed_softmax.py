"""The windowed softmax against loops over a prediction's positives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchrec_gr.modules.cosine_softmax import sampled_softmax
from torchrec_gr.modules.windowed_softmax import windowed_softmax

TEMPERATURE = 0.1


def inputs(
    num_predictions: int, num_positives: int, num_negatives: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Predictions, a table of ten rows, positives, whose they are, and negatives."""
    draw = torch.Generator().manual_seed(num_positives)
    prediction = torch.randint(max(num_predictions, 1), (num_positives,), generator=draw)
    prediction[:num_predictions] = torch.arange(num_predictions)  # one each at least
    ids, negative_ids = (
        torch.randint(10, (n,), generator=draw) for n in (num_positives, num_negatives)
    )
    predictions = torch.randn(num_predictions, 4, generator=draw)
    return predictions, torch.randn(10, 4, generator=draw), ids, prediction, negative_ids


@pytest.mark.parametrize("sizes", [(5, 12, 9), (3, 3, 40), (1, 6, 0), (4, 4, 1), (0, 0, 5)])
def test_it_is_the_smallest_loss_of_the_positives(sizes: tuple[int, int, int]) -> None:
    predictions, table, ids, prediction, negative_ids = inputs(*sizes)
    leaves = [predictions.requires_grad_(), table.requires_grad_()]
    negatives = table[negative_ids]
    found = windowed_softmax(
        predictions, table[ids], ids, prediction, negatives, negative_ids, TEMPERATURE
    )
    smallest = []
    for g in range(sizes[0]):
        own = [p for p in range(sizes[1]) if prediction[p] == g]
        answers = {int(ids[p]) for p in own}
        others = [n for n in range(sizes[2]) if int(negative_ids[n]) not in answers]
        losses = []
        for p in own:
            rows = torch.cat([table[ids[p : p + 1]], negatives[others]])
            logits = torch.cosine_similarity(predictions[g], rows, dim=1) / TEMPERATURE
            losses.append(-logits.log_softmax(0)[0])
        smallest.append(min(losses, key=Tensor.item))
    expected = torch.stack(smallest) if smallest else predictions.sum(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.linspace(0.5, 2, sizes[0])
    for gradient, leaf in zip(
        torch.autograd.grad((found * weights).sum(), leaves, retain_graph=True),
        torch.autograd.grad((expected * weights).sum(), leaves, materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(gradient, leaf, atol=1e-5, rtol=1e-5)


def test_with_one_positive_each_it_is_the_sampled_softmax() -> None:
    predictions, table, ids, prediction, negative_ids = inputs(6, 6, 30)
    positives, negatives = table[ids], table[negative_ids]
    torch.testing.assert_close(
        windowed_softmax(
            predictions, positives, ids, prediction, negatives, negative_ids, TEMPERATURE
        ),
        sampled_softmax(predictions, positives, ids, negatives, negative_ids, TEMPERATURE),
    )
