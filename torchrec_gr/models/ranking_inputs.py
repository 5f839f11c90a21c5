"""From a batch and its embeddings to what the tokens of a ranker are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.candidate_layout import offsets_of
from torchrec_gr.sequences.request_batch import NO_TIME, RequestBatch


class RankingInputs(NamedTuple):
    """What the tokens of U rows are made of: T events, C candidates.

    Args:
        user: [U, F, E], embeddings of the user's F scalars.
        user_numbers: [U, N].
        events: [T, ...], the features of every event side by side; those of its item alone where
            the reader splits off what came of it.
        actions: [T, ...], likewise what came of every event; of no width where nothing is split.
        candidates: [C, ...], likewise of every candidate.
        as_events: [C, ...], the candidates as `events` are; of no width where the reader does not
            read them so.
        num_history, num_static, num_candidates: [U] int64.
        event_times, candidate_times: [T], [C] int64.
    """

    user: Tensor
    user_numbers: Tensor
    events: Tensor
    actions: Tensor
    candidates: Tensor
    as_events: Tensor
    num_history: Tensor
    num_static: Tensor
    num_candidates: Tensor
    event_times: Tensor
    candidate_times: Tensor

    def pieces(self, num_pieces: int) -> list[RankingInputs]:
        """Cuts the rows into so many pieces of about as many tokens, fewer where rows are few."""
        num_scalars = self.user.shape[1] + self.user_numbers.shape[1]
        tokens = offsets_of(num_scalars + self.num_history + self.num_candidates)
        targets = tokens[-1] * torch.arange(1, num_pieces, device=tokens.device) // num_pieces
        inner = torch.searchsorted(tokens, targets).tolist()
        borders = torch.tensor(sorted({0, *inner, self.num_history.shape[0]}))
        rows = borders.diff().tolist()
        events = offsets_of(self.num_history)[borders].diff().tolist()
        candidates = offsets_of(self.num_candidates)[borders].diff().tolist()
        sizes = (
            *(rows, rows, events, events, candidates, candidates),
            *(rows, rows, rows, events, candidates),
        )
        columns = (x.split(size) for x, size in zip(self, sizes, strict=True))
        return [RankingInputs(*piece) for piece in zip(*columns, strict=True)]


@dataclasses.dataclass(frozen=True)
class InputWidths:
    """How wide the parts of RankingInputs are.

    Args:
        embedding: E.
        num_scalars, num_numbers: F and N.
        event, action, candidate: of an event, what came of it, and a candidate.
    """

    embedding: int
    num_scalars: int
    num_numbers: int
    event: int
    action: int
    candidate: int


class RankingReader(nn.Module):
    """Gathers what the tokens are made of: the user's scalars, the events, the candidates.

    A request's own features (the schema's `request_features`) belong to its candidates: those of
    a window come from several requests.

    Args:
        schema: whose features.
        embedding_dim: E, width of the tables.
        init_std: of the placeholders.
        splits_actions: what an event has and no candidate, its outcome, is read apart.
        reads_as_events: candidates are read as events too; an outcome that is not read apart is
            then a learned placeholder, or the number 0.
    """

    def __init__(
        self,
        schema: FeatureSchema,
        embedding_dim: int,
        init_std: float,
        *,
        splits_actions: bool = False,
        reads_as_events: bool = False,
    ) -> None:
        super().__init__()
        of_request = set(schema.request_features)
        contextual, numbers = schema.of("contextual"), schema.of("contextual", "dense")
        self.user = [f.name for f in contextual if f.name not in of_request]
        self.user_columns = [i for i, f in enumerate(numbers) if f.name not in of_request]
        self.request_columns = [i for i, f in enumerate(numbers) if f.name in of_request]
        requests = [f.name for f in contextual if f.name in of_request]
        self.candidates = [f.name for f in schema.of("candidate")] + requests
        self.num_candidate_numbers = len(schema.of("candidate", "dense"))
        self.reads_as_events = reads_as_events
        twins, number_twins = _twins(schema)
        history = [f.name for f in schema.of("history")]
        of_items, of_actions = _split(twins, splits_actions)
        self.events, self.actions = ([history[i] for i in of] for of in (of_items, of_actions))
        self.event_numbers, self.action_numbers = _split(number_twins, splits_actions)
        self.twins = [twins[i] for i in of_items]
        self.number_twins = [number_twins[i] for i in self.event_numbers]
        self.placeholders = None
        if reads_as_events and None in self.twins:
            self.placeholders = nn.Parameter(torch.empty(self.twins.count(None), embedding_dim))
            nn.init.normal_(self.placeholders, std=init_std)
        num_candidate_numbers = self.num_candidate_numbers + len(self.request_columns)
        self.widths = InputWidths(
            embedding=embedding_dim,
            num_scalars=len(self.user),
            num_numbers=len(self.user_columns),
            event=len(self.events) * embedding_dim + len(self.event_numbers),
            action=len(self.actions) * embedding_dim + len(self.action_numbers),
            candidate=len(self.candidates) * embedding_dim + num_candidate_numbers,
        )

    def forward(self, embeddings: dict[str, JaggedTensor], batch: RequestBatch) -> RankingInputs:
        """Reads a batch of U rows."""
        values = {key: embedding.values() for key, embedding in embeddings.items()}
        numbers = self._candidate_numbers(batch)
        num_history = batch.num_history()
        return RankingInputs(
            user=self._user(values, batch),
            user_numbers=self._contextual_numbers(batch, self.user_columns),
            events=self._of_events(values, batch, self.events, self.event_numbers),
            actions=self._of_events(values, batch, self.actions, self.action_numbers),
            candidates=torch.cat(
                [*(self._of_candidates(f, values, batch) for f in self.candidates), numbers], dim=1
            ),
            as_events=self._as_events(values, numbers),
            num_history=num_history,
            num_static=batch.num_static.maximum(_num_untimed(batch, num_history)),
            num_candidates=batch.num_candidates,
            event_times=batch.history_times,
            candidate_times=batch.candidate_times,
        )

    def _user(self, values: dict[str, Tensor], batch: RequestBatch) -> Tensor:
        if not self.user:
            return batch.num_candidates.new_zeros(
                batch.num_requests, 0, self.widths.embedding, dtype=torch.float32
            )
        return torch.stack([values[f] for f in self.user], dim=1)

    def _of_events(
        self, values: dict[str, Tensor], batch: RequestBatch, names: list[str], columns: list[int]
    ) -> Tensor:
        """[T, ...]: some features of the events side by side, numbers by their places."""
        given = batch.dense_history
        if given is None:
            given = batch.num_candidates.new_zeros(
                batch.history_times.numel(), 0, dtype=torch.float32
            )
        given = given if len(columns) == given.shape[1] else given[:, columns]
        return torch.cat([*(values[name] for name in names), given], dim=1)

    def _of_candidates(self, name: str, values: dict[str, Tensor], batch: RequestBatch) -> Tensor:
        """[C, E]: a request's own feature is spread over its candidates, if it is not yet."""
        if name not in batch.contextual:
            return values[name]
        num = batch.num_candidates
        return values[name].repeat_interleave(num, dim=0, output_size=batch.source_rows.numel())

    def _candidate_numbers(self, batch: RequestBatch) -> Tensor:
        """[C, N]: of the candidates, then of their requests."""
        given = batch.dense_candidates
        num_candidates = batch.source_rows.numel()
        if given is None:
            given = batch.num_candidates.new_zeros(num_candidates, 0, dtype=torch.float32)
        if not self.request_columns or given.shape[1] > self.num_candidate_numbers:
            return given
        of_request = self._contextual_numbers(batch, self.request_columns)
        spread = of_request.repeat_interleave(
            batch.num_candidates, dim=0, output_size=num_candidates
        )
        return torch.cat([given, spread], dim=1)

    def _contextual_numbers(self, batch: RequestBatch, columns: list[int]) -> Tensor:
        """[U, N]: some of the requests' numbers, by their places in the schema."""
        given = batch.dense_contextual
        if given is None or not columns:
            return batch.num_candidates.new_zeros(batch.num_requests, 0, dtype=torch.float32)
        if given.shape[1] == self.widths.num_numbers:  # a window's: its requests' own are elsewhere
            return given
        return given[:, columns]

    def _as_events(self, values: dict[str, Tensor], numbers: Tensor) -> Tensor:
        num_candidates = numbers.shape[0]
        if not self.reads_as_events:
            return numbers.new_zeros(num_candidates, 0)
        placeholders = iter(() if self.placeholders is None else self.placeholders)
        columns = [
            next(placeholders).expand(num_candidates, -1) if twin is None else values[twin]
            for twin in self.twins
        ]
        columns += [
            numbers.new_zeros(num_candidates, 1) if place is None else numbers[:, place, None]
            for place in self.number_twins
        ]
        return torch.cat(columns, dim=1)


def _twins(schema: FeatureSchema) -> tuple[list[str | None], list[int | None]]:
    """For each history feature the candidate's of the same column, None where it has none."""
    candidates = {f.column: f.name for f in schema.of("candidate") if not f.is_computed}
    numbers = schema.of("candidate", "dense")
    places = {(f.column, f.transform): i for i, f in enumerate(numbers) if not f.is_computed}
    return (
        [candidates.get(f.column) for f in schema.of("history")],
        [places.get((f.column, f.transform)) for f in schema.of("history", "dense")],
    )


def _split(twins: Sequence[object | None], splits: bool) -> tuple[list[int], list[int]]:
    """The places of what is read together, and of what is read apart: that without a twin."""
    apart = [i for i, twin in enumerate(twins) if splits and twin is None]
    return [i for i in range(len(twins)) if i not in apart], apart


def _num_untimed(batch: RequestBatch, num_history: Tensor) -> Tensor:
    """[U] int64: the events of each history that have no time; they come first."""
    ends = offsets_of(batch.history_times == NO_TIME)[offsets_of(num_history)]
    return ends.diff()
