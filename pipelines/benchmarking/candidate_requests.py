"""Requests of many candidates, put together from a log of impressions, to time serving on."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.data.clock import ticks
from torchrec_gr.data.known_before import HistoryAsOf
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.log_source import TEST
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.request_batch import RequestBatch


def candidate_requests(
    log: PreparedLog,
    num_requests: int,
    num_candidates: int,
    history_as_of: HistoryAsOf,
    real_time_hours: float | None = None,
) -> list[RequestBatch]:
    """Real users' requests of the test split, each with candidates that others were shown.

    Args:
        log: prepared.
        num_requests: how many, spread over the split; fewer where it has fewer rows.
        num_candidates: of each; the split's rows in turn, from the request's own on.
        history_as_of: how fresh histories are.
        real_time_hours: for a ranker of windows, which events are long-term, as `WindowLoader`
            takes it; None marks none.

    Returns:
        Batches of one request, all of whose candidates are at its own moment. Labels are 0.
    """
    pool = _whole(RequestLoader(log, TEST, batch_size=_ROWS, history_as_of=history_as_of))
    loader = RequestLoader(log, TEST, batch_size=1, history_as_of=history_as_of)
    requests = []
    for step in torch.linspace(0, loader.num_steps - 1, num_requests).long().unique().tolist():
        loader.seek(0, step)
        one = next(iter(loader))
        assert isinstance(one, RequestBatch)
        num_rows = pool.source_rows.numel()
        batch = _with_candidates(one, pool, torch.arange(step, step + num_candidates) % num_rows)
        if real_time_hours is not None:
            batch = _with_long_term(batch, log.schema, real_time_hours)
        requests.append(batch)
    return requests


def in_rows(batch: RequestBatch, most: int) -> RequestBatch:
    """One request as several of at most so many candidates, each with the whole history."""
    num = batch.source_rows.numel()
    num_rows = -(-num // most)
    counts = torch.full((num_rows,), most)
    counts[-1] = num - most * (num_rows - 1)
    columns = batch.ids.to_dict()
    values, lengths = [], []
    for key, column in columns.items():
        own = key in batch.candidates
        values.append(column.values() if own else column.values().repeat(num_rows))
        lengths.append(counts if own else column.lengths().repeat(num_rows))
    return dataclasses.replace(
        batch,
        ids=KeyedJaggedTensor(list(columns), torch.cat(values), lengths=_like(batch, lengths)),
        num_candidates=counts,
        history_times=batch.history_times.repeat(num_rows),
        num_static=batch.num_static.repeat(num_rows),
        user_ids=batch.user_ids.repeat(num_rows),
        dense_contextual=_repeated(batch.dense_contextual, num_rows),
        dense_history=_repeated(batch.dense_history, num_rows),
    )


_ROWS = 4096
"""Rows of the split that candidates are taken from."""


def _whole(loader: RequestLoader) -> RequestBatch:
    batch = next(iter(loader))
    assert isinstance(batch, RequestBatch)
    return batch


def _with_candidates(one: RequestBatch, pool: RequestBatch, rows: Tensor) -> RequestBatch:
    """The first request of `one`, with candidates of `pool` in the place of its own."""
    num = rows.numel()
    keys = list(one.ids.keys())
    columns = {
        key: pool.ids[key].values()[rows] if key in one.candidates else one.ids[key].values()
        for key in keys
    }
    lengths = [
        torch.tensor([num]) if key in one.candidates else one.ids[key].lengths() for key in keys
    ]
    dense = pool.dense_candidates
    return dataclasses.replace(
        one,
        ids=KeyedJaggedTensor(keys, torch.cat(list(columns.values())), lengths=_like(one, lengths)),
        num_candidates=torch.tensor([num]),
        candidate_times=one.candidate_times[:1].expand(num).contiguous(),
        source_rows=pool.source_rows[rows],
        dense_candidates=None if dense is None else dense[rows],
        labels=None if one.labels is None else torch.zeros(num, one.labels.shape[1]),
        item_ages=None if pool.item_ages is None else pool.item_ages[rows],
    )


def _with_long_term(
    batch: RequestBatch, schema: FeatureSchema, real_time_hours: float
) -> RequestBatch:
    """One request that says how many of its events are long-term, as a window does."""
    long_ago = batch.candidate_times[0] - (
        ticks(schema, real_time_hours) if schema.has_clock else 0
    )
    num_static = (batch.history_times < long_ago).sum(dim=0, keepdim=True)
    return dataclasses.replace(batch, num_static=num_static)


def _like(batch: RequestBatch, lengths: list[Tensor]) -> Tensor:
    return torch.cat(lengths).to(batch.ids.lengths().dtype)


def _repeated(values: Tensor | None, times: int) -> Tensor | None:
    return None if values is None else values.repeat(times, 1)
