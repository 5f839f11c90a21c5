"""How often ids were seen, against a count by hand; NE by bucket, against a plain loop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation import diagnostic
from pipelines.evaluation.diagnostic import (
    BUCKETS,
    Diagnostic,
    FrequencyBuckets,
    TrainingSample,
    measure_by_frequency,
)
from tests.data.clicks import click_schema, clicks, prepare_clicks
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.window_loader import WindowLoader
from torchrec_gr.metrics import normalized_entropy
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.training.evaluation import Predictions

TEST_FROM = 40 * 3600


def words(buckets: FrequencyBuckets, num_rows: int) -> list[str]:
    named = (*BUCKETS, "none")
    return [named[place] for place in buckets.of(np.arange(num_rows))]


def predict(source_rows: np.ndarray, labels: np.ndarray) -> Predictions:
    """Scores that depend on the log's row alone."""
    order = np.argsort(source_rows)
    rows = source_rows[order]
    logits = np.sin(rows * 1.7).astype(np.float32)[:, None]
    return Predictions(logits, labels[order], np.zeros_like(rows), rows, 0.0)


def evaluate(batches: Iterable[Any]) -> Predictions:
    read = list(batches)
    rows = np.concatenate([batch.source_rows.numpy() for batch in read])
    labels = np.concatenate([batch.labels.numpy() for batch in read])
    return predict(rows, labels)


def items_seen_1_to_4_times() -> pd.DataFrame:
    """Ten training rows of items 1 to 4, as often as their number says; six later rows."""
    rows = clicks(16).assign(hour=0, tag=0)  # so that the item has the most ids
    rows["item"] = [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 9, 1, 2, 3, 4, 8]
    rows["time"] = [*range(10), *range(TEST_FROM, TEST_FROM + 6)]
    rows["click"] = np.arange(16) % 2
    return rows


def test_the_boundary_is_the_median_over_training_rows(tmp_path: Path) -> None:
    buckets = FrequencyBuckets(prepare_clicks(tmp_path, items_seen_1_to_4_times()))
    assert buckets.features == ("item",)
    assert buckets.rarely_up_to == 3
    training = ["rarely"] * 6 + ["often"] * 4
    later = ["never", "rarely", "rarely", "rarely", "often", "never"]
    assert words(buckets, 16) == training + later


def test_ids_below_min_count_are_counted_and_nulls_are_in_no_bucket(tmp_path: Path) -> None:
    rows = items_seen_1_to_4_times().astype({"item": "Int64"})
    rows.loc[[6, 13], "item"] = pd.NA  # one of item 4 in training, the later one of item 3
    schema = click_schema(tables=(Table("hour"), Table("item", min_count=3), Table("tag")))
    buckets = FrequencyBuckets(prepare_clicks(tmp_path, rows, schema))
    found = words(buckets, 16)
    assert [place for place, word in enumerate(found) if word == "none"] == [6, 13]
    assert buckets.rarely_up_to == 3
    assert found[11:13] == ["rarely", "rarely"]  # items 1 and 2 share row 0 of their table
    assert [found[10], found[15]] == ["never", "never"]
    assert "often" not in found


def test_counts_are_of_candidates_not_of_histories(tmp_path: Path) -> None:
    rows = clicks(500, num_users=9)
    log = prepare_clicks(tmp_path, rows)
    train = rows.time < TEST_FROM
    seen = rows.item.map(rows.item[train].value_counts()).fillna(0)
    rarely_up_to = int(seen[train].median())
    expected = ["never" if n == 0 else "rarely" if n <= rarely_up_to else "often" for n in seen]
    buckets = FrequencyBuckets(log)
    assert buckets.rarely_up_to == rarely_up_to
    assert words(buckets, 500) == expected


def no_item_schema() -> FeatureSchema:
    columns = ("few", "a", "b")
    return click_schema(
        features=tuple(Feature(column, "candidate") for column in columns),
        tables=tuple(Table(column) for column in columns),
        user=None,
        target=None,
    )


