"""LONGER for one candidate, written out with masks of whole rows, straight from its definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchrec_gr.modules.event_merging import EventMerger
from torchrec_gr.modules.longer_trunk import LongerTrunk
from torchrec_gr.modules.sasrec_layer import SASRecLayer


def dense_merged(merger: EventMerger, events: Tensor) -> Tensor:
    """[G, D] of the events [n, D] of one history."""
    size, dim = merger.merge, events.shape[1]
    groups = [events[max(end - size, 0) : end] for end in range(len(events), 0, -size)]
    if size == 1 or not groups:
        return events
    assert isinstance(merger.inner, SASRecLayer)
    assert merger.projection is not None
    tokens = []
    for group in reversed(groups):
        everything = torch.ones(len(group), len(group), dtype=torch.bool)
        inner = dense_layer(merger.inner, group, group, everything)
        missing = torch.zeros(size - len(group), dim)
        tokens.append(merger.projection(torch.cat([missing, inner]).flatten()))
    return torch.stack(tokens)


def dense_longer(trunk: LongerTrunk, user: Tensor, events: Tensor, candidate: Tensor) -> Tensor:
    """[D] of a user's tokens [S, D], events [n, D] and one candidate [D]."""
    merged = dense_merged(trunk.merger, events)
    recent = merged[-trunk.num_recent :]
    queries = torch.cat([user, recent, candidate[None]])
    keys = torch.cat([user, merged, candidate[None]])
    num_older = len(merged) - len(recent)
    first, *others = trunk.layers
    x = dense_layer(first, queries, keys, longer_mask(len(user), num_older, len(recent)))
    for layer in others:
        x = dense_layer(layer, x, x, longer_mask(len(user), 0, len(recent)))
    return x[-1]


def longer_mask(num_user: int, num_older: int, num_recent: int) -> Tensor:
    """[queries, keys] bool of [user ; recent ; candidate] and [user ; older ; recent ; candidate].

    A user's token sees all but the candidate, the candidate everything, a recent token the older
    ones, the recent ones before it and itself.
    """
    num_keys = num_user + num_older + num_recent + 1
    rows = [[place < num_keys - 1 for place in range(num_keys)] for _ in range(num_user)]
    for recent in range(num_recent):
        last = num_user + num_older + recent
        rows.append([num_user <= place <= last for place in range(num_keys)])
    return torch.tensor([*rows, [True] * num_keys])


def dense_layer(layer: SASRecLayer, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """[n, D] of queries [n, D] that see some of keys [m, D], by mask [n, m]."""
    dim, heads = queries.shape[1], layer.num_heads
    q = layer.projection(layer.norm(queries))[:, :dim].unflatten(1, (heads, -1))
    k, v = layer.projection(layer.norm(keys))[:, dim:].unflatten(1, (2 * heads, -1)).chunk(2, dim=1)
    scores = torch.einsum("nha,mha->hnm", q, k) / math.sqrt(dim // heads)
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=2)
    attended = torch.einsum("hnm,mha->nha", weights, v).flatten(1)
    x = queries + layer.output(attended)
    return x + layer.feed_forward(layer.feed_forward_norm(x))
