"""HSTU as a recommender of the next item, and SASRec on the same trunk interface.

Source: 2402.17152, its retrieval experiments and the configurations behind its public table. The
out-of-vocabulary row is never a target. Trained on the mean over all predicted positions of the
global batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.models.hstu_config import HSTUConfig
from torchrec_gr.models.table_configs import embedding_configs
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.cosine_softmax import unit
from torchrec_gr.modules.event_tokens import EventTokens
from torchrec_gr.modules.global_mean import GlobalMean
from torchrec_gr.modules.next_item_loss import NextItemLoss
from torchrec_gr.modules.next_item_output import NextItemOutput
from torchrec_gr.modules.sequence_trunk import SequenceTrunk
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.candidate_layout import offsets_of
from torchrec_gr.sequences.request_batch import RequestBatch, negative_key
from torchrec_gr.sequences.visibility import causal


class HSTURecommender(nn.Module):
    """Predicts the next item at every event of a history; in eval mode, where it ends.

    A batch holds negatives of the target (see `data.sequence_loader.SequenceLoader`).

    Args:
        config: sizes and loss.
        schema: its `target` is the item; no other feature is read.
        table_rows: rows of each table, by name.

    Raises:
        ValueError: the schema has no target.
    """

    def __init__(
        self, config: HSTUConfig, schema: FeatureSchema, table_rows: Mapping[str, int]
    ) -> None:
        super().__init__()
        if schema.target is None:
            raise ValueError(
                f"schema {schema.name!r} has no target: name the history feature to predict"
            )
        item = schema.feature(schema.target)
        tables = embedding_configs(
            schema,
            table_rows,
            config.trunk.dim,
            roles=("history",),
            negatives=[schema.target],
            init_std=config.init_std,
        )
        self.embeddings = EmbeddingCollection(
            tables=[table for table in tables if table.name == item.table]
        )
        self.body = HSTURecommenderBody(config, schema.target)

    def forward(self, batch: RequestBatch) -> tuple[Tensor, NextItemOutput]:
        """Returns the loss to call `backward` on, 0 in eval mode, and the step's output."""
        return self.body(self.embeddings(batch.ids), batch)


class HSTURecommenderBody(nn.Module):
    """Everything of the recommender but its table.

    Args:
        config: sizes and loss.
        target: the history feature that is read and predicted.
    """

    def __init__(self, config: HSTUConfig, target: str) -> None:
        super().__init__()
        self.target = target
        self.max_seq_len = config.trunk.max_seq_len
        self.reads_times = config.trunk.bias == "position_time"
        self.tokens = EventTokens(config.trunk.dim, config.max_history + 1, config.input_dropout)
        self.trunk = SequenceTrunk(config.trunk)
        self.loss = NextItemLoss(config.temperature, config.num_negatives)
        self.global_mean = GlobalMean()

    def forward(
        self, embeddings: dict[str, JaggedTensor], batch: RequestBatch
    ) -> tuple[Tensor, NextItemOutput]:
        """Returns the loss to call `backward` on, 0 in eval mode, and the step's output."""
        offsets = offsets_of(batch.num_history())
        num_tokens = batch.history_times.shape[0]
        positions = torch.arange(num_tokens, device=offsets.device)
        positions = positions - offsets[:-1].repeat_interleave(
            offsets.diff(), output_size=num_tokens
        )
        tokens = self.tokens(embeddings[self.target].values(), positions)
        rows = self._rows(offsets, batch.history_times)
        if not self.training:
            return self._retrieve(tokens, rows, embeddings)
        items = batch.ids[self.target].values()
        next_events = ((positions > 0) & (items > 0)).nonzero().flatten()
        hidden = self.trunk(tokens, rows, next_events - 1)
        negatives = negative_key(self.target)
        losses = self.loss(
            hidden,
            embeddings[self.target].values()[next_events],
            items[next_events],
            embeddings[negatives].values(),
            batch.ids[negatives].values(),
        )
        total = losses.sum()
        num_units = total.new_tensor(float(len(next_events)))
        return self.global_mean(total, num_units), NextItemOutput(total.detach(), num_units)

    def _retrieve(
        self, tokens: Tensor, rows: AttentionRows, embeddings: dict[str, JaggedTensor]
    ) -> tuple[Tensor, NextItemOutput]:
        known = rows.k_offsets.diff() > 0
        hidden = self.trunk(tokens, rows, rows.k_offsets[1:][known] - 1)
        users = hidden.new_zeros(known.shape[0], hidden.shape[1], dtype=torch.float32)
        users[known] = unit(hidden)
        items = embeddings[negative_key(self.target)].values()
        nothing = users.new_zeros(())
        output = NextItemOutput(nothing, nothing, users, unit(items))
        return nothing, output

    def _rows(self, offsets: Tensor, times: Tensor) -> AttentionRows:
        rows = AttentionRows(offsets, offsets, causal(offsets), self.max_seq_len)
        if not self.reads_times:
            return rows
        return dataclasses.replace(rows, times=times, query_times=_next_times(offsets, times))


def _next_times(offsets: Tensor, times: Tensor) -> Tensor:
    """[T] int64: the time of each event's next one; a row's last event has its own."""
    is_last = torch.zeros_like(times, dtype=torch.bool)
    is_last[offsets[1:][offsets.diff() > 0] - 1] = True
    return torch.where(is_last, times, times.roll(-1))
