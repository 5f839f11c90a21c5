"""DIN, the Deep Interest Network: a history pooled by what its events have to do with the item."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import (
    BaseEmbeddingConfig,
    EmbeddingBagConfig,
    EmbeddingConfig,
)
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.modules.mlp import MLP
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_gr.models.table_configs import common_width
from torchrec_gr.modules.dice import Activation, activated_mlp
from torchrec_gr.modules.target_attention import TargetAttention, rows_of, sum_by_row
from torchrec_gr.schema.feature_schema import FeatureSchema, nearest_valid


@dataclasses.dataclass(frozen=True)
class DINConfig:
    """The sizes of a DIN; the width of its tables is theirs.

    Args:
        attention: hidden widths of the activation unit; its last layer, of width 1, is added.
        dense_arch: hidden widths of the MLP over the dense features; its last layer, as wide as the
            tables, is added.
        over_arch: hidden widths of the MLP over everything; its last layer, as wide as there are
            tasks, is added.
        activation: of the unit and the over arch.
    """

    attention: tuple[int, ...] = (80, 40)
    dense_arch: tuple[int, ...] = (64,)
    over_arch: tuple[int, ...] = (200, 80)
    activation: Activation = "dice"

    def __post_init__(self) -> None:
        if self.activation not in ("dice", "prelu"):
            raise ValueError(f"activation: expected 'dice' or 'prelu', got {self.activation!r}")
        for name in ("attention", "over_arch"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected at least one hidden width, got none")


class DIN(nn.Module):
    """Tables and what reads them; `build_din` checks and makes both.

    Args:
        embeddings: of all features, unpooled.
        body: the rest.
    """

    def __init__(self, embeddings: EmbeddingCollection, body: DINBody) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.body = body

    def forward(self, dense_features: Tensor, sparse_features: KeyedJaggedTensor) -> Tensor:
        """Maps [C, F] float32 and ids of stride C to logits [C, tasks]."""
        logits: Tensor = self.body(dense_features, self.embeddings(sparse_features))
        return logits


class DINBody(nn.Module):
    """Everything of a DIN but its tables.

    Args:
        dim: width of the tables.
        num_dense: columns of the dense features.
        pairs: for each history feature that is compared the candidate feature that it is compared
            with.
        history: further history features.
        others: all features but the histories and the candidate features in `pairs`.
        config: sizes.
        num_tasks: logits a row.
    """

    def __init__(
        self,
        dim: int,
        num_dense: int,
        pairs: Mapping[str, str],
        history: Sequence[str],
        others: Sequence[str],
        config: DINConfig,
        num_tasks: int,
    ) -> None:
        super().__init__()
        self.targets = list(pairs.values())
        self.history = [*pairs, *history]
        self.others = list(others)
        target_dim, event_dim = dim * len(self.targets), dim * len(self.history)
        self.attention = TargetAttention(event_dim, target_dim, config.attention, config.activation)
        self.dense_arch = MLP(num_dense, [*config.dense_arch, dim])
        in_dim = 2 * target_dim + 2 * event_dim + dim * (len(self.others) + 1)
        self.over_arch = nn.Sequential(
            *activated_mlp(in_dim, config.over_arch, config.activation),
            nn.Linear(config.over_arch[-1], num_tasks),
        )

    def forward(self, dense_features: Tensor, embeddings: dict[str, JaggedTensor]) -> Tensor:
        """Maps [C, F] float32 and the embeddings of C rows to logits [C, tasks]."""
        targets = torch.cat([_pooled(embeddings[name]) for name in self.targets], dim=1)
        others = [_pooled(embeddings[name]) for name in self.others]
        events = torch.cat([embeddings[name].values() for name in self.history], dim=1)
        rows = rows_of(embeddings[self.history[0]].lengths(), events.shape[0])
        interest = self.attention(events, targets, rows)
        bag = sum_by_row(events, rows, targets.shape[0])
        agreement = targets * bag[:, : targets.shape[1]]
        dense = self.dense_arch(dense_features)
        joined = torch.cat([targets, interest, bag, agreement, *others, dense], dim=1)
        logits: Tensor = self.over_arch(joined)
        return logits


def build_din(
    tables: Sequence[EmbeddingBagConfig],
    num_dense: int,
    pairs: Mapping[str, str],
    config: DINConfig,
    *,
    history: Sequence[str] = (),
    num_tasks: int = 1,
) -> DIN:
    """Builds a Deep Interest Network.

    The history's plain sum, and its product with the target, stand beside the interest, as in the
    authors' code. Features that are neither history nor target are summed, whatever the `pooling`
    of their tables. On several processes on the CPU each takes Dice's mean and variance of its own
    rows.

    Args:
        tables: of one width.
        num_dense: columns of the dense features, at least 1.
        pairs: for each history feature that is compared the candidate feature of the same table
            that it is compared with, as `history_pairs` finds them.
        config: sizes.
        history: further history features, which are part of an event but have no counterpart, such
            as what came of it. All history features have one id an event.
        num_tasks: logits a row.

    Returns:
        A module that maps (dense_features [C, num_dense] float32, sparse_features of stride C) to
        logits [C, num_tasks]. Its tables are named `embeddings.embeddings.<table>.weight`.

    Raises:
        ValueError: no tables, tables of different widths, no dense feature, no pair, a pair of two
            tables, or a feature that no table has.

    Source: Zhou et al., KDD 2018, 1706.06978; the authors' code for what the paper leaves open.
    """
    dim = common_width(tables, num_dense, "DIN")
    _check_pairs(tables, pairs, history)
    read = {*pairs, *pairs.values(), *history}
    others = [name for table in tables for name in table.feature_names if name not in read]
    body = DINBody(dim, num_dense, pairs, history, others, config, num_tasks)
    return DIN(EmbeddingCollection(tables=[_unpooled(table) for table in tables]), body)


def history_pairs(schema: FeatureSchema) -> dict[str, str]:
    """For each history feature the candidate feature of its column and table, if there is one.

    `FeatureSchema.candidate_of` asks for the table alone, so of several columns that share one it
    gives the first.
    """
    return {
        history.name: candidate.name
        for history in schema.of("history")
        for candidate in schema.of("candidate")
        if (candidate.column, candidate.table) == (history.column, history.table)
        and not candidate.is_computed
    }


def _pooled(embedding: JaggedTensor) -> Tensor:
    """[C, dim]: the sum of each row's embeddings."""
    values, lengths = embedding.values(), embedding.lengths()
    return sum_by_row(values, rows_of(lengths, values.shape[0]), lengths.numel())


def _unpooled(table: EmbeddingBagConfig) -> EmbeddingConfig:
    fields = dataclasses.fields(BaseEmbeddingConfig)
    return EmbeddingConfig(**{field.name: getattr(table, field.name) for field in fields})


def _check_pairs(
    tables: Sequence[EmbeddingBagConfig], pairs: Mapping[str, str], history: Sequence[str]
) -> None:
    if not pairs:
        raise ValueError(
            "pairs: DIN needs a history feature with a candidate feature of the same table to "
            "compare it with, got none"
        )
    table_of = {name: table.name for table in tables for name in table.feature_names}
    for name in (*pairs, *pairs.values(), *history):
        if name not in table_of:
            raise ValueError(nearest_valid("feature", name, table_of))
    for past, candidate in pairs.items():
        if table_of[past] != table_of[candidate]:
            raise ValueError(
                f"pairs: {past!r} reads table {table_of[past]!r}, {candidate!r} table "
                f"{table_of[candidate]!r}: what is compared needs one table"
            )
