"""A pretrained sequence module over impressions: one vector for each row of a KeyedJaggedTensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_gr.ops.group_requests import group_requests


class ImpressionEncoder(nn.Module):
    """Looks histories and candidates up, and gives each impression its candidate's hidden state.

    Args:
        embeddings: the tables, an EmbeddingCollection or a DynamicEmbeddingCollection of the keys
            below. It is called with the batch's KeyedJaggedTensor as it is, so that TorchRec's
            train pipelines pipeline it.
        body: the rest.
    """

    def __init__(self, embeddings: nn.Module, body: ImpressionBody) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.body = body

    def forward(self, kjt: KeyedJaggedTensor) -> Tensor:
        """[B, D]: zeros for a row without a candidate."""
        return self.body(self.embeddings(kjt), kjt)


class ImpressionBody(nn.Module):
    """Everything of an ImpressionEncoder but its tables.

    Args:
        encoder: called with the embeddings of histories and of candidates (one JaggedTensor a key)
            and [U] counts of both; gives [C, dim], as `GPSDEncoder` does.
        dim: D.
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

    def forward(self, embeddings: dict[str, JaggedTensor], kjt: KeyedJaggedTensor) -> Tensor:
        """[B, D] of the embeddings of a batch and its ids.

        Raises:
            ValueError: keys whose rows are not alike, or more than one candidate in a row.
        """
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
        states = self.encoder(
            [_select(embeddings[key], events, num_history) for key in self.history],
            [_select(embeddings[key], order, num_candidates) for key in self.candidates],
            num_history,
            num_candidates,
        )
        return states.new_zeros(num_events.shape[0], self.dim).index_copy(0, rows, states)

    def _requests(self, kjt: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """[U] int64, the row whose history is the request's, and [B] int64, each row's request."""
        first = kjt[self.history[0]]
        if not self.deduplicate:
            own = torch.arange(first.lengths().shape[0], device=first.lengths().device)
            return own, own
        ids = torch.stack([kjt[key].values() for key in self.history], dim=1)
        requests, request_of = group_requests(ids.cpu(), first.offsets().cpu())
        return requests.to(ids.device), request_of.to(ids.device)

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
        most = int(lengths.max())
        if most > 1:
            raise ValueError(
                f"key {self.candidates[0]!r} holds the candidate's own id, one a row, but a row "
                f"has {most}"
            )


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
