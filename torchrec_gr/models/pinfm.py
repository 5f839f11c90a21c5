"""PinFM: a user-sequence foundation module, encoded once per request, crossed by many candidates.

Source: 2507.12704. Its sections name the pieces: events in, hidden states out (pretraining), early
and late fusion (fine-tuning), context and crossing (DCAT). Time orders the events; it enters as a
feature where the schema has one. Positions are learned; the paper is silent on both.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from torchrec_gr.models.pinfm_config import EARLY_FUSION, PinFMConfig, PinFMFusion
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.modules.contrastive import InfoNCE
from torchrec_gr.modules.crossing import cross_context, encode_context
from torchrec_gr.modules.gpt2_layer import GPT2Layer
from torchrec_gr.modules.hstu_layer import HSTULayer
from torchrec_gr.modules.pointwise_mlp import PointwiseMLP
from torchrec_gr.modules.sequence_layer import SequenceLayer
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.ops.jagged_concat import jagged_concat, jagged_split
from torchrec_gr.sequences.candidate_layout import lay_out_candidates, offsets_of
from torchrec_gr.sequences.visibility import cached_history, causal, ranking_targets


class PinFMOutput(NamedTuple):
    """What `PinFMEncoder.encode` gives.

    Args:
        candidates: [C, out_dim].
        history: [T, D] unit vectors, H_i of every event; None where not asked for.
    """

    candidates: Tensor
    history: Tensor | None


class PinFMEncoder(nn.Module):
    """The module inside a ranker: histories and candidates in, a vector for each candidate out.

    A candidate's vector is [the hidden state at its position ; its raw id embedding]. Requests are
    given once, with all of their candidates: equal histories are found by `group_requests` before.
    Embeddings of several features of an event are summed, the item's first among them.

    Args:
        config: sizes.
        fusion: how candidates meet the history.

    Source: PinFM, 2507.12704; the learned answer to an empty history is ours.
    """

    def __init__(self, config: PinFMConfig, fusion: PinFMFusion = EARLY_FUSION) -> None:
        super().__init__()
        self.fusion = fusion
        self.max_positions = config.max_positions
        self.out_dim = 2 * config.dim
        self.token_in = PointwiseMLP(config.dim, config.dim)
        self.positions = nn.Embedding(config.max_positions + 2, config.dim)
        layer = GPT2Layer if config.trunk == "gpt2" else HSTULayer
        self.layers = nn.ModuleList(
            layer(config.dim, config.num_heads) for _ in range(config.num_layers)
        )
        self.final_norm = nn.LayerNorm(config.dim)
        self.token_out = PointwiseMLP(config.dim, config.dim)
        self.target = PointwiseMLP(config.dim, config.dim)
        self.contrast = InfoNCE(config.temperature)
        self.no_history = nn.Parameter(torch.empty(config.dim))
        self.token = nn.Parameter(torch.empty(config.dim)) if fusion.learnable_token else None
        self.content = nn.Linear(fusion.content_dim, config.dim) if fusion.content_dim else None
        for learned in (self.positions.weight, self.no_history, self.token):
            if learned is not None:
                nn.init.normal_(learned, std=config.init_std)

    def forward(
        self,
        history: list[JaggedTensor],
        candidates: list[JaggedTensor],
        num_history: Tensor,
        num_candidates: Tensor,
        content: Tensor | None = None,
    ) -> Tensor:
        """Encodes each request's history once, and its candidates across it.

        One pass over rows [history ; candidates], in which a candidate sees the history and itself:
        the keys and values of the history serve all candidates, and the last layer computes no
        other tokens than theirs.

        Args:
            history: embeddings of each feature of the events, T values of width D.
            candidates: likewise of the candidates, C values, request after request.
            num_history, num_candidates: [U] integers, of each request.
            content: [C, content_dim], where the fusion has any.

        Returns:
            [C, out_dim].

        Raises:
            ValueError: a history longer than `max_positions`, or content where none is expected.
        """
        return self.encode(history, candidates, num_history, num_candidates, content).candidates

    def encode(
        self,
        history: list[JaggedTensor],
        candidates: list[JaggedTensor],
        num_history: Tensor,
        num_candidates: Tensor,
        content: Tensor | None = None,
        *,
        with_history: bool = False,
    ) -> PinFMOutput:
        """As `forward`, and the hidden states of the history, if asked for."""
        if self.fusion.kind != "early":
            summary, states = self._pooled(history, num_history)
            return PinFMOutput(self._spread(summary, candidates, num_candidates), states)
        events, num_context = self._context_tokens(history, num_history)
        items = self._candidate_tokens(candidates, content)
        sums = events.shape[0], items.shape[0]
        layout = lay_out_candidates(num_context, num_candidates, sums=sums)
        tokens = layout.interleave(events, items) + self.positions(layout.positions)
        spans = ranking_targets(layout.offsets, layout.num_history, num_tokens=tokens.shape[0])
        rows = self._rows(layout.offsets, layout.offsets, spans)
        hidden = self._decode(tokens, rows, None if with_history else layout.candidate_index)
        past = None
        if with_history:
            offsets = layout.history_offsets, layout.candidate_offsets
            context, hidden = jagged_split(hidden, *offsets, num_a=sums[0])
            past = self._without_token(context, num_history)
        return PinFMOutput(self._answers(hidden, candidates, num_history, num_candidates), past)

    def history_states(self, history: list[JaggedTensor], num_history: Tensor) -> Tensor:
        """H_i of every event: [T, D] unit vectors; arguments as `forward`."""
        events = self._event_tokens(history, num_history)
        layout = lay_out_candidates(
            num_history, torch.zeros_like(num_history), sums=(events.shape[0], 0)
        )
        tokens = events + self.positions(layout.positions)
        return self._decode(tokens, self._causal(layout.offsets), None)

    def context(self, history: list[JaggedTensor], num_history: Tensor) -> ContextCache:
        """What candidates need of each request's history, to be kept; arguments as `forward`.

        The last layer computes keys and values alone.
        """
        if self.fusion.kind != "early":
            summary, _ = self._pooled(history, num_history)
            return ContextCache((), (), offsets_of(num_history), num_history.long(), summary)
        x, num_context = self._context_tokens(history, num_history)
        layout = lay_out_candidates(
            num_context, torch.zeros_like(num_context), sums=(x.shape[0], 0)
        )
        x, rows = x + self.positions(layout.positions), self._causal(layout.offsets)
        keys, values = encode_context(self._layers(), x, rows)
        return ContextCache(keys, values, layout.offsets, num_history.long())

    def cross(
        self,
        context: ContextCache,
        candidates: list[JaggedTensor],
        num_candidates: Tensor,
        content: Tensor | None = None,
    ) -> Tensor:
        """Candidates over contexts that were encoded before: what `forward` gives, [C, out_dim].

        Args:
            context: of U requests, from this module with these weights.
            candidates, num_candidates, content: as `forward`.
        """
        if context.summary is not None:
            return self._spread(context.summary, candidates, num_candidates)
        x = self._candidate_tokens(candidates, content)
        places = self.positions(context.offsets.diff())
        x = x + places.repeat_interleave(num_candidates, dim=0, output_size=x.shape[0])
        own_offsets = offsets_of(num_candidates)
        k_offsets = context.offsets + own_offsets
        rows = self._rows(own_offsets, k_offsets, cached_history(own_offsets, k_offsets))
        x = cross_context(self._layers(), x, context, rows)
        hidden = self.token_out(self.final_norm(x))
        return self._answers(hidden, candidates, context.num_history, num_candidates)

    def _event_tokens(self, history: list[JaggedTensor], num_history: Tensor) -> Tensor:
        self._require_room(num_history)
        return self.token_in(_sum(history))

    def _context_tokens(
        self, history: list[JaggedTensor], num_history: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The tokens before the candidates, and [U] how many each request has."""
        events = self._event_tokens(history, num_history)
        if self.token is None:
            return events, num_history
        num_requests = num_history.shape[0]
        one_each = torch.arange(num_requests + 1, device=events.device)
        tokens = self.token.expand(num_requests, -1)
        events = jagged_concat(events, tokens, offsets_of(num_history), one_each)
        return events, num_history + 1

    def _without_token(self, context: Tensor, num_history: Tensor) -> Tensor:
        """The history's part of what was made of `_context_tokens`."""
        if self.token is None:
            return context
        num_requests = num_history.shape[0]
        one_each = torch.arange(num_requests + 1, device=context.device)
        num_events = context.shape[0] - num_requests
        return jagged_split(context, offsets_of(num_history), one_each, num_a=num_events)[0]

    def _candidate_tokens(self, candidates: list[JaggedTensor], content: Tensor | None) -> Tensor:
        if (content is None) != (self.content is None):
            raise ValueError(
                f"content: expected {'none' if self.content is None else '[C, content_dim]'}, as "
                f"the fusion says, got {'none' if content is None else list(content.shape)}"
            )
        items = _sum(candidates)
        if self.content is not None and content is not None:
            items = items + self.content(content)
        return self.token_in(items)

    def _decode(self, tokens: Tensor, rows: AttentionRows, wanted: Tensor | None) -> Tensor:
        """[Tq, D] unit vectors of the tokens at places `wanted`; None: of all."""
        *earlier, last = self._layers()
        for layer in earlier:
            tokens = layer(tokens, rows)
        tokens = last(tokens, rows if wanted is None else rows.narrowed_to(wanted))
        return self.token_out(self.final_norm(tokens))

    def _pooled(self, history: list[JaggedTensor], num_history: Tensor) -> tuple[Tensor, Tensor]:
        """Late fusion: [U, D] of each request, and [T, D] of its events."""
        states = self.history_states(history, num_history)
        offsets = offsets_of(num_history)
        known = (num_history > 0).unsqueeze(1)
        if self.fusion.kind == "last":
            padded = torch.cat([states.new_zeros(1, states.shape[1]), states])
            return torch.where(known, padded[offsets[1:]], self.no_history), states
        rows = torch.arange(num_history.shape[0], device=states.device)
        rows = rows.repeat_interleave(num_history, output_size=states.shape[0])
        sums = states.new_zeros(num_history.shape[0], states.shape[1]).index_add(0, rows, states)
        means = sums / num_history.clamp(min=1).unsqueeze(1)
        return torch.where(known, means, self.no_history), states

    def _spread(
        self, summary: Tensor, candidates: list[JaggedTensor], num_candidates: Tensor
    ) -> Tensor:
        """[C, out_dim]: the request's vector for each of its candidates."""
        items = candidates[0].values()
        hidden = summary.repeat_interleave(num_candidates, dim=0, output_size=items.shape[0])
        return torch.cat([hidden, items], dim=1)

    def _answers(
        self,
        hidden: Tensor,
        candidates: list[JaggedTensor],
        num_history: Tensor,
        num_candidates: Tensor,
    ) -> Tensor:
        """[C, out_dim]: the hidden state, or the answer to no history, and the raw embedding."""
        known = (num_history > 0).repeat_interleave(num_candidates, output_size=hidden.shape[0])
        hidden = torch.where(known.unsqueeze(1), hidden, self.no_history)
        return torch.cat([hidden, candidates[0].values()], dim=1)

    def _rows(self, q_offsets: Tensor, k_offsets: Tensor, spans: KeySpans) -> AttentionRows:
        return AttentionRows(q_offsets, k_offsets, spans, self.max_positions + 2)

    def _causal(self, offsets: Tensor) -> AttentionRows:
        return self._rows(offsets, offsets, causal(offsets))

    def _layers(self) -> list[SequenceLayer]:
        return cast("list[SequenceLayer]", list(self.layers))

    def _require_room(self, num_history: Tensor) -> None:
        if torch.compiler.is_compiling() or not num_history.numel():
            return
        longest = int(num_history.max())
        if longest > self.max_positions:
            raise ValueError(
                f"a history has {longest} events, more than max_positions {self.max_positions}: "
                "cut it to its newest ones, or configure the module for longer ones"
            )


def _sum(features: list[JaggedTensor]) -> Tensor:
    first, *others = (feature.values() for feature in features)
    return sum(others, start=first)
