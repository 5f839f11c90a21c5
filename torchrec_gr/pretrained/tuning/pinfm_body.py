"""A PinFM module over impressions: what its tuning adds to an ImpressionBody."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.pretrained.attaching.impression_encoder import (
    GroupedBatch,
    ImpressionBody,
    group_rows,
    places,
    require_one_a_row,
)
from torchrec_gr.pretrained.attaching.item_ids import REPLACED
from torchrec_gr.pretrained.tuning.cold_start import AgeDropout
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.pretrained.tuning.tuning_objective import TuningObjective, TuningTap

UNKNOWN_AGE = -1
_NO_USER = -1
_NO_LOSSES = (
    "the PinFMTuning has losses, but the model trains outside of a TunedRanker, so without them: "
    "put it into TunedRanker(model, num_tasks), or give the losses weight 0"
)


class PinFMBody(ImpressionBody):
    """Everything of an ImpressionEncoder of a PinFM module but its tables.

    Args:
        encoder: of the tuning's fusion.
        tuning: how it is read and trained.
        objective: the tuning's losses that are taken in here.
        history, candidates: keys as of `ImpressionBody`, the item's first.
        max_history, deduplicate: as of `ImpressionBody`.
        raw_ids: whether the batch's items are raw ids of any value, not rows of which row 0 stands
            for none.

    Attributes:
        tap: takes the vectors and the objective's loss of each forward in training; None: nobody
            asks for them, and no loss is computed.
    """

    encoder: PinFMEncoder

    def __init__(
        self,
        encoder: PinFMEncoder,
        tuning: PinFMTuning,
        objective: TuningObjective,
        *,
        history: Sequence[str],
        candidates: Sequence[str],
        max_history: int,
        deduplicate: bool,
        raw_ids: bool,
    ) -> None:
        super().__init__(
            encoder,
            dim=encoder.out_dim,
            history=history,
            candidates=candidates,
            max_history=max_history,
            deduplicate=deduplicate,
        )
        self.content = list(tuning.content)
        self.request_key = tuning.request_key
        self.user_key = tuning.user_key
        self.age_key = tuning.age_key
        self.has_losses = tuning.has_losses
        self.age_dropout = AgeDropout(tuning.age_dropout)
        self.objective = objective
        self.raw_ids = raw_ids
        self.tap: TuningTap | None = None

    @property
    def keys(self) -> list[str]:
        """All keys of a batch that are read."""
        others = (self.request_key, self.user_key, self.age_key)
        return [*super().keys, *self.content, *(key for key in others if key is not None)]

    def forward(
        self,
        embeddings: Mapping[str, JaggedTensor] | None,
        items: Mapping[str, JaggedTensor] | None,
        kjt: KeyedJaggedTensor,
        ids: KeyedJaggedTensor,
    ) -> Tensor:
        """As `ImpressionBody`; in training with dropout by age, and the losses for the tap."""
        batch = self.grouped({**(embeddings or {}), **(items or {})}, kjt, ids)
        content = self._content(batch)
        tap = self.tap if self.training else None
        if self.training and tap is None and self.has_losses:
            warnings.warn(_NO_LOSSES, stacklevel=2)
        output = self.encoder.encode(
            batch.history(self.history),
            batch.candidates(self.candidates),
            batch.num_history,
            batch.num_candidates,
            content,
            with_history=tap is not None and self.objective.reads_history,
        )
        vectors = batch.by_row(output.candidates)
        if self.age_key is not None:
            vectors = self.age_dropout(vectors, one_a_row(kjt[self.age_key], UNKNOWN_AGE))
        if tap is not None:
            tap.put(vectors, self._auxiliary(batch, output.history, content))
        return vectors

    def _content(self, batch: GroupedBatch) -> Tensor | None:
        """[C, content_dim]; zeros where a row has no value of a key."""
        if not self.content:
            return None
        by_row = torch.cat([one_a_row(batch.embeddings[key], 0) for key in self.content], dim=1)
        return by_row.index_select(0, batch.rows)

    def _auxiliary(
        self, batch: GroupedBatch, states: Tensor | None, content: Tensor | None
    ) -> Tensor:
        """The objective's loss. A candidate whose id was replaced has the content of another."""
        (history,) = batch.history(self.history[:1])
        (candidates,) = batch.candidates(self.candidates[:1])
        events = {key: batch.kjt[key].values()[batch.events] for key in self.history}
        item = self.history[0]
        if self.raw_ids:  # numbered from 1: the objective takes 0 for no item
            events[item] = events[item].unique(return_inverse=True)[1] + 1
        items, item_ids = candidates.values(), batch.ids[self.candidates[0]].values()[batch.places]
        if REPLACED in batch.ids.keys():  # noqa: SIM118
            own = (batch.ids[REPLACED].values()[batch.places] == 0).nonzero().flatten()
            items, item_ids = items[own], item_ids[own]
            content = None if content is None else content[own]
        return self.objective(
            self.encoder,
            states=states,
            history=history.values(),
            history_ids=events,
            num_history=batch.num_history,
            users=self._users(batch),
            candidates=items,
            candidate_ids=item_ids,
            content=content,
        )

    def _users(self, batch: GroupedBatch) -> Tensor | None:
        """[U] int64, equal for requests of one user; who is not named is a user of their own."""
        if self.user_key is None:
            return None
        by_row = one_a_row(batch.kjt[self.user_key], _NO_USER)
        users = by_row.index_select(0, batch.requests).long()
        return torch.where(users == _NO_USER, _NO_USER - 1 - batch.requests, users)

    def _requests(self, kjt: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        if self.request_key is None or not self.deduplicate:
            return super()._requests(kjt)
        given = kjt[self.request_key]
        requests, request_of = group_rows(given.values(), given.offsets())
        if not torch.compiler.is_compiling():
            lengths = kjt[self.history[0]].lengths()
            other = (lengths != lengths[requests][request_of]).nonzero().flatten()
            if len(other):
                self._refuse_unequal(kjt, int(requests[request_of[other[0]]]), int(other[0]))
        return requests, request_of

    def _refuse_unequal(self, kjt: KeyedJaggedTensor, first: int, other: int) -> None:
        """Two rows of one request whose histories are not of one length."""
        request = kjt[str(self.request_key)].to_dense()[first].tolist()
        lengths = kjt[self.history[0]].lengths()
        raise ValueError(
            f"request {request[0] if request else 'without an id'} of key {self.request_key!r}: "
            f"row {first} has a history of {int(lengths[first])} events, row {other} of "
            f"{int(lengths[other])}: impressions of one request have one history; leave "
            "request_key out to group them by equal histories"
        )

    def _check(self, kjt: KeyedJaggedTensor) -> None:
        super()._check(kjt)
        if torch.compiler.is_compiling():
            return
        for key in self.content:
            require_one_a_row(kjt, key, "the candidate's content")
        if self.request_key is not None:
            require_one_a_row(kjt, self.request_key, "the request's id")
        if self.user_key is not None:
            require_one_a_row(kjt, self.user_key, "the user's id")
        if self.age_key is not None:
            require_one_a_row(kjt, self.age_key, "the item's age")


def one_a_row(given: JaggedTensor, missing: int) -> Tensor:
    """[B, ...] values of rows with one value or none; `missing` where there is none."""
    values, lengths = given.values(), given.lengths()
    found = values.new_full((lengths.shape[0], *values.shape[1:]), missing)
    return found.index_copy(0, places(lengths), values)
