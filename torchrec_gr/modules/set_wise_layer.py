"""The candidates of one request see each other, behind a trunk in which they did not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.ligr_layer import LiGRLayer
from torchrec_gr.ops.attention_spans import KeySpans
from torchrec_gr.sequences.candidate_layout import offsets_of


class SetWiseLayer(nn.Module):
    """A LiGR layer over sets of candidates: those of one row and one moment.

    Neither the order of candidates nor what else is in a row changes a result.

    Args:
        dim: D.
        num_heads: H; D / H must be whole.
        feed_forward_dim: width of the FFN.
        max_seq_len: candidates of the longest row, at least.

    Raises:
        ValueError: dim is not a multiple of num_heads.

    Source: LiGR, 2502.03417, the session layer; that a row may hold several sets is ours.
    """

    def __init__(self, dim: int, num_heads: int, feed_forward_dim: int, max_seq_len: int) -> None:
        super().__init__()
        self.max_seq_len = max_seq_len
        self.layer = LiGRLayer(dim, num_heads, feed_forward_dim)

    def forward(self, x: Tensor, lengths: Tensor, times: Tensor) -> Tensor:
        """Maps candidates to candidates.

        Args:
            x: [C, D], row after row.
            lengths: [U] int64, the candidates of each row.
            times: [C] int64, the moment of each.

        Returns:
            [C, D].
        """
        order, rows = self._sets(lengths, times)
        return self.layer(x[order], rows)[order.argsort()]

    def _sets(self, lengths: Tensor, times: Tensor) -> tuple[Tensor, AttentionRows]:
        """An order in which sets lie together, [C] int64, and what each candidate then sees."""
        num_candidates = times.shape[0]
        rows = torch.arange(lengths.shape[0], device=times.device)
        rows = rows.repeat_interleave(lengths, output_size=num_candidates)
        ranks = torch.searchsorted(times.sort().values, times)
        line, order = (rows * (num_candidates + 1) + ranks).sort(stable=True)
        offsets = offsets_of(lengths)
        begins = offsets[:-1][rows]  # sorting moved nothing out of its row
        start = torch.searchsorted(line, line) - begins
        end = torch.searchsorted(line, line, right=True) - begins
        spans = KeySpans(start.int(), end.int())
        return order, AttentionRows(offsets, offsets, spans, self.max_seq_len)
