"""The loss of predicting any one of several items: the smallest of their sampled softmaxes."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrec_gr.modules.cosine_softmax import unit
from torchrec_gr.modules.log_sum_exp import MASKED_LOGIT, equal_pairs, log_sum_exp_of_products


def windowed_softmax(
    predictions: Tensor,
    positives: Tensor,
    positive_ids: Tensor,
    prediction: Tensor,
    negatives: Tensor,
    negative_ids: Tensor,
    temperature: float,
) -> Tensor:
    """The smallest cross-entropy of a prediction's positives, each among shared negatives.

    A negative that is one of a prediction's positives does not count there, so the positive that is
    nearest to the prediction has the smallest. With one positive each it is `sampled_softmax`.
    Computed in float32, under autocast too.

    Args:
        predictions: [G, D] float.
        positives: [P, D] float, the table rows of the right answers.
        positive_ids: [P] integers.
        prediction: [P] int64, whose each positive is, in 0..G - 1; each has one at least.
        negatives: [N, D] float, the table rows of the negatives; may hold one more than once.
        negative_ids: [N] integers.
        temperature: divides the similarities.

    Returns:
        [G] float32. The gradient goes to the nearest positive alone.

    Source: PinRec, 2504.10507, the minimum over a window of future items.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        predictions = unit(predictions) / temperature
        similarities = (predictions[prediction] * unit(positives)).sum(dim=1)
        lowest = similarities.new_full((predictions.shape[0],), -torch.inf)
        nearest = lowest.scatter_reduce(0, prediction, similarities, "amax")
        positive, negative = equal_pairs(positive_ids, negative_ids)
        collisions = prediction[positive], negative
        nothing = predictions.new_tensor(MASKED_LOGIT)
        log_total = log_sum_exp_of_products(
            predictions, unit(negatives), lambda products: products.index_put_(collisions, nothing)
        )
        return torch.logaddexp(nearest, log_total) - nearest
