"""PinFM's pretraining: which items a user will act on, at every event of a history.

Source: PinFM, 2507.12704, section on pretraining: next token, multi-token and future token losses,
InfoNCE with in-batch negatives. The side feature predicted beside the item is Netflix's
("Foundation Model for Personalized Recommendation", 2025).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.embeddings.multi_hash import MultiHashEmbeddingCollection
from torchrec_gr.embeddings.multi_hash_config import MultiHashEmbeddingConfig
from torchrec_gr.embeddings.row_keys import RowKeys
from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.models.pinfm_config import PinFMConfig
from torchrec_gr.models.table_configs import embedding_configs
from torchrec_gr.modules.cosine_softmax import full_softmax
from torchrec_gr.modules.event_pairs import (
    EventPairs,
    future_pairs,
    next_token_pairs,
    window_pairs,
)
from torchrec_gr.modules.global_mean import GlobalMean
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.candidate_layout import offsets_of
from torchrec_gr.sequences.request_batch import RequestBatch, negative_key


@dataclasses.dataclass(frozen=True)
class PinFMLosses:
    """What pretraining predicts. A weight of 0 switches a loss off.

    Args:
        next: weight of the next token loss: event i predicts event i + 1.
        window: of the multi-token loss: event i predicts events i + 1 to i + window_length.
        future: of the future token loss: event served_length predicts the window_length events
            behind it, in histories that are longer.
        side: of the side feature of the next event, beside its item.
        window_length: events ahead.
        max_pairs: of the multi-token loss in a step; more are drawn down to it.
        served_length: events that a ranker will see.
        num_negatives: of a step, drawn from its positive events.
        positives: by history feature the rows that make an event positive, one of any feature
            being enough; empty: every event is. Events of the out-of-vocabulary item never are.

    Raises:
        ValueError: a weight below 0, none above, or a number below 1.
    """

    next: float = 1.0
    window: float = 0.0
    future: float = 0.0
    side: float = 0.0
    window_length: int = 10
    max_pairs: int = 4096
    served_length: int = 50
    num_negatives: int = 1024
    positives: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in ("next", "window", "future", "side")}
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name}: expected a weight of at least 0, got {weight}")
        if not any(weights.values()):
            raise ValueError(f"all losses are switched off: {weights}; give one a weight")
        for name in ("window_length", "max_pairs", "served_length", "num_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


class PinFMPretrainer(nn.Module):
    """Trains a PinFM module, and the tables that it reads, on histories alone.

    Args:
        config: sizes.
        losses: what is predicted.
        schema: its `target` is the item, its `side_target` the side feature.
        table_rows: rows of each table, by name.
        item_keys: [rows] int64, the raw id of each row of the item's table, for a multi-hash table;
            None: the batch's values are hashed as they are.

    Raises:
        ValueError: the schema has no target, or none for a loss that is switched on.
    """

    def __init__(
        self,
        config: PinFMConfig,
        losses: PinFMLosses,
        schema: FeatureSchema,
        table_rows: Mapping[str, int],
        item_keys: Tensor | None = None,
    ) -> None:
        super().__init__()
        if schema.target is None:
            raise ValueError(
                f"schema {schema.name!r} has no target: name the history feature to pretrain on"
            )
        if losses.side and schema.side_target is None:
            raise ValueError(
                f"schema {schema.name!r} has no side_target, which the side loss predicts: name a "
                "history feature, or give side=0"
            )
        item = schema.feature(schema.target)
        tables = embedding_configs(
            schema,
            table_rows,
            config.dim,
            roles=("history",),
            negatives=[schema.side_target] if losses.side and schema.side_target else [],
            init_std=config.init_std,
        )
        if config.num_hashes:
            tables = [table for table in tables if table.name != item.table]
        self.embeddings = EmbeddingCollection(tables=tables) if tables else None
        self.items: nn.Module | None = None
        if config.num_hashes:
            self.item_keys = RowKeys([item.name], item_keys)
            self.items = MultiHashEmbeddingCollection([item_table(config, item.table, [item.name])])
        self.body = PinFMPretrainerBody(config, losses, schema)

    def forward(self, batch: RequestBatch) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        features = {} if self.embeddings is None else self.embeddings(batch.ids)
        items = {} if self.items is None else self.items(self.item_keys(batch.ids))
        return self.body(features, items, batch)


def item_table(
    config: PinFMConfig, table: str, feature_names: list[str]
) -> MultiHashEmbeddingConfig:
    """The multi-hash table of the items, alike in pretraining and ranking."""
    return MultiHashEmbeddingConfig(
        name=table,
        embedding_dim=config.dim,
        num_embeddings=config.hash_rows,
        num_hashes=config.num_hashes,
        feature_names=feature_names,
        init_fn=partial(nn.init.normal_, std=config.init_std),
    )


class PinFMPretrainerBody(nn.Module):
    """Everything of the pretrainer but its tables."""

    def __init__(self, config: PinFMConfig, losses: PinFMLosses, schema: FeatureSchema) -> None:
        super().__init__()
        assert schema.target is not None
        self.target = schema.target
        self.side_target = schema.side_target if losses.side else None
        self.losses = losses
        self.encoder = PinFMEncoder(config)
        self.encoder.contrast.num_negatives = losses.num_negatives
        self.encoder.no_history.requires_grad_(False)  # no history is empty here
        if not (losses.next or losses.window or losses.future):
            self.encoder.target.requires_grad_(False)
        self.global_mean = GlobalMean()
        for feature, rows in losses.positives.items():
            schema.feature(feature)
            self.register_buffer(
                _buffer(feature), torch.tensor(rows, dtype=torch.int64), persistent=False
            )

    def forward(
        self,
        features: dict[str, JaggedTensor],
        items: dict[str, JaggedTensor],
        batch: RequestBatch,
    ) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output.

        The loss is the weighted sum of each loss's mean over its pairs. A unit is a pair of the
        first loss that is switched on.

        Args:
            features, items: embeddings by feature; the item is in one of the two.
            batch: histories alone.
        """
        embeddings = {**features, **items}  # here: TorchRec's pipelines trace what calls this
        num_history = batch.num_history()
        names = [self.target, *(name for name in batch.history if name != self.target)]
        hidden = self.encoder.history_states([embeddings[name] for name in names], num_history)
        is_positive = self.is_positive(batch)
        pairs = self._pairs(offsets_of(num_history), is_positive)
        sums = self._contrastive(pairs, hidden, embeddings, batch, is_positive)
        if self.side_target is not None:
            pairs["side"] = self._with_side(
                next_token_pairs(offsets_of(num_history), is_positive), batch
            )
            sums = torch.cat([sums, self._side(pairs["side"], hidden, embeddings, batch)])
        counts = sums.new_tensor([float(len(given.query)) for given in pairs.values()])
        weights = sums.new_tensor([getattr(self.losses, name) for name in pairs])
        loss = (weights * self.global_mean(sums, counts)).sum()
        mean = (weights * sums.detach() / counts.clamp(min=1)).sum()
        return loss, StepOutput(mean * counts[0], counts[0])

    def is_positive(self, batch: RequestBatch) -> Tensor:
        """[T] bool: the events that may be predicted."""
        known = batch.ids[self.target].values() > 0
        if not self.losses.positives:
            return known
        positive = torch.zeros_like(known)
        for feature in self.losses.positives:
            rows = self.get_buffer(_buffer(feature))
            positive |= torch.isin(batch.ids[feature].values(), rows)
        return known & positive

    def _pairs(self, offsets: Tensor, is_positive: Tensor) -> dict[str, EventPairs]:
        """By loss that is switched on."""
        losses, pairs = self.losses, {}
        if losses.next:
            pairs["next"] = next_token_pairs(offsets, is_positive)
        if losses.window:
            pairs["window"] = window_pairs(
                offsets, is_positive, window=losses.window_length, max_pairs=losses.max_pairs
            )
        if losses.future:
            pairs["future"] = future_pairs(
                offsets,
                is_positive,
                served_length=losses.served_length,
                window=losses.window_length,
            )
        return pairs

    def _contrastive(
        self,
        pairs: Mapping[str, EventPairs],
        hidden: Tensor,
        embeddings: dict[str, JaggedTensor],
        batch: RequestBatch,
        is_positive: Tensor,
    ) -> Tensor:
        """[losses]: the sum of each loss over its pairs."""
        if not pairs:
            return hidden.new_zeros(0)
        users = _users(batch)
        losses = self.encoder.contrast(
            hidden,
            users,
            EventPairs(*map(torch.cat, zip(*pairs.values(), strict=True))),
            self.encoder.target(embeddings[self.target].values()),
            batch.ids[self.target].values(),
            users,
            is_positive,
        )
        counts = [len(given.query) for given in pairs.values()]
        return torch.stack([part.sum() for part in losses.split(counts)])

    def _with_side(self, pairs: EventPairs, batch: RequestBatch) -> EventPairs:
        """Those whose target has a known value of the side feature."""
        assert self.side_target is not None
        known = batch.ids[self.side_target].values()[pairs.target] > 0
        return EventPairs(pairs.query[known], pairs.target[known])

    def _side(
        self,
        pairs: EventPairs,
        hidden: Tensor,
        embeddings: dict[str, JaggedTensor],
        batch: RequestBatch,
    ) -> Tensor:
        """[1]: the sum over the pairs of predicting the side feature among all of its values."""
        assert self.side_target is not None
        rows = embeddings[negative_key(self.side_target)].values()
        places = batch.ids[self.side_target].values()[pairs.target] - 1
        losses = full_softmax(hidden[pairs.query], rows, places, self.encoder.contrast.temperature)
        return losses.sum().reshape(1)


def _users(batch: RequestBatch) -> Tensor:
    """[T] int64: whose each event is; a request of nobody is a user of its own."""
    nobody = -1 - torch.arange(batch.num_requests, device=batch.user_ids.device)
    users = torch.where(batch.user_ids < 0, nobody, batch.user_ids)
    return users.repeat_interleave(batch.num_history())


def _buffer(feature: str) -> str:
    return f"positive_{feature}"
