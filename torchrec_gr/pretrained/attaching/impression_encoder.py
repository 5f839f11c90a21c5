"""A pretrained sequence module over impressions: one vector for each row of a KeyedJaggedTensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_gr.ops.group_requests import group_requests


class ImpressionEncoder(nn.Module):
    """Looks histories and candidates up, and gives each impression its candidate's vector.

    Args:
        embeddings: the tables, an EmbeddingCollection or a DynamicEmbeddingCollection of the body's
            keys. Where it can be, it is called with the batch's KeyedJaggedTensor as it is, so that
            TorchRec's train pipelines pipeline it. None: `items` is all.
        body: the rest.
        items: the item's table, where it is a multi-hash one.
        item_ids: makes what `items` reads of the batch; without `items`, what `embeddings` reads.
    """

    def __init__(
        self,
        embeddings: nn.Module | None,
        body: ImpressionBody,
        items: nn.Module | None = None,
        item_ids: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.items = items
        self.item_ids = item_ids
        self.body = body

    def forward(self, kjt: KeyedJaggedTensor) -> Tensor:
        """[B, dim]: zeros for a row without a candidate."""
        # Traced by TorchRec's pipelines: what the tables give is not looked into here.
        ids = kjt if self.item_ids is None else self.item_ids(kjt)
        read = ids if self.items is None else kjt
        embeddings = None if self.embeddings is None else self.embeddings(read)
        items = None if self.items is None else self.items(ids)
        return self.body(embeddings, items, kjt, ids)


class GroupedBatch(NamedTuple):
    """A batch of B impressions as U requests with T events and C candidates.

    Args:
        kjt: as it came.
        ids: of the item, as its table read them; or `kjt`.
        embeddings: by key, of its values in `ids` or `kjt`.
        requests: [U] int64, the first impression of each.
        events: [T] int64, places of the events among a history key's values.
        num_history: [U] int64.
        places: [C] int64, places of the candidates among a candidate key's values, request after
            request.
        rows: [C] int64, the impression of each.
        num_candidates: [U] int64.
    """

    kjt: KeyedJaggedTensor
    ids: KeyedJaggedTensor
    embeddings: Mapping[str, JaggedTensor]
    requests: Tensor
    events: Tensor
    num_history: Tensor
    places: Tensor
    rows: Tensor
    num_candidates: Tensor

    def history(self, keys: Sequence[str]) -> list[JaggedTensor]:
        """Embeddings of the events, [T, D] each."""
        return [_select(self.embeddings[key], self.events, self.num_history) for key in keys]

    def candidates(self, keys: Sequence[str]) -> list[JaggedTensor]:
        """Embeddings of the candidates, [C, D] each."""
        return [_select(self.embeddings[key], self.places, self.num_candidates) for key in keys]

    def by_row(self, vectors: Tensor) -> Tensor:
        """[B, D] of the candidates' [C, D]: zeros for a row without a candidate."""
        num_rows = self.kjt[self.kjt.keys()[0]].lengths().shape[0]
        return vectors.new_zeros(num_rows, vectors.shape[1]).index_copy(0, self.rows, vectors)


