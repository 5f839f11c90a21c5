"""User windows and their histories from the definition, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tests.data.clicks import click_schema, clicks
from torchrec_gr.data.log_source import LogSource, TemporalSplit
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import RequestBatch

HOUR = 3600
TEST_FROM = 40 * HOUR
BLOCK = 7


def window_schema(**changes: object) -> FeatureSchema:
    return click_schema(**{"request_features": ("hour", "age"), **changes})


def prepare_windows(
    folder: Path,
    rows: pd.DataFrame | None = None,
    schema: FeatureSchema | None = None,
    events: pd.DataFrame | None = None,
    block: int = BLOCK,
    test_from: int = TEST_FROM,
) -> PreparedLog:
    paths = folder / "rows.parquet", folder / "events.parquet"
    (clicks() if rows is None else rows).to_parquet(paths[0], row_group_size=block, index=False)
    if events is not None:
        events.to_parquet(paths[1], index=False)
    source = LogSource(
        schema=schema or window_schema(),
        rows=paths[:1],
        split=TemporalSplit(validation_from=test_from, test_from=test_from),
        events=paths[1:] if events is not None else (),
    )
    return prepare(source, folder / "work")


class Sequence(NamedTuple):
    """What a sequence should be."""

    rows: list[int]
    history_times: list[int]
    history_prices: list[float]
    num_static: int
    candidate_times: list[int]


def chunks_of(rows: pd.DataFrame, in_split: pd.Series, chunk_rows: int = 20) -> Iterator[list[int]]:
    """Rows of a split, whole blocks at a time, until so many are together."""
    chunk: list[int] = []
    for first in range(0, len(rows), BLOCK):
        block = range(first, min(first + BLOCK, len(rows)))
        chunk += [row for row in block if in_split[row]]
        if len(chunk) >= chunk_rows:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def sequences_of(
    rows: pd.DataFrame,
    chunk: list[int],
    known_before: Callable[[int], int],
    *,
    events: pd.DataFrame | None = None,
    context: tuple[str, ...] = (),
    window: Callable[[int], int] = lambda time: 0,
    max_candidates: int = 256,
    real_time: int = 24 * HOUR,
    max_history: int = 4,
) -> Iterator[Sequence]:
    """From the definition, row by row."""
    all_events = rows if events is None else pd.concat([events, rows], ignore_index=True)
    in_time = rows.loc[chunk].sort_values(["user", "time"], kind="stable")
    members: list[list[int]] = []
    last_key: tuple[object, ...] = ()

    def history(of: list[int]) -> pd.DataFrame:
        first, last = known_before(rows.time[of[0]]), known_before(rows.time[of[-1]])
        of_user = all_events[all_events.user == rows.user[of[0]]]
        of_user = of_user.sort_values("time", kind="stable")
        older = of_user[of_user.time < first].tail(max_history)
        newer = of_user[(of_user.time >= first) & (of_user.time < last)]
        return pd.concat([older, newer])

    for row, values in in_time.iterrows():
        key = (values.user, window(values.time), *(values[name] for name in context))
        if (
            not members
            or key != last_key
            or len(members[-1]) == max_candidates
            or len(history([*members[-1], row])) > max_history + max_candidates
        ):
            members.append([])
        members[-1].append(row)
        last_key = key
    for sequence in members:
        moments = [known_before(time) for time in rows.time[sequence]]
        events_seen = history(sequence)
        times, prices = events_seen.time, events_seen.price.tolist()
        num_static = int((times < moments[0] - real_time).sum())
        yield Sequence(sequence, times.tolist(), prices, num_static, moments)


def sequences_read(batches: Iterable[RequestBatch]) -> Iterator[Sequence]:
    for batch in batches:
        lengths, num_events = batch.num_candidates.tolist(), batch.num_history().tolist()
        assert batch.dense_history is not None
        of_candidates = zip(
            batch.source_rows.split(lengths), batch.candidate_times.split(lengths), strict=True
        )
        of_events = zip(
            batch.history_times.split(num_events),
            batch.dense_history[:, 0].split(num_events),
            batch.num_static.tolist(),
            strict=True,
        )
        for (rows, moments), (times, prices, num_static) in zip(
            of_candidates, of_events, strict=True
        ):
            yield Sequence(
                rows.tolist(), times.tolist(), prices.tolist(), num_static, moments.tolist()
            )


def by_rows(sequences: Iterable[Sequence]) -> list[Sequence]:
    return sorted(sequence for sequence in sequences if sequence.rows)


def flat(lists: Iterable[list[int]]) -> list[int]:
    return [value for values in lists for value in values]


def day_start(time: int) -> int:
    return time // (24 * HOUR) * (24 * HOUR)
