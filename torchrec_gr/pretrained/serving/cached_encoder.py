"""An attached model's sequence module that encodes each user's history once, and keeps it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_gr.pretrained.attaching.impression_encoder import (
    ImpressionBody,
    ImpressionEncoder,
    newest,
)
from torchrec_gr.pretrained.serving.context_server import ContextServer, joined
from torchrec_gr.pretrained.serving.context_store import ContextStore


class CachedEncoder(nn.Module):
    """Gives impressions the vectors of an ImpressionEncoder, by a ContextServer.

    It takes the encoder's place in an attached model, which then serves from the store:
    `model.pretrained = CachedEncoder(model.pretrained, store, "user_id")`. Impressions of one
    history are one request, of the user of the first of them.

    Args:
        encoder, store: as of `ContextServer`.
        user_key: key of the batch with the user's id, one a row.

    Raises:
        ValueError: as `ContextServer`.
    """

    def __init__(self, encoder: ImpressionEncoder, store: ContextStore, user_key: str) -> None:
        super().__init__()
        self.encoder, self.user_key = encoder, user_key
        self._server = ContextServer(encoder, store)
        self.eval()

    @property
    def body(self) -> ImpressionBody:
        """The encoder's."""
        return self.encoder.body

    @torch.no_grad()
    def forward(self, kjt: KeyedJaggedTensor) -> Tensor:
        """[B, dim]: zeros for a row without a candidate.

        Raises:
            ValueError: keys whose rows are not alike, more than one candidate in a row, or a
                candidate without a user or content.
        """
        batch = self.body.grouped({}, kjt, kjt)
        asked = batch.num_candidates.nonzero().flatten()
        num_candidates = batch.num_candidates[asked]
        if not asked.numel():
            return torch.zeros(kjt.stride(), self.body.dim, device=kjt.device())
        rows = batch.rows[num_candidates.cumsum(0) - num_candidates]
        num_events = kjt[self.body.history[0]].lengths().long()
        events, num_history = newest(num_events, rows, self.body.max_history)
        requests = {
            key: JaggedTensor(kjt[key].values()[events], lengths=num_history)
            for key in self.body.history
        }
        for key in self._server.candidate_keys:
            requests[key] = JaggedTensor(
                self._one_each(kjt, key, batch.rows), lengths=num_candidates
            )
        users = self._one_each(kjt, self.user_key, rows)
        return batch.by_row(self._server.score(users, joined(requests)))

    def _one_each(self, kjt: KeyedJaggedTensor, key: str, rows: Tensor) -> Tensor:
        """The values of some rows."""
        if (kjt[key].lengths()[rows] != 1).any():
            raise ValueError(f"key {key!r} must have one value in each row with a candidate")
        return kjt[key].values()[kjt[key].offsets()[:-1][rows]]
