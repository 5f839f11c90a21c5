"""HSTU as a ranker: of every exposure, what the user does next.

Source: HSTU, 2402.17152, its ranking; GenRank, 2505.04180, and LiGR, 2502.03417, by configuration.
Read in windows of a user's exposures, each exposure is a candidate, whose action is predicted from
what was known before it, and once past an event, whose action is read: that is HSTU's generative
training of the action at every position. As in DFGR, 2505.16752, the two are tokens of their own,
since a candidate knows more than an event (computed features of its moment, its request), and an
event is known only to strictly later candidates, however many came at one moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingCollection

from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig
from torchrec_gr.models.hstu_ranker_rows import (
    CandidateTokens,
    Context,
    lay_out_context,
    lay_out_rows,
)
from torchrec_gr.models.hstu_ranker_tokens import HSTURankerTokens
from torchrec_gr.models.ranking_body import RankingBody
from torchrec_gr.models.ranking_inputs import RankingInputs, RankingReader
from torchrec_gr.models.table_configs import embedding_configs
from torchrec_gr.modules.sequence_trunk import SequenceTrunk
from torchrec_gr.modules.set_wise_layer import SetWiseLayer
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.modules.task_heads import TaskHeads
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.sequences.candidate_layout import require_room
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.sequences.timeline import before_candidates, before_events


class HSTURanker(nn.Module):
    """Scores the candidates of user windows, or of requests, for every label of the schema.

    Of an event's features those that candidates have too, by their columns, are its item; the
    others, such as `history_long_view`, are its action.

    Args:
        config: sizes and forms.
        schema: whose features; one logit a label.
        table_rows: rows of each table, by name.
        table_dim: width of the tables.

    Raises:
        ValueError: the schema's history has no item or no action.
    """

    def __init__(
        self,
        config: HSTURankerConfig,
        schema: FeatureSchema,
        table_rows: Mapping[str, int],
        table_dim: int,
    ) -> None:
        super().__init__()
        body = HSTURankerBody(config, schema, table_dim)
        self.embeddings = EmbeddingCollection(
            tables=embedding_configs(schema, table_rows, table_dim, init_std=config.init_std)
        )
        self.body = body

    def forward(self, batch: RequestBatch) -> tuple[Tensor, StepOutput]:
        """Returns the loss to call `backward` on, and the step's output."""
        return cast("tuple[Tensor, StepOutput]", self.body(self.embeddings(batch.ids), batch))


class HSTURankerBody(RankingBody):
    """Everything of the ranker but its tables.

    `score` is `context`, `candidate_tokens`, the trunk over both and `predict`. No candidate
    changes a context's tokens, so these may pass the trunk before any candidate is known.
    """

    def __init__(self, config: HSTURankerConfig, schema: FeatureSchema, table_dim: int) -> None:
        reader = RankingReader(
            schema, table_dim, config.init_std, splits_actions=True, reads_as_events=True
        )
        for part, width in (("item", reader.widths.event), ("action", reader.widths.action)):
            if not width:
                raise ValueError(
                    f"schema {schema.name!r} has no history feature of an {part}: HSTU needs one "
                    "whose column a candidate feature has (its item), and one whose column none "
                    "has, such as a label's (its action)"
                )
        super().__init__(reader, config.micro_batches)
        trunk = config.trunk
        self.tokens = HSTURankerTokens(config, reader.widths)
        self.trunk = SequenceTrunk(trunk)
        self.session: SetWiseLayer | None = None
        if config.set_wise:
            width = trunk.feed_forward_dim or 4 * trunk.dim
            self.session = SetWiseLayer(trunk.dim, trunk.num_heads, width, trunk.max_seq_len)
        self.final_norm = nn.LayerNorm(trunk.dim)
        self.heads = TaskHeads(trunk.dim, len(schema.labels), config.task_hidden)

    def score(self, inputs: RankingInputs) -> Tensor:
        """Logits of the candidates, [C, tasks].

        Raises:
            ValueError: a row of more tokens than `max_seq_len`, or history events out of order.
        """
        context, candidates = self.context(inputs), self.candidate_tokens(inputs)
        layout, rows = lay_out_rows(context.rows, candidates)
        x = layout.interleave(context.tokens, candidates.tokens)
        hidden = self.trunk(x, rows, layout.candidate_index)
        return self.predict(hidden, candidates.lengths, candidates.times)

    def context(self, inputs: RankingInputs) -> Context:
        """The tokens of users and events.

        Raises:
            ValueError: a row of more tokens than `max_seq_len`, or history events out of order.
        """
        before = before_events(inputs.num_history, inputs.event_times)
        events = self.tokens.of_events(inputs, before)
        user = self.tokens.of_users(inputs).to(events.dtype)  # autocast's choice
        per_event = self.tokens.tokens_per_event
        return lay_out_context(user, events, inputs, per_event, self.trunk.config.max_seq_len)

    def candidate_tokens(self, inputs: RankingInputs) -> CandidateTokens:
        """The tokens of the candidates.

        Raises:
            ValueError: no room behind what a candidate sees, or history events out of order.
        """
        before = before_candidates(
            inputs.num_history, inputs.event_times, inputs.num_candidates, inputs.candidate_times
        )
        num_visible = self.tokens.tokens_per_event * before.num_events
        num_visible = num_visible + self.tokens.user.num_tokens
        require_room(num_visible + 1, self.trunk.config.max_seq_len)
        tokens = self.tokens.of_candidates(inputs, before)
        return CandidateTokens(tokens, inputs.num_candidates, num_visible, inputs.candidate_times)

    def predict(self, hidden: Tensor, num_candidates: Tensor, candidate_times: Tensor) -> Tensor:
        """Logits [C, tasks] of all candidates [C, D] of U rows, as the trunk gives them."""
        if self.session is not None:
            hidden = self.session(hidden, num_candidates, candidate_times)
        return cast(Tensor, self.heads(self.final_norm(hidden)))
