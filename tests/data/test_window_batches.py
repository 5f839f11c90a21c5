"""Batches of user windows: what candidates and histories carry."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from tests.data.clicks import clicks
from tests.data.conftest import MakeLog
from tests.data.window_oracle import (
    Sequence,
    by_rows,
    day_start,
    sequences_read,
    window_schema,
)
from torchrec_gr.data.known_before import HistoryAsOf
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.window_loader import WindowLoader
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table

pytestmark = pytest.mark.usefixtures("small_chunks")


def test_a_batch_gives_request_features_to_the_candidates(log: PreparedLog) -> None:
    rows = clicks()
    for batch in WindowLoader(log, "train", batch_tokens=40, seed=1):
        here = rows.loc[batch.source_rows.tolist()]
        assert batch.contextual == []
        assert batch.candidates == ["item", "tag", "hour"]
        assert batch.dense_contextual is None
        assert batch.dense_candidates is not None
        assert batch.labels is not None
        torch.testing.assert_close(
            batch.dense_candidates, torch.tensor(here[["price", "age"]].to_numpy(np.float32))
        )
        assert batch.labels[:, 0].tolist() == here.click.tolist()
        for name in ("item", "tag", "hour"):
            values = batch.ids[name]
            assert values.lengths().tolist() == batch.num_candidates.tolist()
            raw = here[name].to_numpy()
            assert values.values().tolist() == log.vocabularies[name].rows(raw).tolist()
        users = batch.user_ids.repeat_interleave(batch.num_candidates).numpy()
        assert log.raw_users[users].tolist() == here.user.tolist()


def _crossed() -> tuple[pd.DataFrame, FeatureSchema]:
    """A count over user and tag, as a number and as a bucket; half of the rows have no tag."""
    rows = clicks(num_users=3)
    rows["tag"] = rows.tag.astype("Int64").mask(rows.index % 2 == 0)
    over = ("user", "tag")
    features = (
        *window_schema().features,
        Feature("seen", "candidate", "dense", statistic="count", over=over),
        Feature("seen_bucket", "candidate", statistic="count", over=over),
    )
    tables = (*window_schema().tables, Table("seen_bucket"))
    return rows, window_schema(features=features, tables=tables)


@pytest.mark.parametrize("history_as_of", ["exposure", "day"])
def test_cross_features_are_of_what_each_exposure_knows(
    make_log: MakeLog, history_as_of: HistoryAsOf
) -> None:
    rows, schema = _crossed()
    log = make_log(rows, schema)
    moment = day_start if history_as_of == "day" else int
    expected = {
        row: 0
        if pd.isna(values.tag)
        else np.log1p(
            (
                (rows.user == values.user)
                & (rows.tag == values.tag)
                & (rows.time < moment(values.time))
            ).sum()
        )
        for row, values in rows.iterrows()
    }
    found, buckets = {}, {}
    for batch in WindowLoader(log, "train", batch_tokens=40, history_as_of=history_as_of, seed=0):
        assert batch.candidates == ["item", "tag", "seen_bucket", "hour"]
        assert batch.dense_candidates is not None
        seen, age = batch.dense_candidates[:, 1:].unbind(1)
        source_rows = batch.source_rows.tolist()
        found |= dict(zip(source_rows, seen.tolist(), strict=True))
        buckets |= dict(zip(source_rows, batch.ids["seen_bucket"].values().tolist(), strict=True))
        assert age.tolist() == rows.age[source_rows].tolist()
    assert found == pytest.approx({row: expected[row] for row in found})
    assert len(found) == log.num_rows("train")
    assert {row for row, bucket in buckets.items() if not bucket} == {
        r for r in found if r % 2 == 0
    }
    assert any(found.values())
    other = WindowLoader(log.without_cross_features(), "train", batch_tokens=40)
    assert all(batch.candidates == ["item", "tag", "hour"] for batch in other)


def test_stochastic_length_keeps_some_events_of_long_histories_in_their_order(
    make_log: MakeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchrec_gr.data.split_rows.WINDOW_ROWS", 100_000)
    rows = clicks(num_rows=600, num_users=60).assign(price=np.arange(600, dtype=np.float32))
    log = make_log(rows, window_schema(max_history=16), block=1000)

    def loader(seed: int, alpha: float | None = 1.3) -> WindowLoader:
        return WindowLoader(
            log,
            "train",
            batch_tokens=100,
            window_hours=6.0,
            real_time_hours=1.0,
            stochastic_length=alpha,
            seed=seed,
        )

    whole = loader(0, None)
    full = {tuple(s.rows): s for s in sequences_read(whole)}
    some, again, other = loader(0), loader(0), loader(1)
    assert some.num_steps == whole.num_steps
    epochs = [by_rows(sequences_read(some)) for _ in range(2)]
    assert [by_rows(sequences_read(again)) for _ in range(2)] == epochs
    assert epochs[0] != epochs[1]
    assert epochs[0] != by_rows(sequences_read(other))
    threshold = int(16 ** (1.3 / 2))
    num_cut = 0
    for sequence in epochs[0]:
        known = full[tuple(sequence.rows)]
        places = [known.history_prices.index(price) for price in sequence.history_prices]
        assert places == sorted(set(places))
        assert sequence.history_times == [known.history_times[place] for place in places]
        assert sequence.num_static == sum(place < known.num_static for place in places)
        assert sequence.candidate_times == known.candidate_times
        assert len(places) in {len(known.history_times), threshold}
        num_cut += len(places) < len(known.history_times)
    assert 0 < num_cut < len(full)
    assert any(0 < s.num_static < len(s.history_times) == threshold for s in epochs[0])
    tokens = sum(len(s.rows) + len(s.history_times) for s in flat_epochs(epochs))
    assert some.counts["tokens"] == tokens < 2 * whole.counts["tokens"]


def flat_epochs(epochs: list[list[Sequence]]) -> list[Sequence]:
    return [sequence for epoch in epochs for sequence in epoch]
