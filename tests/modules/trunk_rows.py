"""Rows of awkward lengths with times, and trunks whose every weight matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.sequence_trunk import SequenceTrunk, TrunkConfig
from torchrec_gr.sequences.visibility import causal

DIM, LONGEST = 12, 14
LENGTHS = (0, 1, 5, LONGEST, 0, 2)


@dataclasses.dataclass
class TrunkCase:
    """Tokens [T, D], their rows, and the times of each row's events."""

    x: Tensor
    rows: AttentionRows
    times: list[list[int]]

    def padded(self, num_tokens: int = LONGEST) -> Tensor:
        """[B, N, D] float64, with numbers in the padding that would show if they were read."""
        lengths = self.rows.k_offsets.diff().tolist()
        padded = torch.full((len(lengths), num_tokens, self.x.shape[1]), 1e3, dtype=torch.float64)
        for row, tokens in enumerate(self.x.double().split(lengths)):
            padded[row, : len(tokens)] = tokens
        return padded

    def unpadded(self, x: Tensor) -> Tensor:
        """[T, D] of [B, N, D]."""
        lengths = self.rows.k_offsets.diff().tolist()
        return torch.cat([x[row, :length] for row, length in enumerate(lengths)])


def make_case(
    max_seq_len: int = LONGEST, lengths: Sequence[int] = LENGTHS, seed: int = 0
) -> TrunkCase:
    """Times are equal, seconds, months or, between the last two, beyond the last bucket apart."""
    torch.manual_seed(seed)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    times = []
    for length in lengths:
        gaps = torch.tensor([0, 3, 4000, 10**8])[torch.randint(4, (length,))]
        gaps[-1:] = 7 * 10**16 if length > 2 else 1
        times.append(gaps.cumsum(0).tolist())
    rows = AttentionRows(
        offsets,
        offsets,
        causal(offsets),
        max_seq_len,
        times=_joined(times),
        query_times=_joined([[*row[1:], *row[-1:]] for row in times]),
    )
    return TrunkCase(torch.randn(sum(lengths), DIM, requires_grad=True), rows, times)


def make_trunk(config: TrunkConfig) -> SequenceTrunk:
    """A trunk of random weights of one size, whatever the layers start from."""
    trunk = SequenceTrunk(config)
    for parameter in trunk.parameters():
        nn.init.normal_(parameter, std=0.5)
    return trunk


def _joined(rows: list[list[int]]) -> Tensor:
    return torch.tensor([time for row in rows for time in row], dtype=torch.int64)
