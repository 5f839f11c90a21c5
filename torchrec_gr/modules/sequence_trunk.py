"""The layers of a sequence model, of a block that the configuration names."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.modules.crossing import cross_context, encode_context
from torchrec_gr.modules.hstu_layer import HSTULayer, HSTUResearchLayer
from torchrec_gr.modules.ligr_layer import LiGRLayer
from torchrec_gr.modules.relative_bias import BiasKind
from torchrec_gr.modules.sasrec_layer import SASRecLayer
from torchrec_gr.modules.sequence_layer import SequenceLayer
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.sequences.candidate_layout import CandidateLayout, lay_out_candidates

Block = Literal["hstu", "hstu_research", "sasrec", "ligr"]


@dataclasses.dataclass(frozen=True)
class TrunkConfig:
    """What the layers of a sequence model are.

    Args:
        block: "hstu" is HSTU's production form, "hstu_research" that of its public table; "sasrec"
            and "ligr" have softmax attention and an FFN.
        dim: D, width of the model.
        num_layers, num_heads: of the trunk; D / H must be whole.
        feed_forward_dim: of "sasrec" and "ligr"; None: 4 D.
        dropout: in training.
        bias: added to the attention scores of every layer.
        max_seq_len: tokens of the longest row; HSTU's attention is divided by it.

    Raises:
        ValueError: a word that is not known, a number out of its range, or heads that do not divide
            the width.
    """

    block: Block = "hstu"
    dim: int = 64
    num_layers: int = 2
    num_heads: int = 1
    feed_forward_dim: int | None = None
    dropout: float = 0.0
    bias: BiasKind = "none"
    max_seq_len: int = 256

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "feed_forward_dim", "max_seq_len"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name}: expected at least 1, got {number}")
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: expected at least 0 and below 1, got {self.dropout}")
        for name, valid in (("block", Block), ("bias", BiasKind)):
            if getattr(self, name) not in get_args(valid):
                known = ", ".join(get_args(valid))
                raise ValueError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")


class SequenceTrunk(nn.Module):
    """Tokens in, hidden states of those asked for out; the last layer computes no others.

    Args:
        config: which layers.
    """

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.num_layers))

    def forward(self, x: Tensor, rows: AttentionRows, wanted: Tensor | None = None) -> Tensor:
        """Hidden states.

        Args:
            x: [T, D].
            rows: of all tokens, each of which is asked for in the layers before the last.
            wanted: [Tq] int64, places among the T of those asked for, rising; None: all are.

        Returns:
            [Tq, D].
        """
        *earlier, last = self.each_layer()
        for layer in earlier:
            x = layer(x, rows)
        return cast(Tensor, last(x, rows if wanted is None else rows.narrowed_to(wanted)))

    def context(self, x: Tensor, rows: AttentionRows) -> ContextCache:
        """What candidates need of the tokens before them, to be kept.

        Args:
            x: [T, D], the tokens before the candidates.
            rows: of all of them, each of which is asked for.
        """
        keys, values = encode_context(self.each_layer(), x, rows)
        offsets = rows.k_offsets.long()
        return ContextCache(
            keys, values, offsets, offsets.diff(), positions=rows.positions, times=rows.times
        )

    def cross(
        self,
        x: Tensor,
        context: ContextCache,
        num_candidates: Tensor,
        *,
        num_visible: Tensor | None = None,
        positions: Tensor | None = None,
        times: Tensor | None = None,
    ) -> Tensor:
        """Candidates over contexts that were encoded before: each sees its context, and itself.

        What `forward` gives for them on rows [context ; candidates], up to rounding.

        Args:
            x: [C, D], request after request.
            context: of U requests, from this trunk with these weights.
            num_candidates: [U] integers.
            num_visible: [C] integers, how many leading tokens of its context each sees; None: all.
            positions: [C] integers, where the context's were given; None: a candidate stands right
                behind what it sees.
            times: [C] int64, where the context's were given: the moments that candidates ask from.

        Returns:
            [C, D].

        Raises:
            ValueError: candidates and their counts do not fit, or positions or times are given for
                one of context and candidates alone.
        """
        check_candidates(x, context, num_candidates)
        lengths = context.offsets.diff()
        sums = context.keys[0].shape[0], x.shape[0]
        layout = lay_out_candidates(lengths, num_candidates, sums=sums)
        if num_visible is None:
            num_visible = lengths.repeat_interleave(num_candidates, output_size=x.shape[0])
        end, default = num_visible.int(), layout.positions
        default = default.index_copy(0, layout.candidate_index, num_visible.long())
        joined = partial(_joined, layout)
        rows = AttentionRows(
            layout.candidate_offsets,
            layout.offsets,
            KeySpans(torch.zeros_like(end), end),
            self.config.max_seq_len,
            positions=joined("positions", context.positions, positions, default),
            times=joined("times", context.times, times, None),
            wanted=layout.candidate_index,
        )
        return cross_context(self.each_layer(), x, context, rows)

    def each_layer(self) -> list[SequenceLayer]:
        """The layers, first to last."""
        return cast("list[SequenceLayer]", list(self.layers))


def check_candidates(x: Tensor, context: ContextCache, num_candidates: Tensor) -> None:
    """Raises ValueError unless x is [C, D] and num_candidates [U] counts a context's requests'."""
    if num_candidates.shape != context.num_history.shape:
        raise ValueError(
            f"num_candidates: expected one a request, [{context.num_requests}] as the context has, "
            f"got {list(num_candidates.shape)}"
        )
    if x.ndim != 2 or (not torch.compiler.is_compiling() and num_candidates.sum() != x.shape[0]):
        raise ValueError(
            f"x: expected a row for each of {int(num_candidates.sum())} candidates, "
            f"got {list(x.shape)}"
        )


def _joined(
    layout: CandidateLayout,
    name: str,
    context: Tensor | None,
    candidates: Tensor | None,
    default: Tensor | None,
) -> Tensor | None:
    """[T + C] of what was given of [T] context tokens and of [C] candidates."""
    if (context is None) != (candidates is None):
        given, other = ("candidates", "context")[:: 1 if context is None else -1]
        raise ValueError(f"{name} are given of the {given} and not of the {other}: give both")
    if context is None or candidates is None:
        return default
    return layout.interleave(context, candidates)


def _layer(config: TrunkConfig) -> SequenceLayer:
    if config.block in ("hstu", "hstu_research"):
        hstu = HSTULayer if config.block == "hstu" else HSTUResearchLayer
        return hstu(
            config.dim,
            config.num_heads,
            dropout=config.dropout,
            bias=config.bias,
            max_seq_len=config.max_seq_len,
        )
    softmax = SASRecLayer if config.block == "sasrec" else LiGRLayer
    return softmax(
        config.dim,
        config.num_heads,
        config.feed_forward_dim or 4 * config.dim,
        dropout=config.dropout,
        bias=config.bias,
        max_seq_len=config.max_seq_len,
    )
