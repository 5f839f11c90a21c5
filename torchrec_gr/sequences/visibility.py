"""Which tokens of a sequence see which: one builder of spans a mask.

A builder checks the values it is given in eager mode alone: a traced program has none yet. All but
`mtgr`, and `ranking_targets` where it is told, read the number of tokens off the offsets, for which
`torch.compile(fullgraph=True)` needs `torch._dynamo.config.capture_scalar_outputs`.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor

from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.sequences.request_batch import NO_TIME

_INTEGERS = (torch.int32, torch.int64)


def causal(offsets: Tensor) -> KeySpans:
    """Every token sees the tokens before it in its row, and itself.

    Args:
        offsets: [B + 1] int32 or int64, where each row begins; the last is T.

    Returns:
        Spans of T queries over the same T keys.

    Raises:
        ValueError: `offsets` do not rise from 0.
    """
    _, places = _locate("offsets", offsets)
    return KeySpans(torch.zeros_like(places), places)


def ranking_targets(
    offsets: Tensor,
    num_history: Tensor,
    *,
    num_contextual: Tensor | int = 0,
    window: int | None = None,
    num_full: int = 0,
    num_tokens: int | None = None,
) -> KeySpans:
    """History tokens are causal; a candidate sees all of the history and itself alone.

    With one candidate a row this is `causal`. The keywords make HSTU's production mask of it:
    contextual tokens see each other and all of the history, and everyone behind sees them; a window
    hides what is far back, except from a last stretch of the history and the candidates behind it.

    Args:
        offsets: [U + 1] int32 or int64, where each row [contextual ; history ; candidates] begins;
            the last is T, the number of all tokens.
        num_history: [U] int32 or int64, the history tokens of each row, contextual ones not among
            them.
        num_contextual: the contextual tokens in front of each row: [U] int32 or int64, or one
            number for all rows.
        window: how many tokens before its own a history token sees, at least 1; a candidate counts
            from the end of the history. All contextual tokens count as one: in the window of the
            first event, and seen or hidden together. Left out, nothing is hidden.
        num_full: how many of the last history tokens see past the window. With any, candidates do
            too; with 0, the window binds them as well.
        num_tokens: T, where a tensor of this size is at hand.

    Returns:
        Spans of T queries over the same T keys.

    Raises:
        ValueError: `offsets` do not rise from 0 (to `num_tokens`, if given), a count is negative or
            more than its row holds, or the window is below 1.

    Source: HSTU, 2402.17152, section 2.2 (targets in ranking) and its production code (the
        keywords: contextual_seq_len, max_attn_len, min_full_attn_seq_len); GenRank, 2505.04180;
        M-FALCON.
    """
    if window is not None and window < 1:
        raise ValueError(f"window: expected at least 1, or None to hide nothing, got {window}")
    if num_full < 0:
        raise ValueError(f"num_full: expected at least 0, got {num_full}")
    rows, places = _locate("offsets", offsets, num_tokens)
    num_history = _one_a_row("num_history", num_history, offsets)
    num_contextual = _one_a_row("num_contextual", num_contextual, offsets)
    _check(
        _fits("num_contextual", num_contextual, offsets),
        _fits("num_history", num_history, offsets, before=num_contextual),
    )
    contextual_end = num_contextual[rows].int()
    history_end = (num_contextual + num_history)[rows].int()
    end = places.minimum(history_end)
    start = torch.zeros_like(end)
    if window is not None:
        start = end - window
        sees_past = start < contextual_end
        if num_full:
            sees_past |= end >= history_end - num_full
        start = start.masked_fill(sees_past, 0)
    return KeySpans(start, torch.where(places < contextual_end, history_end, end))


def mtgr(offsets: Tensor, num_static: Tensor, num_real_time: Tensor, times: Tensor) -> KeySpans:
    """Static tokens see each other; all others see them, and the real-time tokens before them.

    A real-time token sees those of its own time too, whatever their order; a candidate sees those
    that are strictly earlier than its exposure, and of the candidates itself alone.

    Args:
        offsets: [U + 1] int32 or int64, where each row [static ; real-time ; candidates] begins;
            the last is T, the number of all tokens.
        num_static: [U] int32 or int64, the user's own tokens and the long-term history.
        num_real_time: [U] int32 or int64, the latest events, oldest first.
        times: [T] int64, of real-time tokens and candidates; those of static tokens are not read.
            Where a log knows only an order, give the order.

    Returns:
        Spans of T queries over the same T keys.

    Raises:
        ValueError: a count is negative or more than its row holds; real-time tokens are not oldest
            first or have no time (`NO_TIME`).

    Source: MTGR, 2505.18654, dynamic masking; the tie of a candidate is our reading: an event at
        the moment of the exposure may be its outcome.
    """
    if times.ndim != 1 or times.dtype != torch.int64:
        raise ValueError(f"times: expected [T] int64, got {list(times.shape)} {times.dtype}")
    num_tokens = times.shape[0]
    rows, places = _locate("offsets", offsets, num_tokens)
    num_static = _one_a_row("num_static", num_static, offsets)
    num_real_time = _one_a_row("num_real_time", num_real_time, offsets)
    is_static = places < num_static[rows]
    is_candidate = places >= (num_static + num_real_time)[rows]

    # Rows behind each other in one rising line, so that one search serves all of them: in a row
    # static tokens stand at moment 0, real-time ones at the rank of their time, candidates last.
    ranks = torch.searchsorted(times.sort().values, times) + 1
    row_begins = rows * (num_tokens + 2)
    moments = ranks.masked_fill(is_static, 0)
    line = row_begins + moments.masked_fill(is_candidate, num_tokens + 1)
    _check(
        _fits("num_static", num_static, offsets),
        _fits("num_real_time", num_real_time, offsets, before=num_static),
        _Claim(
            "times",
            "the time of every real-time token",
            times,
            is_static | is_candidate | (times != NO_TIME),
        ),
        _Claim(
            "times",
            "the real-time tokens of a row oldest first",
            times,
            line.diff(prepend=line[:1]) >= 0,
        ),
    )
    sees_until = row_begins + moments - is_candidate.long()
    end = torch.searchsorted(line, sees_until, right=True) - offsets[rows]
    return KeySpans(torch.zeros_like(places), end.int())


def cached_history(q_offsets: Tensor, k_offsets: Tensor) -> KeySpans:
    """Candidates alone are queries: each sees the keys of the history, and its own.

    What candidates see under `ranking_targets`, where the keys and values of the history were
    computed before: once for all candidates of a user, or for all micro-batches of them.

    Args:
        q_offsets: [B + 1] int32 or int64, where each row of candidates begins; the last is C.
        k_offsets: [B + 1] int32 or int64, where each row [cached history ; the same candidates] of
            keys begins.

    Returns:
        Spans of C queries over the keys.

    Raises:
        ValueError: offsets do not rise from 0, or a row has fewer keys than queries.

    Source: PinFM, 2507.12704 (DCAT's crossing); HSTU, 2402.17152 (M-FALCON).
    """
    rows, places = _locate("q_offsets", q_offsets)
    num_history = _num_other_keys(q_offsets, k_offsets)
    return KeySpans(torch.zeros_like(places), num_history[rows].int())


def longer(
    q_offsets: Tensor,
    k_offsets: Tensor,
    num_globals: Tensor | int,
    num_candidates: Tensor | int = 0,
) -> KeySpans:
    """Global tokens see the whole row; a recent one sees the sequence up to itself, no globals.

    The candidate is among the global tokens, so the sequence's keys and values hold for all
    candidates. For the layers behind the first, where keys are the queries, give the same offsets
    twice.

    Several candidates may share a row, behind its sequence: each sees what a global token sees, and
    of the candidates itself alone; no other token sees a candidate.

    Args:
        q_offsets: [B + 1] int32 or int64, where each row [globals ; most recent of the sequence ;
            candidates] of queries begins; the last is Tq.
        k_offsets: [B + 1] int32 or int64, where each row [globals ; sequence ; candidates] of keys
            begins.
        num_globals: the global tokens of each row: [B] int32 or int64, or one number for all rows.
        num_candidates: likewise of the candidates behind the sequence.

    Returns:
        Spans of Tq queries over the keys, with the place of each among them as `own`.

    Raises:
        ValueError: offsets do not rise from 0, a row has fewer keys than queries, or a count is
            negative or more than the row's queries.

    Source: LONGER, 2505.04421, global tokens and hybrid causal attention; that the sequence sees
        none of the globals, where the paper names the candidate, is our reading, and so are
        candidates that share a row.
    """
    rows, places = _locate("q_offsets", q_offsets)
    num_skipped = _num_other_keys(q_offsets, k_offsets)
    num_globals = _one_a_row("num_globals", num_globals, q_offsets)
    num_candidates = _one_a_row("num_candidates", num_candidates, q_offsets)
    _check(
        _fits("num_globals", num_globals, q_offsets),
        _fits("num_candidates", num_candidates, q_offsets, before=num_globals),
    )
    sequence_begin = num_globals[rows].int()
    sequence_end = (k_offsets.diff() - num_candidates)[rows].int()
    is_global = places < sequence_begin
    own = places + num_skipped[rows].int().masked_fill(is_global, 0)
    sees_all = is_global | (own >= sequence_end)
    start = sequence_begin.masked_fill(sees_all, 0)
    return KeySpans(start, torch.where(sees_all, sequence_end, own), own)


def dfgr(offsets: Tensor) -> KeySpans:
    """Real tokens are causal; a fake token sees the real ones of earlier events, and itself.

    At inference the candidates are the fake tokens behind one real history: `ranking_targets`.

    Args:
        offsets: [B + 1] int32 or int64, where each row [real flow ; fake flow] begins, both flows
            with one token an event; the last is T, the number of all tokens.

    Returns:
        Spans of T queries over the same T keys.

    Raises:
        ValueError: `offsets` do not rise from 0, or a row has an odd number of tokens.

    Source: DFGR, 2505.16752; that a fake token sees strictly earlier events and its own key is our
        reading.
    """
    rows, places = _locate("offsets", offsets)
    lengths = offsets.diff()
    _check(_Claim("offsets", "rows of two flows of one length", lengths, lengths % 2 == 0))
    num_events = (lengths // 2)[rows].int()
    event = torch.where(places < num_events, places, places - num_events)
    return KeySpans(torch.zeros_like(places), event)


def set_wise(offsets: Tensor) -> KeySpans:
    """Every token sees all tokens of its row: the candidates of a request see each other.

    Args:
        offsets: [B + 1] int32 or int64, where each row begins; the last is T.

    Returns:
        Spans of T queries over the same T keys.

    Raises:
        ValueError: `offsets` do not rise from 0.

    Source: LiGR, 2502.03417, set-wise attention in the session layer.
    """
    rows, places = _locate("offsets", offsets)
    return KeySpans(torch.zeros_like(places), offsets.diff()[rows].int())


def _locate(name: str, offsets: Tensor, num_tokens: int | None = None) -> tuple[Tensor, Tensor]:
    """The row of every token, [T] int64, and its place there, [T] int32."""
    if offsets.ndim != 1 or offsets.shape[0] < 1 or offsets.dtype not in _INTEGERS:
        raise ValueError(
            f"{name}: expected [B + 1] int32 or int64, got {list(offsets.shape)} {offsets.dtype}"
        )
    lengths = offsets.diff()
    claims = [
        _Claim(name, "to begin at 0", offsets[:1], offsets[:1] == 0),
        _Claim(name, "rows of 0 or more tokens", lengths, lengths >= 0),
    ]
    if num_tokens is not None:
        last = offsets[-1:]
        claims.append(_Claim(name, f"to end at {num_tokens}, one a time", last, last == num_tokens))
    _check(*claims)
    if num_tokens is None:
        num_tokens = cast(int, offsets[-1].item())  # not int(), which ends a trace
    rows = torch.arange(lengths.shape[0], device=offsets.device)
    rows = rows.repeat_interleave(lengths, output_size=num_tokens)
    return rows, (torch.arange(num_tokens, device=offsets.device) - offsets[rows]).int()


def _one_a_row(name: str, counts: Tensor | int, offsets: Tensor) -> Tensor:
    """[B] integers; a number stands for all rows."""
    num_rows = offsets.shape[0] - 1
    if isinstance(counts, int):
        return offsets.new_full((num_rows,), counts)
    if (
        counts.shape != (num_rows,)
        or counts.dtype not in _INTEGERS
        or counts.device != offsets.device
    ):
        raise ValueError(
            f"{name}: expected one a row, [{num_rows}] int32 or int64 on {offsets.device}, got "
            f"{list(counts.shape)} {counts.dtype} on {counts.device}"
        )
    return counts


def _num_other_keys(q_offsets: Tensor, k_offsets: Tensor) -> Tensor:
    """[B] integers: the keys of each row that are not among its queries."""
    if k_offsets.shape != q_offsets.shape or k_offsets.dtype not in _INTEGERS:
        raise ValueError(
            f"k_offsets: expected {list(q_offsets.shape)} int32 or int64, as q_offsets; got "
            f"{list(k_offsets.shape)} {k_offsets.dtype}"
        )
    num_keys = k_offsets.diff()
    num_other_keys = num_keys - q_offsets.diff()
    _check(
        _Claim("k_offsets", "to begin at 0", k_offsets[:1], k_offsets[:1] == 0),
        _Claim("k_offsets", "a key for every query of the row", num_keys, num_other_keys >= 0),
    )
    return num_other_keys


class _Claim(NamedTuple):
    """What is expected of an argument, and where it holds."""

    name: str
    expected: str
    given: Tensor
    holds: Tensor


def _fits(name: str, counts: Tensor, offsets: Tensor, before: Tensor | int = 0) -> _Claim:
    """That each row holds its count of tokens, behind those `before` them."""
    fits = (counts >= 0) & (before + counts <= offsets.diff())
    return _Claim(name, "at least 0 and no more than is left in its row", counts, fits)


def _check(*claims: _Claim) -> None:
    """Raises ValueError for the first claim that does not hold; one copy to the host for all."""
    if torch.compiler.is_compiling():
        return
    all_hold = torch.stack([claim.holds.all() for claim in claims]).tolist()
    for claim, holds in zip(claims, all_hold, strict=True):
        if not holds:
            index = int((~claim.holds).nonzero()[0])
            raise ValueError(
                f"{claim.name}: expected {claim.expected}, got {int(claim.given[index])} "
                f"at index {index}"
            )
