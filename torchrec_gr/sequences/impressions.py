"""Requests seen as single impressions, for models that score one row at a time."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.sequences.request_batch import ITEM_AGE, ImpressionBatch, RequestBatch


def to_impressions(batch: RequestBatch, *, num_rows: int | None = None) -> ImpressionBatch:
    """Gives every candidate a row of its own, with the history that it could have known.

    A candidate's history is its request's, cut to the events strictly before the candidate's own
    time. Call it where batches are made: a KeyedJaggedTensor rebuilt inside `forward` drops its
    embedding collection out of TorchRec's train pipeline.

    Args:
        batch: U requests with C candidates and labels, on any device.
        num_rows: fills the batch up to this many rows with empty ones of weight 0; default:
            max(C, 1), because TorchRec takes no batch without rows.

    Returns:
        Keys are contextual, candidate and history ones, in that order, and last, where the batch
        has the candidates' ages, `ITEM_AGE` with one a row. `dense_features` is [C, 1 + F]: log(1 +
        events in the history), then the contextual and the candidates' numbers. `labels` is [C]
        where there is one task, else [C, tasks].

    Raises:
        ValueError: the batch has no labels, more candidates than `num_rows`, or a feature under the
            key of the ages.
    """
    if batch.labels is None:
        raise ValueError(
            "a batch of generative pretraining has no labels, so no impressions: "
            "read the log with RequestLoader"
        )
    num_candidates = batch.source_rows.numel()
    num_rows = max(num_candidates, 1) if num_rows is None else num_rows
    if num_candidates > num_rows:
        raise ValueError(f"{num_candidates} candidates do not fit into num_rows={num_rows}")
    request = torch.arange(batch.num_requests, device=batch.num_candidates.device)
    request = request.repeat_interleave(batch.num_candidates)
    history = _visible_history(batch, request)
    labels = batch.labels.squeeze(1) if batch.labels.shape[1] == 1 else batch.labels
    return ImpressionBatch(
        dense_features=_pad(_dense(batch, request, history.lengths), num_rows),
        sparse_features=_ids(batch, request, history, num_rows),
        labels=_pad(labels, num_rows),
        weights=_pad(torch.ones_like(labels[:, 0] if labels.ndim > 1 else labels), num_rows),
        user_ids=_pad(batch.user_ids[request], num_rows, fill=-1),
        source_rows=_pad(batch.source_rows, num_rows, fill=-1),
    )


@dataclasses.dataclass(frozen=True)
class _History:
    """Places in the batch's T events, candidate after candidate, and how many each has ([C])."""

    index: Tensor
    lengths: Tensor


def _visible_history(batch: RequestBatch, request: Tensor) -> _History:
    num_history = batch.num_history()
    starts = num_history.cumsum(0) - num_history
    lengths = num_history[request]
    ends = lengths.cumsum(0)
    index = (starts[request] - ends + lengths).repeat_interleave(lengths)
    index += torch.arange(index.numel(), device=index.device)
    moments = batch.candidate_times.repeat_interleave(lengths)
    known = batch.history_times.index_select(0, index) < moments
    num_known = torch.cat([lengths.new_zeros(1), known.cumsum(0)])
    return _History(index.masked_select(known), num_known[ends] - num_known[ends - lengths])


def _ids(
    batch: RequestBatch, request: Tensor, history: _History, num_rows: int
) -> KeyedJaggedTensor:
    ones = torch.ones_like(request)
    given = {key: column.values() for key, column in batch.ids.to_dict().items()}
    values = [given[key].index_select(0, request) for key in batch.contextual]
    values += [given[key] for key in batch.candidates]
    values += [given[key].index_select(0, history.index) for key in batch.history]
    lengths = [_pad(ones, num_rows)] * (len(batch.contextual) + len(batch.candidates))
    lengths += [_pad(history.lengths, num_rows)] * len(batch.history)
    keys = [*batch.contextual, *batch.candidates, *batch.history]
    if batch.item_ages is not None:
        if ITEM_AGE in keys:
            raise ValueError(f"{ITEM_AGE!r} is the key of the candidates' ages: rename the feature")
        keys.append(ITEM_AGE)
        values.append(batch.item_ages)
        lengths.append(_pad(ones, num_rows))
    return KeyedJaggedTensor(
        keys=keys,
        values=torch.cat(values),
        lengths=torch.cat(lengths).to(batch.ids.lengths().dtype),
    )


def _dense(batch: RequestBatch, request: Tensor, num_history: Tensor) -> Tensor:
    columns = [num_history.float().log1p()[:, None]]
    if batch.dense_contextual is not None:
        columns.append(batch.dense_contextual[request])
    if batch.dense_candidates is not None:
        columns.append(batch.dense_candidates)
    return torch.cat(columns, dim=1)


def _pad(values: Tensor, num_rows: int, fill: int = 0) -> Tensor:
    missing = num_rows - values.shape[0]
    if not missing:
        return values
    return torch.cat([values, values.new_full((missing, *values.shape[1:]), fill)])
