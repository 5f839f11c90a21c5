"""LUM's features of an impression against their definition, and a DLRM that reads them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import normalize

from tests.models.conftest import RequestMaker
from torchrec_gr.models.dlrm import DLRMConfig, build_dlrm
from torchrec_gr.models.lum_features import LUMFeatures, LUMRanker
from torchrec_gr.models.table_configs import embedding_bag_configs
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.impressions import to_impressions
from torchrec_gr.sequences.request_batch import ImpressionBatch

DIM, NUM_QUERIES, NUM_ROWS = 6, 3, 20


@pytest.fixture
def features() -> LUMFeatures:
    draw = torch.Generator().manual_seed(0)
    answers = normalize(torch.randn(5, NUM_QUERIES, DIM, generator=draw), dim=2)
    items = normalize(torch.randn(30, DIM, generator=draw), dim=1)
    entries = torch.randint(5, (NUM_ROWS,), generator=draw)
    torch.manual_seed(0)
    return LUMFeatures(answers, items, entries, "item", summary_dim=4)


@pytest.fixture
def batch(make_requests: RequestMaker) -> ImpressionBatch:
    """Four impressions, last rows of the log first, and two that fill the batch up."""
    batch = make_requests([3, 0, 2], [1, 2, 1])
    batch = dataclasses.replace(batch, source_rows=torch.tensor([19, 0, 7, 8]))
    return to_impressions(batch, num_rows=6)


def test_features_are_the_similarities_and_the_projected_answers(
    features: LUMFeatures, batch: ImpressionBatch
) -> None:
    given = features(batch)
    assert given.shape == (6, features.num_features) == (6, NUM_QUERIES + 4)
    items = [*batch.sparse_features["item"].values().tolist(), 0, 0]
    for c, row in enumerate([19, 0, 7, 8, None, None]):
        answers = features.answers[0 if row is None else int(features.entries[row])]
        item = features.items[items[c]]
        similarities = [float(answer @ item) for answer in answers]
        summary = features.summary.weight @ answers.flatten() + features.summary.bias
        expected = torch.cat([torch.tensor(similarities), summary])
        torch.testing.assert_close(given[c], expected)


def test_only_the_summary_learns_and_is_kept(features: LUMFeatures, batch: ImpressionBatch) -> None:
    features(batch).sum().backward()
    assert features.summary.weight.grad is not None
    assert set(features.state_dict()) == {"summary.weight", "summary.bias"}


def test_a_dlrm_widened_by_them_trains(
    features: LUMFeatures,
    batch: ImpressionBatch,
    schema: FeatureSchema,
    table_rows: dict[str, int],
) -> None:
    tables = embedding_bag_configs(schema, table_rows, 8)
    num_dense = batch.dense_features.shape[1]
    ranker = LUMRanker(
        build_dlrm(tables, num_dense + features.num_features, DLRMConfig()), features
    )
    loss, output = ranker(batch)
    loss.backward()
    assert output.logits is not None
    assert output.logits.shape == (6, 1)
    assert features.summary.weight.grad is not None
    assert features.summary.weight.grad.abs().max() > 0
    dense = torch.cat([batch.dense_features, features(batch)], dim=1)
    torch.testing.assert_close(output.logits, ranker.model(dense, batch.sparse_features).detach())


def test_tensors_that_do_not_fit_are_refused() -> None:
    answers, items = torch.zeros(4, 2, 6), torch.zeros(9, 6)
    with pytest.raises(ValueError, match="of one width"):
        LUMFeatures(answers, torch.zeros(9, 5), torch.zeros(3, dtype=torch.int64), "item", 4)
    with pytest.raises(ValueError, match="places among the 4 answers, got 0 to 4"):
        LUMFeatures(answers, items, torch.tensor([0, 4]), "item", 4)
