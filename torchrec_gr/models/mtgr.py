"""MTGR: a user's window of exposures as one row of tokens, cross features among the candidates'.

Source: 2505.18654. A row is [user's scalars ; long-term history ; real-time history ; candidates].
The paper does not say what the item MLPs are, nor whether tokens know their places: here they are
two linear layers with SiLU between them, and places are known where `position_bias` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection

from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.models.mtgr_rows import lay_out_rows
from torchrec_gr.models.ranking_body import RankingBody
from torchrec_gr.models.ranking_inputs import InputWidths, RankingInputs, RankingReader
from torchrec_gr.models.table_configs import embedding_configs
from torchrec_gr.modules.feature_tokens import UserTokens, token_mlp
from torchrec_gr.modules.mtgr_layer import MTGRLayer
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.modules.task_heads import TaskHeads
from torchrec_gr.schema.feature_schema import FeatureSchema, Role
from torchrec_gr.sequences.request_batch import RequestBatch


class MTGRRanker(nn.Module):
    """Scores the candidates of user windows, or of requests, for every label of the schema.

    Args:
        config: sizes and forms.
        schema: whose features; one logit a label.
        table_rows: rows of each table, by name.
        table_dim: width of the tables.

    Raises:
        ValueError: the schema has no history or no candidate feature.
    """

    def __init__(
        self,
        config: MTGRConfig,
        schema: FeatureSchema,
        table_rows: Mapping[str, int],
        table_dim: int,
    ) -> None:
        super().__init__()
        roles: tuple[Role, ...] = ("history", "candidate")
        for role in roles:
            if not schema.of(role):
                raise ValueError(f"schema {schema.name!r} has no {role} feature: MTGR reads both")
        self.embeddings = EmbeddingCollection(
            tables=embedding_configs(schema, table_rows, table_dim, init_std=config.init_std)
        )
        self.body = MTGRBody(config, schema, table_dim)

    def forward(self, batch: RequestBatch) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        return self.body(self.embeddings(batch.ids), batch)


class MTGRBody(RankingBody):
    """Everything of the ranker but its tables."""

    def __init__(self, config: MTGRConfig, schema: FeatureSchema, table_dim: int) -> None:
        reads_as_events = config.flow == "dfgr"
        reader = RankingReader(schema, table_dim, config.init_std, reads_as_events=reads_as_events)
        super().__init__(reader, config.micro_batches)
        self.trunk = MTGRTrunk(config, reader.widths, len(schema.labels))

    def score(self, inputs: RankingInputs) -> Tensor:
        """Logits of the candidates, [C, tasks]."""
        return cast(Tensor, self.trunk(inputs))


class MTGRTrunk(nn.Module):
    """From what tokens are made of to logits: [C, tasks].

    Args:
        config: sizes and forms.
        widths: of the inputs.
        num_tasks: logits a candidate.
    """

    group_of_kind: Tensor

    def __init__(self, config: MTGRConfig, widths: InputWidths, num_tasks: int) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.user = UserTokens(widths.num_scalars, widths.num_numbers, widths.embedding, dim)
        self.event = token_mlp(widths.event, dim)
        self.candidate = token_mlp(widths.candidate + 1, dim)
        positions = config.max_seq_len if config.position_bias else None
        self.layers = nn.ModuleList(
            MTGRLayer(dim, config.num_heads, len(config.norm_groups), positions)
            for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(dim)
        self.heads = TaskHeads(dim, num_tasks, config.task_hidden)
        self.register_buffer("group_of_kind", torch.tensor(config.group_of_kind), persistent=False)

    def forward(self, inputs: RankingInputs) -> Tensor:
        """Logits of the candidates, [C, tasks].

        Raises:
            ValueError: a row of more tokens than `max_seq_len`, or history events out of order.
        """
        rows = lay_out_rows(inputs, self.user.num_tokens, self.config)
        x = rows.join(*self._tokens(inputs, rows.num_seen))
        groups = self.group_of_kind[rows.kinds]
        *earlier, last = cast("list[MTGRLayer]", list(self.layers))
        for layer in earlier:
            x = layer(x, rows.attention, groups, rows.positions)
        wanted = rows.attention.narrowed_to(rows.layout.candidate_index)
        x = last(x, wanted, groups, rows.positions)
        return self.heads(self.final_norm(x))

    def _tokens(self, inputs: RankingInputs, num_seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The user's tokens, row after row, the events' and the candidates'."""
        seen = num_seen.to(inputs.candidates.dtype).log1p().unsqueeze(1)
        candidates = self.candidate(torch.cat([inputs.candidates, seen], dim=1))
        if self.config.flow == "dfgr":
            candidates = candidates + self.event(inputs.as_events)
        events = self.event(inputs.events)
        user = self.user(inputs.user, inputs.user_numbers).to(events.dtype)  # autocast's choice
        return user.flatten(0, 1), events, candidates