def no_items(num_rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    a = rng.integers(0, 60, num_rows).astype(float)
    a[rng.random(num_rows) < 0.1] = np.nan
    return pd.DataFrame(
        {
            "few": rng.integers(0, 4, num_rows),
            "a": a,
            "b": [f"b{n}" for n in rng.integers(0, 80, num_rows)],
            "time": rng.integers(0, 60, num_rows) * 3600,
            "click": rng.integers(0, 2, num_rows),
        }
    )


def test_the_rarest_id_of_large_tables_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostic, "_MANY_IDS", 40)
    rows = no_items()
    buckets = FrequencyBuckets(prepare_clicks(tmp_path, rows, no_item_schema()))
    assert buckets.features == ("a", "b")
    train = rows.time < TEST_FROM
    seen = pd.DataFrame({c: rows[c].map(rows.loc[train, c].value_counts()).fillna(0) for c in "ab"})
    seen.loc[rows.a.isna(), "a"] = np.inf
    rarest = seen.min(axis=1)
    up_to = int(rarest[train].median())
    assert buckets.rarely_up_to == up_to
    assert words(buckets, 300) == [
        "never" if n == 0 else "rarely" if n <= up_to else "often" for n in rarest
    ]


def test_a_log_of_small_tables_is_judged_by_its_largest(tmp_path: Path) -> None:
    log = prepare_clicks(tmp_path, no_items(), no_item_schema())
    assert FrequencyBuckets(log).features == ("b",)


def test_ne_by_bucket_is_what_a_loop_gives_and_adds_up(tmp_path: Path) -> None:
    rows = clicks(400, num_users=5, seed=3)
    rows.loc[:30, "item"] = np.arange(31) + 100
    log = prepare_clicks(tmp_path, rows)
    buckets = FrequencyBuckets(log)
    test = np.flatnonzero(rows.time >= TEST_FROM)
    scored = predict(test, rows.click.to_numpy(np.float32)[test, None])
    measured = measure_by_frequency(scored, buckets)

    mean = scored.labels.mean()
    entropy = -(mean * math.log(mean) + (1 - mean) * math.log(1 - mean))
    total = 0.0
    for bucket in BUCKETS:
        losses = [
            math.log1p(math.exp(-logit if label else logit))
            for logit, label, word in zip(
                scored.logits[:, 0].tolist(),
                scored.labels[:, 0],
                np.array(words(buckets, 400))[test],
                strict=True,
            )
            if word == bucket
        ]
        assert measured[f"ne_{bucket}"] == pytest.approx(np.mean(losses) / entropy)
        assert measured[f"share_{bucket}"] == pytest.approx(len(losses) / len(test))
        total += measured[f"ne_{bucket}"] * measured[f"share_{bucket}"]
    assert total == pytest.approx(normalized_entropy(scored.labels[:, 0], scored.logits[:, 0]))


def test_labels_all_alike_have_no_entropy_to_be_measured_by(tmp_path: Path) -> None:
    log = prepare_clicks(tmp_path)
    scored = predict(np.arange(90), np.ones((90, 1), np.float32))
    assert measure_by_frequency(scored, FrequencyBuckets(log)) == {}


@pytest.fixture
def log(tmp_path: Path) -> PreparedLog:
    return prepare_clicks(tmp_path, clicks(300, seed=5))


def loader(log: PreparedLog, split: str, **changes: Any) -> RequestLoader:
    return RequestLoader(log, split, **{"batch_size": 16, **changes})


def sample_of(log: PreparedLog, **changes: Any) -> TrainingSample:
    return TrainingSample(loader(log, "train", **changes), log.num_rows("train"))


def rows_of(batches: Iterable[Any]) -> list[int]:
    return [row for batch in batches for row in batch.source_rows.tolist()]


