"""Many candidates of a request scored by an HSTU ranker, over keys and values kept of its history.

Source: HSTU, 2402.17152, M-FALCON.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from torchrec_gr.models.hstu_ranker import HSTURanker, HSTURankerBody
from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.modules.mfalcon import cross_in_micro_batches
from torchrec_gr.sequences.request_batch import RequestBatch


def encode_histories(ranker: HSTURanker, batch: RequestBatch) -> ContextCache:
    """What candidates need of U users and their histories, to be kept.

    It serves any candidates whose moments are behind the history, in this request or in a later one
    of its user, until the user or the history changes. `ContextCache.select` and `concatenate` put
    those of a batch of requests together.

    Args:
        ranker: whose weights encode.
        batch: U requests; their candidates are not scored, and may be none.

    Raises:
        ValueError: a row of more tokens than the trunk's `max_seq_len`, or events out of order.
    """
    body = ranker.body
    inputs = body.reader(ranker.embeddings(batch.ids), batch)
    context = body.context(inputs)
    cache = body.trunk.context(context.tokens, context.rows)
    return dataclasses.replace(cache, num_history=inputs.num_history)


def score_candidates(
    ranker: HSTURanker, histories: ContextCache, batch: RequestBatch, *, micro_batch: int
) -> Tensor:
    """What the ranker gives for these candidates behind their histories, up to rounding.

    A pass of the trunk holds `micro_batch` candidates, so a request may have more of them than a
    row has room for. Set-wise, the candidates of a moment meet behind it, all of them.

    Args:
        ranker: with the weights that encoded the histories.
        histories: of the U requests, from `encode_histories`.
        batch: U requests with their candidates. Histories in it are not read: they may be empty.
        micro_batch: candidates of a pass.

    Returns:
        Logits [C, tasks].

    Raises:
        ValueError: the histories are of another number of requests, no room behind what a candidate
            sees, or micro_batch below 1.
    """
    if histories.num_requests != batch.num_requests:
        raise ValueError(
            f"histories of {histories.num_requests} requests and a batch of {batch.num_requests}: "
            "select the histories that belong to the batch, in its order"
        )
    body = ranker.body
    inputs = body.reader(ranker.embeddings(batch.ids), batch)
    inputs = inputs._replace(
        num_history=histories.num_history, event_times=_event_times(body, histories)
    )
    candidates = body.candidate_tokens(inputs)
    hidden = cross_in_micro_batches(
        body.trunk,
        candidates.tokens,
        histories,
        candidates.lengths,
        micro_batch=micro_batch,
        num_visible=candidates.num_visible,
        positions=candidates.num_visible,
        times=candidates.times,
    )
    return body.predict(hidden, candidates.lengths, candidates.times)


def _event_times(body: HSTURankerBody, histories: ContextCache) -> Tensor:
    """[T] int64 of the events: their first tokens', behind the user's."""
    lengths, num_user = histories.offsets.diff(), body.tokens.user.num_tokens
    assert histories.times is not None
    num_tokens = histories.times.shape[0]
    places = torch.arange(num_tokens, device=lengths.device)
    places -= histories.offsets[:-1].repeat_interleave(lengths, output_size=num_tokens)
    is_event = (places >= num_user) & ((places - num_user) % body.tokens.tokens_per_event == 0)
    return histories.times[is_event]
