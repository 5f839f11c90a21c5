"""Which tokens of a sequence see which: one builder of spans a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from torchrec_gr.ops.attention_spans import KeySpans


def causal(offsets: Tensor) -> KeySpans:
    """Every token sees the tokens before it in its row, and itself.

    Args:
        offsets: [B + 1] integers, where each row begins; the last is T.

    Returns:
        Spans of T queries over the same T keys.
    """
    places = _places(offsets)
    return KeySpans(torch.zeros_like(places), places)


def ranking_targets(offsets: Tensor, num_history: Tensor) -> KeySpans:
    """History tokens are causal; a candidate sees all of the history and itself alone.

    With one candidate a row this is `causal`.

    Args:
        offsets: [U + 1] integers, where each row [history ; candidates] begins; the last is T + C.
        num_history: [U] integers, where each row's history ends.

    Returns:
        Spans of T + C queries over the same T + C keys.

    Source: HSTU, 2402.17152, section 2.2 (targets in ranking); GenRank, 2505.04180; M-FALCON.
    """
    places = _places(offsets)
    history_end = num_history.to(places.dtype).repeat_interleave(
        offsets.diff(), output_size=len(places)
    )
    return KeySpans(torch.zeros_like(places), places.minimum(history_end))


def _places(offsets: Tensor) -> Tensor:
    """[T] int32: the place of every token in its row."""
    num_tokens = int(offsets[-1])
    first = offsets[:-1].repeat_interleave(offsets.diff(), output_size=num_tokens)
    return (torch.arange(num_tokens, device=offsets.device) - first).int()