def test_the_sample_is_the_same_in_every_epoch_and_at_any_number_of_processes(
    log: PreparedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostic, "SAMPLE_ROWS", 60)
    sample = sample_of(log)
    first = rows_of(sample)
    sample.seek(3, 1)
    assert rows_of(sample) == first
    assert sample.num_steps == 4
    assert len(set(first)) == 64
    assert first != sorted(first)  # drawn from all of the split, not its beginning
    ranks = [sample_of(log, rank=r, world_size=2) for r in range(2)]
    assert [sample.num_steps for sample in ranks] == [4, 4]
    assert sorted(row for sample in ranks for row in rows_of(sample)) == sorted(first)


def test_windows_are_sampled_until_there_are_rows_enough_on_average(
    log: PreparedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnostic, "SAMPLE_ROWS", 60)
    num_rows = log.num_rows("train")

    def windows(**of_rank: Any) -> TrainingSample:
        return TrainingSample(WindowLoader(log, "train", batch_tokens=50, **of_rank), num_rows)

    sample, whole = windows(), WindowLoader(log, "train", batch_tokens=50)
    assert sample.num_steps == math.ceil(60 * whole.num_steps / num_rows) < whole.num_steps
    first = rows_of(sample)
    assert rows_of(sample) == first
    assert 40 <= len(set(first)) == len(first) <= 80
    ranks = [windows(rank=rank, world_size=2) for rank in range(2)]
    assert sorted(row for of in ranks for row in rows_of(of)) == sorted(first)


def test_the_sample_is_not_what_a_run_trains_on_first(
    log: PreparedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that all came early, or late, in an epoch would be known worse, or better, than most."""
    monkeypatch.setattr(diagnostic, "SAMPLE_ROWS", 32)
    sample = rows_of(sample_of(log))
    for seed in range(10):
        assert len(set(sample) & set(rows_of(loader(log, "train", seed=seed))[:32])) < 16


def test_a_small_training_split_is_scored_whole(log: PreparedLog) -> None:
    rows = rows_of(sample_of(log))
    assert sorted(rows) == sorted(rows_of(loader(log, "train")))


def test_an_epochs_numbers_by_name(log: PreparedLog) -> None:
    made = []

    def make_loader(split: str) -> RequestLoader:
        made.append(split)
        return loader(log, split)

    scored = {"test": evaluate(loader(log, "test")), "validation": evaluate(loader(log, "test"))}
    found = Diagnostic(log, make_loader)
    measured = found.measure(evaluate, scored)
    assert found.measure(evaluate, scored) == measured
    assert made == ["train"]
    train = evaluate(loader(log, "train"))
    ne = normalized_entropy(train.labels[:, 0], train.logits[:, 0])
    assert measured["train_ne"] == pytest.approx(ne)
    assert measured["validation_ne"] == pytest.approx(
        normalized_entropy(scored["test"].labels[:, 0], scored["test"].logits[:, 0])
    )
    buckets = FrequencyBuckets(log)
    for name, value in measure_by_frequency(train, buckets).items():
        assert measured[f"train_{name}"] == value
    for name, value in measure_by_frequency(scored["test"], buckets).items():
        assert measured[name] == value
    assert measured["rarely_up_to"] == buckets.rarely_up_to
    assert set(measured) <= diagnostic.METRICS
    assert "train_ne_never" not in measured
    assert "ne" not in measured  # a field of the results
    assert all(math.isfinite(value) for value in measured.values())


def test_a_log_without_ids_has_the_whole_splits_numbers_alone(tmp_path: Path) -> None:
    schema = click_schema(
        features=(Feature("price", "candidate", "dense"),), tables=(), user=None, target=None
    )
    log = prepare_clicks(tmp_path, clicks(), schema)
    measured = Diagnostic(log, lambda split: loader(log, split)).measure(
        evaluate, {"test": evaluate(loader(log, "test"))}
    )
    assert set(measured) == {"train_ne"}
