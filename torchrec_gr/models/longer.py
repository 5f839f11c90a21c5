"""LONGER as a ranker: long histories, of which most is read merged and once.

Source: 2505.04421. Ours: what the tokens are made of; events are placed by how many are newer; the
user's global tokens do not see the candidate, so that one pass serves all candidates of a request
(see `modules.longer_trunk`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import cast

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection

from torchrec_gr.models.ranking_body import RankingBody
from torchrec_gr.models.ranking_inputs import RankingInputs, RankingReader
from torchrec_gr.models.table_configs import embedding_configs
from torchrec_gr.modules.feature_tokens import UserTokens, token_mlp
from torchrec_gr.modules.longer_trunk import LongerTrunk
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.modules.task_heads import TaskHeads
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.candidate_layout import offsets_of
from torchrec_gr.sequences.request_batch import RequestBatch

POSITION_STD = 0.02


@dataclasses.dataclass(frozen=True)
class LongerConfig:
    """The sizes of a LONGER ranker; the width of its tables is theirs.

    Args:
        trunk: its layers, the first of which is the cross-causal one.
        merge: events of a token.
        num_recent: tokens of the history that are left behind the first layer.
        task_hidden: width of each task's tower.
        init_std: of the normal initial rows of the tables.

    Source: LONGER, 2505.04421: 100 recent tokens.
    """

    trunk: TrunkConfig = field(
        default_factory=lambda: TrunkConfig(block="sasrec", num_layers=3, num_heads=2)
    )
    merge: int = 4
    num_recent: int = 100
    task_hidden: int = 64
    init_std: float = 0.01

    def max_seq_len(self, num_user: int, max_history: int) -> int:
        """Tokens of the longest row: of the user, of the merged history, and a candidate."""
        return num_user + -(-max_history // self.merge) + 1


class LongerRanker(nn.Module):
    """Scores the candidates of requests for every label of the schema.

    A candidate sees the whole history of its request, so that requests must not be windows of
    exposures, whose histories hold later events.

    Args:
        config: sizes.
        schema: whose features; one logit a label.
        table_rows: rows of each table, by name.
        table_dim: width of the tables.

    Raises:
        ValueError: the schema has no history, or a size that `LongerTrunk` does not take.
    """

    def __init__(
        self,
        config: LongerConfig,
        schema: FeatureSchema,
        table_rows: Mapping[str, int],
        table_dim: int,
    ) -> None:
        super().__init__()
        body = LongerRankerBody(config, schema, table_dim)
        self.embeddings = EmbeddingCollection(
            tables=embedding_configs(schema, table_rows, table_dim, init_std=config.init_std)
        )
        self.body = body

    def forward(self, batch: RequestBatch) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        return cast("tuple[Tensor, StepOutput]", self.body(self.embeddings(batch.ids), batch))


class LongerRankerBody(RankingBody):
    """Everything of the ranker but its tables."""

    def __init__(self, config: LongerConfig, schema: FeatureSchema, table_dim: int) -> None:
        reader = RankingReader(schema, table_dim, config.init_std, reads_as_events=True)
        widths = reader.widths
        if not widths.event:
            raise ValueError(
                f"schema {schema.name!r} has no history features, and LONGER reads histories: add "
                "some, or take a ranker without"
            )
        super().__init__(reader, micro_batches=1)
        dim = config.trunk.dim
        self.user = UserTokens(widths.num_scalars, widths.num_numbers, table_dim, dim)
        self.event = token_mlp(widths.event, dim)
        self.candidate = token_mlp(widths.candidate, dim)
        self.places = nn.Embedding(schema.max_history, dim)
        nn.init.normal_(self.places.weight, std=POSITION_STD)
        self.trunk = LongerTrunk(config.trunk, config.merge, config.num_recent)
        self.final_norm = nn.LayerNorm(dim)
        self.heads = TaskHeads(dim, len(schema.labels), config.task_hidden)

    def score(self, inputs: RankingInputs) -> Tensor:
        """Logits of the candidates, [C, tasks].

        Raises:
            ValueError: a row of more tokens than `max_seq_len`.
        """
        hidden = self.trunk(
            self.user(inputs.user, inputs.user_numbers),
            self.event(inputs.events) + self.places(_num_newer(inputs)),
            self.event(inputs.as_events) + self.candidate(inputs.candidates),
            inputs.num_history,
            inputs.num_candidates,
        )
        return cast(Tensor, self.heads(self.final_norm(hidden)))


def _num_newer(inputs: RankingInputs) -> Tensor:
    """[T] int64: how many events of its history are newer than each."""
    num_events = inputs.events.shape[0]
    ends = offsets_of(inputs.num_history)[1:].repeat_interleave(
        inputs.num_history, output_size=num_events
    )
    return ends - 1 - torch.arange(num_events, device=ends.device)
