"""What the tokens of an HSTU ranker are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig
from torchrec_gr.models.ranking_inputs import InputWidths, RankingInputs
from torchrec_gr.modules.feature_tokens import UserTokens, token_mlp
from torchrec_gr.modules.relative_bias import NUM_TIME_BUCKETS
from torchrec_gr.ops.attention_bias import time_buckets
from torchrec_gr.sequences.request_batch import NO_TIME
from torchrec_gr.sequences.timeline import Before

INIT_STD = 0.02


class HSTURankerTokens(nn.Module):
    """User, event and candidate tokens, of width D.

    An event's item and a candidate's go through one network; what a candidate knows beyond it, and
    what came of an event, through one each.

    Args:
        config: the form of tokens, and what is added to them.
        widths: of the inputs.
    """

    def __init__(self, config: HSTURankerConfig, widths: InputWidths) -> None:
        super().__init__()
        dim = config.trunk.dim
        self.tokens_per_event = config.tokens_per_event
        self.user = UserTokens(widths.num_scalars, widths.num_numbers, widths.embedding, dim)
        self.item = token_mlp(widths.event, dim)
        self.action = token_mlp(widths.action, dim)
        self.candidate = token_mlp(widths.candidate, dim)
        self.unknown_action: nn.Parameter | None = None
        if config.tokens == "added":
            self.unknown_action = nn.Parameter(torch.empty(dim).normal_(std=INIT_STD))
        num_entries = {
            "position": config.trunk.max_seq_len,
            "request_index": config.trunk.max_seq_len,
            "time_gap": NUM_TIME_BUCKETS + 1,
        }
        tables = {str(name): nn.Embedding(num_entries[name], dim) for name in config.encodings}
        for table in tables.values():
            nn.init.normal_(table.weight, std=INIT_STD)
        self.encodings = nn.ModuleDict(tables)

    def of_users(self, inputs: RankingInputs) -> Tensor:
        """[U * F, D], row after row."""
        return self.user(inputs.user, inputs.user_numbers).flatten(0, 1)

    def of_events(self, inputs: RankingInputs, before: Before) -> Tensor:
        """[T * tokens an event, D], event after event."""
        items, actions = self.item(inputs.events), self.action(inputs.actions)
        if self.tokens_per_event == 1:
            return self._encoded(items + actions, inputs.event_times, before, 0)
        items = self._encoded(items, inputs.event_times, before, 0)
        actions = self._encoded(actions, inputs.event_times, before, 1)
        return torch.stack([items, actions], dim=1).flatten(0, 1)

    def of_candidates(self, inputs: RankingInputs, before: Before) -> Tensor:
        """[C, D]."""
        tokens = self.item(inputs.as_events) + self.candidate(inputs.candidates)
        if self.unknown_action is not None:
            tokens = tokens + self.unknown_action
        return self._encoded(tokens, inputs.candidate_times, before, 0)

    def _encoded(self, tokens: Tensor, times: Tensor, before: Before, place: int) -> Tensor:
        """The tokens, which stand at this place among those of their event, and what is added."""
        positions = self.tokens_per_event * before.num_events + place
        index = {
            "position": lambda: positions,
            "request_index": lambda: before.num_times,
            "time_gap": lambda: gap_buckets(times, before.newest),
        }
        for name, table in self.encodings.items():
            tokens = tokens + table(index[name]())
        return tokens


def gap_buckets(times: Tensor, earlier: Tensor) -> Tensor:
    """[N] int64 in [0, NUM_TIME_BUCKETS]: of elapsed time; the last where a time is not known."""
    is_unknown = (times == NO_TIME) | (earlier == NO_TIME)
    return time_buckets(times, earlier, NUM_TIME_BUCKETS).masked_fill(is_unknown, NUM_TIME_BUCKETS)
