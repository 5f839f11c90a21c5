"""Where the tokens of a request stand: its history, oldest first, then its candidates."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from torchrec_gr.ops.jagged_concat import jagged_concat


@dataclasses.dataclass(frozen=True)
class CandidateLayout:
    """Where T history and C candidate tokens stand in U jagged rows `[history_u ; candidates_u]`.

    Args:
        offsets: [U + 1] int64, where each request's tokens begin; the last is T + C.
        num_history: [U] int64, where each request's history ends, counted inside its row.
        history_offsets: [U + 1] int64, where each request's history begins among all histories.
        candidate_offsets: [U + 1] int64, likewise of candidates.
        candidate_index: [C] int64, the place of each candidate token among all tokens.
        positions: [T + C] int64. A history token has its place in the row; every candidate of a
            request has the one after the history's end, so that the order of candidates never
            changes a score.
    """

    offsets: Tensor
    num_history: Tensor
    history_offsets: Tensor
    candidate_offsets: Tensor
    candidate_index: Tensor
    positions: Tensor

    @property
    def num_tokens(self) -> int:
        """T + C."""
        return self.positions.numel()

    def interleave(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Puts token values in their places.

        Args:
            history: [T, ...], of any dtype.
            candidates: [C, ...], as `history`.

        Returns:
            [T + C, ...]; gradients flow to both.

        Raises:
            ValueError: the values are not one a token of this layout.
        """
        given = (history.shape[0], candidates.shape[0])
        num_candidates = self.candidate_index.numel()
        expected = (self.num_tokens - num_candidates, num_candidates)
        if given != expected:
            raise ValueError(
                f"expected {expected[0]} history and {expected[1]} candidate values, one a token, "
                f"got {given[0]} and {given[1]}: build the layout from the same batch"
            )
        return jagged_concat(history, candidates, self.history_offsets, self.candidate_offsets)


def lay_out_candidates(
    num_history: Tensor, num_candidates: Tensor, *, sums: tuple[int, int] | None = None
) -> CandidateLayout:
    """Lays out each request's candidates behind its history.

    Args:
        num_history: [U] integers, the events of each request; may be 0.
        num_candidates: [U] integers, the candidates of each request; may be 0.
        sums: of `num_history` and of `num_candidates`, where tensors of these sizes are at hand.
            Left out, they are read off the data, which waits for a GPU and ends a trace.

    Returns:
        The layout of all sum(num_history) + sum(num_candidates) tokens.

    Raises:
        ValueError: the two are not of one length.
    """
    if num_history.shape != num_candidates.shape or num_history.ndim != 1:
        raise ValueError(
            "expected num_history and num_candidates of one shape [U], got "
            f"{list(num_history.shape)} and {list(num_candidates.shape)}"
        )
    num_history, num_candidates = num_history.long(), num_candidates.long()
    if sums is None:
        sums = int(num_history.sum()), int(num_candidates.sum())
    lengths, num_tokens = num_history + num_candidates, sum(sums)
    offsets = offsets_of(lengths)
    candidates_begin = offsets[:-1] + num_history
    return CandidateLayout(
        offsets=offsets,
        num_history=num_history,
        history_offsets=offsets_of(num_history),
        candidate_offsets=offsets_of(num_candidates),
        candidate_index=_places(num_candidates, sums[1])
        + candidates_begin.repeat_interleave(num_candidates, output_size=sums[1]),
        positions=_places(lengths, num_tokens).minimum(
            num_history.repeat_interleave(lengths, output_size=num_tokens)
        ),
    )


def offsets_of(lengths: Tensor) -> Tensor:
    """[n + 1] int64: where each of n rows [n] begins, and where the last ends."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def require_room(lengths: Tensor, max_seq_len: int) -> None:
    """Raises ValueError where one of U rows has more tokens than that; not in a traced program."""
    if torch.compiler.is_compiling() or not lengths.numel():
        return
    longest = int(lengths.max())
    if longest > max_seq_len:
        raise ValueError(
            f"a row has {longest} tokens, more than max_seq_len {max_seq_len}: read fewer "
            "candidates a row or a shorter history, or configure longer rows"
        )


def _places(lengths: Tensor, num_tokens: int) -> Tensor:
    """Counts 0, 1, ... inside each row of a jagged batch: [sum(lengths)] int64."""
    begins = offsets_of(lengths)[:-1].repeat_interleave(lengths, output_size=num_tokens)
    return torch.arange(num_tokens, device=lengths.device) - begins
