"""GPSD: generative pretraining on user histories, then a ranker that starts from what it learned.

Source: 2506.03699 and its released configuration. Differences: the loss is the mean over all
predicted positions of the global batch; the out-of-vocabulary row is never a target; dense history
features are not read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.models.table_configs import embedding_configs
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.cosine_softmax import IGNORED, full_softmax, sampled_softmax
from torchrec_gr.modules.global_mean import GlobalMean
from torchrec_gr.modules.ranking_loss import RankingLoss
from torchrec_gr.modules.rotary_embedding import RotaryEmbedding
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.modules.transformer_layer import NORM_EPS, TransformerLayer
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.candidate_layout import CandidateLayout, lay_out_candidates
from torchrec_gr.sequences.request_batch import RequestBatch, negative_key
from torchrec_gr.sequences.visibility import causal, ranking_targets

HISTORY, CANDIDATE = 0, 1  # segments


@dataclasses.dataclass(frozen=True)
class GPSDConfig:
    """The sizes and losses of GPSD.

    Args:
        dim: width of the model and of its tables.
        num_layers, num_heads: of the transformer.
        rope_theta: base of the rotary embedding's wavelengths.
        temperature: of both generative losses.
        side_weight: of the side feature's loss beside the item's.
        init_std: of the normal initial tables and linear weights.
    """

    dim: int = 64
    num_layers: int = 4
    num_heads: int = 4
    rope_theta: float = 1e4
    temperature: float = 0.05
    side_weight: float = 1.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(f"num_layers: expected at least 1, got {self.num_layers}")


class GPSDPretrainer(nn.Module):
    """Predicts the next item, and the next value of a side feature, at every event of a history.

    A batch holds negatives of the target and, where there is a side target, every row of its table
    (see `data.sequence_loader.SequenceLoader`).

    Args:
        config: sizes and losses.
        schema: its `target` is the item, its `side_target` the side feature.
        table_rows: rows of each table, by name.

    Raises:
        ValueError: the schema has no target.
    """

    def __init__(
        self, config: GPSDConfig, schema: FeatureSchema, table_rows: Mapping[str, int]
    ) -> None:
        super().__init__()
        if schema.target is None:
            raise ValueError(
                f"schema {schema.name!r} has no target: name the history feature to pretrain on"
            )
        predicted = [f for f in (schema.target, schema.side_target) if f is not None]
        self.embeddings = EmbeddingCollection(
            tables=embedding_configs(
                schema,
                table_rows,
                config.dim,
                roles=("history",),
                negatives=predicted,
                init_std=config.init_std,
            )
        )
        self.body = GPSDPretrainerBody(config, schema)

    def forward(self, batch: RequestBatch) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        return self.body(self.embeddings(batch.ids), batch)


class GPSDPretrainerBody(nn.Module):
    """Everything of the pretrainer but its tables."""

    def __init__(self, config: GPSDConfig, schema: FeatureSchema) -> None:
        super().__init__()
        assert schema.target is not None
        self.target = schema.target
        self.side_target = schema.side_target
        self.side_weight = config.side_weight
        self.temperature = config.temperature
        self.decoder = GPSDDecoder(config, schema.max_history)
        self.global_mean = GlobalMean()

    def forward(
        self, embeddings: dict[str, JaggedTensor], batch: RequestBatch
    ) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output.

        A unit is an event whose next event's item is in the vocabulary.
        """
        layout = lay_out_candidates(batch.num_history(), torch.zeros_like(batch.num_candidates))
        tokens = self.decoder.tokens([embeddings[f] for f in batch.history], HISTORY)
        items = batch.ids[self.target].values()
        next_events = ((layout.positions > 0) & (items > 0)).nonzero().flatten()
        hidden = self.decoder(tokens, layout, causal(layout.offsets), next_events - 1)
        losses = self._losses(hidden, next_events, embeddings, batch)
        total = losses.sum()
        num_units = total.new_tensor(float(len(next_events)))
        return self.global_mean(total, num_units), StepOutput(total.detach(), num_units)

    def _losses(
        self,
        hidden: Tensor,
        next_events: Tensor,
        embeddings: dict[str, JaggedTensor],
        batch: RequestBatch,
    ) -> Tensor:
        """[P]: the loss of each prediction of one of the next events [P]."""
        negatives = negative_key(self.target)
        losses = sampled_softmax(
            hidden,
            embeddings[self.target].values()[next_events],
            batch.ids[self.target].values()[next_events],
            embeddings[negatives].values(),
            batch.ids[negatives].values(),
            self.temperature,
        )
        if self.side_target is None:
            return losses
        sides = batch.ids[self.side_target].values()[next_events]
        places = torch.where(sides > 0, sides - 1, IGNORED)
        rows = embeddings[negative_key(self.side_target)].values()
        return losses + self.side_weight * full_softmax(hidden, rows, places, self.temperature)


