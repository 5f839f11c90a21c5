"""Scores: of every row that counts, in the log's order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.toy import ToyLoader, ToyLog, sharded, toy_model
from torchrec_gr.training.evaluation import evaluate

CPU = torch.device("cpu")


@pytest.mark.parametrize("view", ["requests", "impressions"])
def test_every_row_is_scored_once_in_the_logs_order(view: str) -> None:
    log = ToyLog()
    model, _ = sharded(toy_model(view))
    predictions = evaluate(model, ToyLoader(log, view, seed=5), CPU)
    labels = [label for row in log.labels for label in row]
    users = [user for user, row in zip(log.users, log.candidates, strict=True) for _ in row]
    assert predictions.source_rows.tolist() == list(range(len(labels)))
    assert predictions.labels[:, 0].tolist() == labels
    assert predictions.user_ids.tolist() == users
    whole = toy_model(view).eval()
    num_rows = len(labels)
    batch = log.requests(range(40)) if view == "requests" else log.impressions(range(40), num_rows)
    loss, output = whole(batch)
    np.testing.assert_allclose(predictions.logits, output.logits.numpy(), rtol=1e-4, atol=1e-6)
    assert predictions.loss == pytest.approx(loss.item(), rel=1e-5)


def test_rows_that_only_fill_up_are_left_out() -> None:
    log = ToyLog()
    model, _ = sharded(toy_model("impressions"))
    num_rows = sum(map(len, log.candidates[:5]))
    plain = evaluate(model, [log.impressions(range(5), num_rows)], CPU)
    filled = evaluate(model, [log.impressions(range(5), num_rows + 4)], CPU)
    assert filled.source_rows.tolist() == plain.source_rows.tolist()
    np.testing.assert_allclose(filled.logits, plain.logits, rtol=1e-5)
    assert filled.loss == pytest.approx(plain.loss)


def test_nothing_to_evaluate_is_an_error() -> None:
    model, _ = sharded(toy_model("requests"))
    with pytest.raises(ValueError, match="no batch"):
        evaluate(model, [], CPU)
    batch = ToyLog().requests(range(3))
    batch.labels = None
    with pytest.raises(ValueError, match="no logits or no labels"):
        evaluate(model, [batch], CPU)
    assert model.training
