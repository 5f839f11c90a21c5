"""PinRec: the next items, conditioned on what the user shall do with them.

Source: 2504.10507, outcome-conditioned generation and the windowed loss. Ours: O is an MLP of two
layers; one output a position, not one for each of several steps ahead; every action among a
position's next events is a condition there, and the events of that action are its window; the
out-of-vocabulary item is never a target. Trained on the mean over all conditions of all positions
of the global batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.models.pinrec_config import PinRecConfig
from torchrec_gr.models.table_configs import embedding_configs
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.cosine_softmax import unit
from torchrec_gr.modules.event_pairs import window_pairs
from torchrec_gr.modules.event_tokens import EventTokens
from torchrec_gr.modules.global_mean import GlobalMean
from torchrec_gr.modules.next_item_output import NextItemOutput
from torchrec_gr.modules.sequence_trunk import SequenceTrunk
from torchrec_gr.modules.windowed_softmax import windowed_softmax
from torchrec_gr.schema.feature_schema import FeatureSchema, nearest_valid
from torchrec_gr.sequences.candidate_layout import lay_out_candidates
from torchrec_gr.sequences.request_batch import RequestBatch, negative_key
from torchrec_gr.sequences.visibility import causal


class PinRecRecommender(nn.Module):
    """Predicts items of a desired action at every event; in eval mode, where a history ends.

    A batch holds negatives of the target (see `data.sequence_loader.SequenceLoader`).

    Args:
        config: sizes and loss.
        schema: its `target` is the item; beside it the action is read, and no other feature.
        table_rows: rows of each table, by name.

    Raises:
        ValueError: the schema has no target, the action is no other history feature of it, or its
            table has no such row as the desired one.
    """

    def __init__(
        self, config: PinRecConfig, schema: FeatureSchema, table_rows: Mapping[str, int]
    ) -> None:
        super().__init__()
        target = _target(config, schema)
        read = {schema.feature(name).table for name in (target, config.action)}
        tables = embedding_configs(
            schema,
            table_rows,
            config.trunk.dim,
            roles=("history",),
            negatives=[target],
            init_std=config.init_std,
        )
        self.embeddings = EmbeddingCollection(
            tables=[table for table in tables if table.name in read]
        )
        num_actions = table_rows[schema.feature(config.action).table]
        self.body = PinRecRecommenderBody(config, target, num_actions)

    def forward(self, batch: RequestBatch) -> tuple[Tensor, NextItemOutput]:
        """Returns the loss to call `backward` on, 0 in eval mode, and the step's output."""
        return self.body(self.embeddings(batch.ids), batch)


class PinRecRecommenderBody(nn.Module):
    """Everything of the recommender but its tables.

    Args:
        config: sizes and loss.
        target: the history feature that is read and predicted.
        num_actions: rows of the action's table.

    Raises:
        ValueError: the desired action is none of these rows.
    """

    def __init__(self, config: PinRecConfig, target: str, num_actions: int) -> None:
        super().__init__()
        if not 0 <= config.desired < num_actions:
            raise ValueError(
                f"desired: expected a row of the table of {config.action!r}, 0 to "
                f"{num_actions - 1}, got {config.desired}"
            )
        dim = config.trunk.dim
        self.config = config
        self.target = target
        self.tokens = EventTokens(dim, config.max_history + 1, config.input_dropout)
        self.trunk = SequenceTrunk(config.trunk)
        self.desired_actions = nn.Embedding(num_actions, dim)
        self.output = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
        self.global_mean = GlobalMean()

    def forward(
        self, embeddings: dict[str, JaggedTensor], batch: RequestBatch
    ) -> tuple[Tensor, NextItemOutput]:
        """Returns the loss to call `backward` on, 0 in eval mode, and the step's output."""
        layout = lay_out_candidates(
            batch.num_history(),
            torch.zeros_like(batch.num_candidates),
            sums=(batch.history_times.shape[0], 0),
        )
        events = embeddings[self.target].values() + embeddings[self.config.action].values()
        tokens = self.tokens(events, layout.positions)
        times = batch.history_times if self.config.trunk.bias == "position_time" else None
        rows = AttentionRows(
            layout.offsets,
            layout.offsets,
            causal(layout.offsets),
            self.config.trunk.max_seq_len,
            times=times,
        )
        if not self.training:
            return self._retrieve(tokens, rows, embeddings)
        wishes = self._wishes(layout.offsets, batch)
        hidden = self.trunk(tokens, rows, wishes.positions)[wishes.position]
        negatives = negative_key(self.target)
        losses = windowed_softmax(
            self._predict(hidden, wishes.action),
            embeddings[self.target].values()[wishes.event],
            batch.ids[self.target].values()[wishes.event],
            wishes.wish,
            embeddings[negatives].values(),
            batch.ids[negatives].values(),
            self.config.temperature,
        )
        total = losses.sum()
        num_units = total.new_tensor(float(losses.shape[0]))
        return self.global_mean(total, num_units), NextItemOutput(total.detach(), num_units)

    def _wishes(self, offsets: Tensor, batch: RequestBatch) -> _Wishes:
        known = batch.ids[self.target].values() > 0
        pairs = window_pairs(offsets, known, window=self.config.window, max_pairs=None)
        actions = batch.ids[self.config.action].values()[pairs.target]
        num_actions = self.desired_actions.num_embeddings
        wishes, wish = (pairs.query * num_actions + actions).unique(return_inverse=True)
        positions, position = (wishes // num_actions).unique_consecutive(return_inverse=True)
        return _Wishes(positions, position, wishes % num_actions, pairs.target, wish)

    def _predict(self, hidden: Tensor, actions: Tensor) -> Tensor:
        """[P, D] of hidden states [P, D] and the actions [P] desired there."""
        return self.output(torch.cat([hidden, self.desired_actions(actions)], dim=1))

    def _retrieve(
        self, tokens: Tensor, rows: AttentionRows, embeddings: dict[str, JaggedTensor]
    ) -> tuple[Tensor, NextItemOutput]:
        known = rows.k_offsets.diff() > 0
        last = rows.k_offsets[1:][known] - 1
        hidden = self.trunk(tokens, rows, last)
        predicted = self._predict(hidden, torch.full_like(last, self.config.desired))
        users = predicted.new_zeros(known.shape[0], predicted.shape[1], dtype=torch.float32)
        users[known] = unit(predicted)
        items = embeddings[negative_key(self.target)].values()
        nothing = users.new_zeros(())
        output = NextItemOutput(nothing, nothing, users, unit(items))
        return nothing, output


class _Wishes(NamedTuple):
    """The actions that are desired somewhere: G of them, at some of the events, and P answers.

    Args:
        positions: places of the events that predict, each once, rising.
        position: [G] int64, at which of `positions` each is.
        action: [G] int64, what is desired.
        event: [P] int64, places of the events that answer it.
        wish: [P] int64, which of the G each answers.
    """

    positions: Tensor
    position: Tensor
    action: Tensor
    event: Tensor
    wish: Tensor


def _target(config: PinRecConfig, schema: FeatureSchema) -> str:
    """The item's feature, where the schema has it and the action."""
    if schema.target is None:
        raise ValueError(
            f"schema {schema.name!r} has no target: name the history feature to predict"
        )
    actions = [feature.name for feature in schema.of("history") if feature.name != schema.target]
    if config.action not in actions:
        raise ValueError(nearest_valid("action among the history features", config.action, actions))
    return schema.target