class GPSDRanker(nn.Module):
    """Scores candidates: each stands behind the history, other features join at the head.

    A candidate's token holds those of its features that share a table with a history feature.

    Args:
        config: sizes.
        schema: whose features; one logit a label.
        table_rows: rows of each table, by name.

    Raises:
        ValueError: no candidate feature shares a table with a history feature.
    """

    def __init__(
        self, config: GPSDConfig, schema: FeatureSchema, table_rows: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.embeddings = EmbeddingCollection(
            tables=embedding_configs(schema, table_rows, config.dim, init_std=config.init_std)
        )
        self.body = GPSDRankerBody(config, schema)

    def forward(self, batch: RequestBatch) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        return self.body(self.embeddings(batch.ids), batch)


class GPSDRankerBody(nn.Module):
    """Everything of the ranker but its tables."""

    def __init__(self, config: GPSDConfig, schema: FeatureSchema) -> None:
        super().__init__()
        history_tables = {f.table for f in schema.of("history")}
        candidates = schema.of("candidate")
        self.shared = [f.name for f in candidates if f.table in history_tables]
        if not self.shared:
            raise ValueError(
                f"schema {schema.name!r}: GPSD needs a candidate feature that shares the table of "
                f"a history feature; history features use {sorted(history_tables)}, candidate "
                f"features {sorted({f.table for f in candidates})}"
            )
        self.other = [f.name for f in candidates if f.name not in self.shared]
        self.contextual = [f.name for f in schema.of("contextual")]
        num_dense = len(schema.of("contextual", "dense")) + len(schema.of("candidate", "dense"))
        num_vectors = 1 + len(self.other) + len(self.contextual)
        self.decoder = GPSDDecoder(config, schema.max_history)
        self.head = nn.Sequential(
            nn.Linear(num_vectors * config.dim + num_dense + 1, 4 * config.dim),
            nn.ReLU(),
            nn.Linear(4 * config.dim, len(schema.labels)),
        )
        _initialize(self.head, config.init_std)
        self.loss = RankingLoss()

    def forward(
        self, embeddings: dict[str, JaggedTensor], batch: RequestBatch
    ) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        hidden = self.decoder.candidate_states(
            [embeddings[f] for f in batch.history],
            [embeddings[f] for f in self.shared],
            batch.num_history(),
            batch.num_candidates,
        )
        joined = [hidden, *self._head_features(embeddings, batch)]
        return self.loss(self.head(torch.cat(joined, dim=1)), batch.labels)

    def _head_features(
        self, embeddings: dict[str, JaggedTensor], batch: RequestBatch
    ) -> list[Tensor]:
        """[C, ...] each: what the head reads beside the candidate's hidden state."""
        of_request = [embeddings[f].values() for f in self.contextual]
        of_request.append(batch.num_history().float().log1p().unsqueeze(1))
        if batch.dense_contextual is not None:
            of_request.append(batch.dense_contextual)
        features = [torch.cat(of_request, dim=1).repeat_interleave(batch.num_candidates, dim=0)]
        features.extend(embeddings[f].values() for f in self.other)
        if batch.dense_candidates is not None:
            features.append(batch.dense_candidates)
        return features


class GPSDEncoder(nn.Module):
    """The decoder as a part of another model: candidates in, one vector each out.

    Args:
        config: sizes.
        max_history: events of the longest history.
    """

    def __init__(self, config: GPSDConfig, max_history: int) -> None:
        super().__init__()
        self.decoder = GPSDDecoder(config, max_history)

    def forward(
        self,
        history: list[JaggedTensor],
        candidates: list[JaggedTensor],
        num_history: Tensor,
        num_candidates: Tensor,
    ) -> Tensor:
        """[C, D]: as `GPSDDecoder.candidate_states`."""
        return self.decoder.candidate_states(history, candidates, num_history, num_candidates)


class GPSDDecoder(nn.Module):
    """The transformer over token vectors; the same in both stages, so its weights carry over."""

    def __init__(self, config: GPSDConfig, max_history: int) -> None:
        super().__init__()
        self.segments = nn.Embedding(2, config.dim)
        self.rotary = RotaryEmbedding(config.dim // config.num_heads, config.rope_theta)
        self.layers = nn.ModuleList(
            TransformerLayer(config.dim, config.num_heads) for _ in range(config.num_layers)
        )
        self.final_norm = nn.RMSNorm(config.dim, eps=NORM_EPS)
        self.max_seq_len = max_history + 1
        _initialize(self, config.init_std)

    def tokens(self, features: list[JaggedTensor], segment: int) -> Tensor:
        """[T, D]: the sum of the features' embeddings and the segment's."""
        return sum((f.values() for f in features), start=self.segments.weight[segment])

    def candidate_states(
        self,
        history: list[JaggedTensor],
        candidates: list[JaggedTensor],
        num_history: Tensor,
        num_candidates: Tensor,
    ) -> Tensor:
        """Hidden states of candidates, each behind its request's history.

        Args:
            history: embeddings of each feature of the events, T values of width D.
            candidates: likewise of the candidates, C values.
            num_history, num_candidates: [U] integers, the events and candidates of each request.

        Returns:
            [C, D].
        """
        events, items = self.tokens(history, HISTORY), self.tokens(candidates, CANDIDATE)
        sums = events.shape[0], items.shape[0]
        layout = lay_out_candidates(num_history, num_candidates, sums=sums)
        tokens = layout.interleave(events, items)
        spans = ranking_targets(layout.offsets, layout.num_history, num_tokens=tokens.shape[0])
        return self(tokens, layout, spans, layout.candidate_index)

    def forward(
        self, tokens: Tensor, layout: CandidateLayout, spans: KeySpans, wanted: Tensor
    ) -> Tensor:
        """Hidden states of some tokens; the last layer computes no others.

        Args:
            tokens: [T, D].
            layout: where each stands.
            spans: which tokens each token sees.
            wanted: [Tq] int64, places among all tokens, rising.

        Returns:
            [Tq, D].
        """
        rotation = self.rotary(layout.positions)
        rows = AttentionRows(layout.offsets, layout.offsets, spans, self.max_seq_len, rotation)
        *earlier, last = self.layers
        for layer in earlier:
            tokens = layer(tokens, rows)
        return self.final_norm(last(tokens, rows.narrowed_to(wanted)))


def _initialize(module: nn.Module, std: float) -> None:
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
