"""The pre-norm layer of GPT-2, on jagged rows."""

from __future__ import annotations

from torch import Tensor, nn

from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.modules.sequence_layer import Projected
from torchrec_gr.modules.softmax_layer import SoftmaxLayer


class GPT2Layer(SoftmaxLayer):
    """x + attention(norm(x)), then x + mlp(norm(x)), the MLP 4 D wide with GELU; no dropout.

    Args:
        dim: D, model width.
        num_heads: H; D / H must be whole.

    Raises:
        ValueError: dim is not a multiple of num_heads.

    Source: PinFM, 2507.12704, names GPT-2 with norms in front; Radford et al., "Language Models are
        Unsupervised Multitask Learners" (2019).
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.output = nn.Linear(dim, dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), nn.Linear(4 * dim, dim)
        )

    def attend(self, x: Tensor, projected: Projected, rows: AttentionRows) -> Tensor:
        """The second half: attention and what follows, of the tokens asked for, [Tq, D]."""
        x = x + self.output(self.attended(projected, rows))
        return x + self.feed_forward(self.feed_forward_norm(x))