class ImpressionBody(nn.Module):
    """Everything of an ImpressionEncoder but its tables.

    Args:
        encoder: called with the embeddings of histories and of candidates (one JaggedTensor a key)
            and [U] counts of both; gives [C, dim], as `GPSDEncoder` does.
        dim: width of the vectors.
        history: keys of the events, oldest first; all of one length in each row.
        candidates: keys of the candidate, at most one value a row, in the same rows.
        max_history: the newest events that are read.
        deduplicate: impressions of equal histories are encoded as one request.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dim: int,
        history: Sequence[str],
        candidates: Sequence[str],
        max_history: int,
        deduplicate: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim = dim
        self.history = list(history)
        self.candidates = list(candidates)
        self.max_history = max_history
        self.deduplicate = deduplicate

    @property
    def keys(self) -> list[str]:
        """All keys of a batch that are read."""
        return [*self.history, *self.candidates]

    def forward(
        self,
        embeddings: Mapping[str, JaggedTensor] | None,
        items: Mapping[str, JaggedTensor] | None,
        kjt: KeyedJaggedTensor,
        ids: KeyedJaggedTensor,
    ) -> Tensor:
        """The vectors of a batch.

        Args:
            embeddings, items: by key, of the tables and of the item's own table.
            kjt: the batch.
            ids: of the item, as its table read them.

        Returns:
            [B, dim].

        Raises:
            ValueError: keys whose rows are not alike, or more than one candidate in a row.
        """
        batch = self.grouped({**(embeddings or {}), **(items or {})}, kjt, ids)
        states = self.encoder(
            batch.history(self.history),
            batch.candidates(self.candidates),
            batch.num_history,
            batch.num_candidates,
        )
        return batch.by_row(states)

    def grouped(
        self, embeddings: Mapping[str, JaggedTensor], kjt: KeyedJaggedTensor, ids: KeyedJaggedTensor
    ) -> GroupedBatch:
        """The impressions as requests; raises as `forward`."""
        self._check(kjt)
        num_events = kjt[self.history[0]].lengths().long()
        requests, request_of = self._requests(kjt)
        events, num_history = newest(num_events, requests, self.max_history)
        rows = places(kjt[self.candidates[0]].lengths())
        order = torch.argsort(request_of.index_select(0, rows), stable=True)
        rows = rows.index_select(0, order)
        num_candidates = torch.zeros_like(requests).index_add(
            0, request_of.index_select(0, rows), torch.ones_like(rows)
        )
        return GroupedBatch(
            kjt, ids, embeddings, requests, events, num_history, order, rows, num_candidates
        )

    def _requests(self, kjt: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """[U] int64, the row whose history is the request's, and [B] int64, each row's request."""
        first = kjt[self.history[0]]
        if not self.deduplicate:
            own = torch.arange(first.lengths().shape[0], device=first.lengths().device)
            return own, own
        ids = torch.stack([kjt[key].values() for key in self.history], dim=1)
        return group_rows(ids, first.offsets())

    def _check(self, kjt: KeyedJaggedTensor) -> None:
        if torch.compiler.is_compiling():
            return
        for keys in (self.history, self.candidates):
            lengths = kjt[keys[0]].lengths()
            for key in keys[1:]:
                if not torch.equal(kjt[key].lengths(), lengths):
                    raise ValueError(
                        f"keys {keys[0]!r} and {key!r} must have as many values in each row: they "
                        "hold the same events, or the same candidate"
                    )
        require_one_a_row(kjt, self.candidates[0], "the candidate's own id")


def require_one_a_row(kjt: KeyedJaggedTensor, key: str, what: str) -> None:
    """Raises a ValueError where a row has several values of a key."""
    most = int(kjt[key].lengths().max())
    if most > 1:
        raise ValueError(f"key {key!r} holds {what}, one a row, but a row has {most}")


def group_rows(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """`group_requests` of a batch on any device."""
    requests, request_of = group_requests(values.cpu(), offsets.cpu())
    return requests.to(values.device), request_of.to(values.device)


def newest(num_events: Tensor, requests: Tensor, max_history: int) -> tuple[Tensor, Tensor]:
    """The newest events of some rows.

    Args:
        num_events: [B] int64, events of each row.
        requests: [U] int64, the rows.
        max_history: events that are kept of a row.

    Returns:
        [T] int64, their places among all events, and [U] int64, how many each row has.
    """
    ends = num_events.cumsum(0).index_select(0, requests)
    kept = num_events.index_select(0, requests).clamp(max=max_history)
    first = (ends - kept.cumsum(0)).repeat_interleave(kept)  # less the events before it in [T]
    return first + torch.ones_like(first).cumsum(0) - 1, kept


def places(lengths: Tensor) -> Tensor:
    """[sum(lengths)] int64: the row of each value."""
    rows = torch.arange(lengths.shape[0], device=lengths.device)
    return rows.repeat_interleave(lengths.long())


def _select(feature: JaggedTensor, index: Tensor, lengths: Tensor) -> JaggedTensor:
    return JaggedTensor(values=feature.values().index_select(0, index), lengths=lengths)
