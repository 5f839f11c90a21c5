"""LUM: a user model that is asked "what, under this condition?", its answers cached for a ranker.

Step 1 learns from sequences c1, i1, c2, i2, ... of condition and item tokens, step 2 asks users
under many conditions in one pass, step 3 is `models.lum_features`.

Source: 2502.08309. Ours: how a token is made (as HSTU's), uniform negatives shared by a batch, the
mean over all predicted positions of the global batch; the out-of-vocabulary row is never a target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.models.lum_config import LUMConfig
from torchrec_gr.models.table_configs import embedding_configs
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.cosine_softmax import sampled_softmax, unit
from torchrec_gr.modules.event_tokens import EventTokens
from torchrec_gr.modules.global_mean import GlobalMean
from torchrec_gr.modules.sequence_trunk import SequenceTrunk
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.schema.feature_schema import FeatureSchema, nearest_valid
from torchrec_gr.sequences.candidate_layout import lay_out_candidates
from torchrec_gr.sequences.request_batch import RequestBatch, negative_key
from torchrec_gr.sequences.visibility import causal, ranking_targets


class LUMPretrainer(nn.Module):
    """Predicts each event's item from what is known before it and the event's condition.

    A batch holds negatives of the target (see `data.sequence_loader.SequenceLoader`), and at most
    `schema.max_history + 1` events a user.

    Args:
        config: conditions, sizes and loss.
        schema: its `target` is the item.
        table_rows: rows of each table, by name.

    Raises:
        ValueError: the schema has no target, a condition is no history feature or has the target's
            table, or a history is longer than the trunk's rows.
    """

    def __init__(
        self, config: LUMConfig, schema: FeatureSchema, table_rows: Mapping[str, int]
    ) -> None:
        super().__init__()
        target = _check_features(config, schema)
        self.embeddings = EmbeddingCollection(tables=_tables(config, schema, table_rows, target))
        self.body = LUMPretrainerBody(config, target, schema.max_history)
        self._table_of = {name: schema.feature(name).table for name in (target, *config.conditions)}

    def forward(self, batch: RequestBatch) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        return self.body(self.embeddings(batch.ids), batch)

    def query(self, batch: RequestBatch, conditions: Tensor) -> Tensor:
        """Asks each user under every condition, all in one pass; of a model that is not sharded.

        Args:
            batch: U histories.
            conditions: [n, features] int64, the table rows of each condition's features, in the
                configuration's order.

        Returns:
            [U, n, D] float32 unit vectors.
        """
        names, target = self.body.conditions, self.body.target
        history = _sum(self._vectors(name, batch.ids[name].values()) for name in names)
        asked = _sum(map(self._vectors, names, conditions.unbind(1)))
        items = self._vectors(target, batch.ids[target].values())
        return self.body.encoder.query(history, items, batch.num_history(), asked)

    def item_vectors(self) -> Tensor:
        """[rows of the item's table, D] unit vectors; zeros for the out-of-vocabulary row."""
        vectors = unit(self._weight(self.body.target).detach())
        vectors[0] = 0
        return vectors

    def _vectors(self, feature: str, rows: Tensor) -> Tensor:
        return self._weight(feature).index_select(0, rows)

    def _weight(self, feature: str) -> Tensor:
        weight = self.embeddings.embeddings[self._table_of[feature]].weight
        assert isinstance(weight, Tensor)
        return weight


class LUMPretrainerBody(nn.Module):
    """Everything of the pretrainer but its tables.

    Args:
        config: conditions, sizes and loss.
        target: the history feature that is predicted.
        max_history: events of the longest history, without the one to predict.
    """

    def __init__(self, config: LUMConfig, target: str, max_history: int) -> None:
        super().__init__()
        self.target = target
        self.conditions = config.conditions
        self.temperature = config.temperature
        self.encoder = LUMEncoder(config, max_history)
        self.global_mean = GlobalMean()

    def forward(
        self, embeddings: dict[str, JaggedTensor], batch: RequestBatch
    ) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output.

        A unit is an event whose item is in the vocabulary.
        """
        conditions = _sum(embeddings[name].values() for name in self.conditions)
        items, ids = embeddings[self.target].values(), batch.ids[self.target].values()
        predicted = (ids > 0).nonzero().flatten()
        hidden = self.encoder(conditions, items, batch.num_history(), predicted)
        negatives = negative_key(self.target)
        losses = sampled_softmax(
            hidden,
            items[predicted],
            ids[predicted],
            embeddings[negatives].values(),
            batch.ids[negatives].values(),
            self.temperature,
        )
        total = losses.sum()
        num_units = total.new_tensor(float(len(predicted)))
        return self.global_mean(total, num_units), StepOutput(total.detach(), num_units)


class LUMEncoder(nn.Module):
    """The decoder over rows c1, i1, c2, i2, ..., behind which queries may stand.

    Args:
        config: sizes.
        max_history: events of the longest history that is queried. Learning reads one more, so that
            a query behind such a history has a place that was learned.

    Raises:
        ValueError: the trunk's rows are too short.
    """

    def __init__(self, config: LUMConfig, max_history: int) -> None:
        super().__init__()
        num_places = 2 * (max_history + 1)
        if config.trunk.max_seq_len < num_places:
            raise ValueError(
                f"trunk.max_seq_len: {max_history} events and the one to predict, two tokens each, "
                f"need {num_places}, got {config.trunk.max_seq_len}"
            )
        self.tokens = EventTokens(config.trunk.dim, num_places, config.input_dropout)
        self.trunk = SequenceTrunk(config.trunk)

    def forward(
        self, conditions: Tensor, items: Tensor, num_history: Tensor, events: Tensor
    ) -> Tensor:
        """What the model says at the condition tokens of some events.

        Args:
            conditions, items: [T, D], embeddings of the events of all histories, oldest first.
            num_history: [U] integers, events of each history.
            events: [P] int64, places among the T, rising.

        Returns:
            [P, D].
        """
        num_history = 2 * num_history
        layout = lay_out_candidates(
            num_history, torch.zeros_like(num_history), sums=(2 * items.shape[0], 0)
        )
        tokens = self.tokens(_alternating(conditions, items), layout.positions)
        max_seq_len = self.trunk.config.max_seq_len
        rows = AttentionRows(layout.offsets, layout.offsets, causal(layout.offsets), max_seq_len)
        hidden: Tensor = self.trunk(tokens, rows, 2 * events)
        return hidden

    def query(
        self, conditions: Tensor, items: Tensor, num_history: Tensor, queries: Tensor
    ) -> Tensor:
        """What each user would take under every condition, all conditions in one pass.

        A query stands behind its user's history, sees it and itself, and no other query. An empty
        history is one as any other.

        Args:
            conditions, items, num_history: as `forward`.
            queries: [n, D], the embeddings of the conditions that all users are asked under.

        Returns:
            [U, n, D] float32 unit vectors.

        Source: LUM, 2502.08309, "group query".
        """
        num_users, num_queries = num_history.shape[0], queries.shape[0]
        num_history = 2 * num_history
        layout = lay_out_candidates(
            num_history,
            torch.full_like(num_history, num_queries),
            sums=(2 * items.shape[0], num_users * num_queries),
        )
        tokens = layout.interleave(_alternating(conditions, items), queries.repeat(num_users, 1))
        tokens = self.tokens(tokens, layout.positions)
        rows = AttentionRows(
            layout.offsets,
            layout.offsets,
            ranking_targets(layout.offsets, layout.num_history, num_tokens=layout.num_tokens),
            self.trunk.config.max_seq_len,
            positions=layout.positions,
        )
        hidden = self.trunk(tokens, rows, layout.candidate_index)
        return unit(hidden).unflatten(0, (num_users, num_queries))


def _alternating(conditions: Tensor, items: Tensor) -> Tensor:
    """[2 T, D]: c1, i1, c2, i2, ..."""
    return torch.stack([conditions, items], dim=1).flatten(0, 1)


def _sum(vectors: Iterable[Tensor]) -> Tensor:
    first, *others = vectors
    return sum(others, start=first)


def _check_features(config: LUMConfig, schema: FeatureSchema) -> str:
    """The target; what cannot be its condition is refused."""
    if schema.target is None:
        raise ValueError(
            f"schema {schema.name!r} has no target: name the history feature to pretrain on"
        )
    table = schema.feature(schema.target).table
    others = {f.name: f.table for f in schema.of("history") if f.table != table}
    for name in config.conditions:
        if name not in others:
            raise ValueError(nearest_valid("history feature for a condition", name, others))
    return schema.target


def _tables(
    config: LUMConfig, schema: FeatureSchema, table_rows: Mapping[str, int], target: str
) -> Sequence[EmbeddingConfig]:
    """The tables of item and conditions, for these features alone."""
    read = {target, negative_key(target), *config.conditions}
    tables = embedding_configs(
        schema,
        table_rows,
        config.trunk.dim,
        roles=("history",),
        negatives=[target],
        init_std=config.init_std,
    )
    kept = [[name for name in table.feature_names if name in read] for table in tables]
    return [
        dataclasses.replace(table, feature_names=names)
        for table, names in zip(tables, kept, strict=True)
        if names
    ]
