"""The batches that models read: requests with a history and candidates, or single impressions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torchrec.datasets.utils import Batch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

NO_TIME = torch.iinfo(torch.int64).min
"""The time of an event of which the log knows only the order."""

NO_AGE = torch.iinfo(torch.int32).max
"""The age in days of a candidate of unknown age, which counts as old."""

ITEM_AGE = "item_age_days"
"""The key of an ImpressionBatch that holds the candidates' ages, where the log knows them."""


def negative_key(history_feature: str) -> str:
    """The key of a batch that holds the negatives for the values of a history feature."""
    return f"negative_{history_feature}"


class _TensorFields(Pipelineable):
    """Applies a tensor method to every tensor or keyed jagged tensor field of a dataclass."""

    def _map(self, apply: Callable[[object], object]) -> dict[str, object]:
        return {
            field.name: apply(value)
            if isinstance(value := getattr(self, field.name), (Tensor, KeyedJaggedTensor))
            else value
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory of every field until `stream` has used it."""
        self._map(lambda value: value.record_stream(stream))  # type: ignore[attr-defined]


@dataclasses.dataclass
class RequestBatch(_TensorFields):
    """U requests, each a user at a moment: one history, some candidates. C candidates, T events.

    Args:
        ids: one KeyedJaggedTensor of stride U >= 1 with every categorical feature. A history key
            has one entry an event, oldest first, all history keys alike; a candidate key has
            `num_candidates[u]` entries; a negative key holds ids for the whole batch, in the first
            request's place.
        contextual, history, candidates, negatives: which key is which.
        num_candidates: [U] int64.
        history_times: [T] int64, NO_TIME where the log knows only an order.
        candidate_times: [C] int64, the moments that the candidates' histories end before.
        num_static: [U] int64, how many leading history events are long-term.
        dense_contextual, dense_history, dense_candidates: [U, F], [T, F], [C, F] float32 or None.
        labels: [C, tasks] float32, None in generative pretraining.
        user_ids: [U] int64, the user's place in the log's list of raw ids; -1 where it has none.
        source_rows: [C] int64, the rows of the log.
        item_ages: [C] int64, whole days since each candidate came into being, at least 0 and at
            most NO_AGE, which stands for one that is not known; None where the schema has no
            `item_time`.
    """

    ids: KeyedJaggedTensor
    contextual: list[str]
    history: list[str]
    candidates: list[str]
    negatives: list[str]
    num_candidates: Tensor
    history_times: Tensor
    candidate_times: Tensor
    num_static: Tensor
    user_ids: Tensor
    source_rows: Tensor
    dense_contextual: Tensor | None = None
    dense_history: Tensor | None = None
    dense_candidates: Tensor | None = None
    labels: Tensor | None = None
    item_ages: Tensor | None = None

    @property
    def num_requests(self) -> int:
        """U."""
        return self.num_candidates.numel()

    def num_history(self) -> Tensor:
        """[U] int64: events in each request's history."""
        if not self.history:
            return torch.zeros_like(self.num_candidates)
        return self.ids[self.history[0]].lengths().long()

    def to(self, device: torch.device, non_blocking: bool = False) -> RequestBatch:
        """The batch on `device`."""
        moved = self._map(lambda value: value.to(device=device, non_blocking=non_blocking))  # type: ignore[attr-defined]
        return RequestBatch(**moved)  # type: ignore[arg-type]

    def pin_memory(self) -> RequestBatch:
        """The batch in page-locked memory."""
        return RequestBatch(**self._map(lambda value: value.pin_memory()))  # type: ignore[arg-type, attr-defined]


@dataclasses.dataclass
class ImpressionBatch(Batch, _TensorFields):
    """What an impression-level TorchRec model reads: a `torchrec.datasets.utils.Batch` and more.

    Args:
        dense_features: [C, F] float32.
        sparse_features: KeyedJaggedTensor of stride C >= 1.
        labels: [C, tasks] float32; [C] where there is one task.
        weights: [C] float32; 0 for a row that only fills the batch up.
        user_ids, source_rows: [C] int64, as in RequestBatch.
    """

    weights: Tensor
    user_ids: Tensor
    source_rows: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> ImpressionBatch:
        """The batch on `device`."""
        moved = self._map(lambda value: value.to(device=device, non_blocking=non_blocking))  # type: ignore[attr-defined]
        return ImpressionBatch(**moved)  # type: ignore[arg-type]

    def record_stream(self, stream: torch.Stream) -> None:
        """Keeps the memory of every field until `stream` has used it."""
        _TensorFields.record_stream(self, stream)

    def pin_memory(self) -> ImpressionBatch:
        """The batch in page-locked memory."""
        return ImpressionBatch(**self._map(lambda value: value.pin_memory()))  # type: ignore[arg-type, attr-defined]
