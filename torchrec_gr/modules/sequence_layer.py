"""What the decoder layers have in common whose keys and values can be kept."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import linear

from torchrec_gr.modules.attention_rows import AttentionRows


class Projected(NamedTuple):
    """What a layer makes of tokens before attention.

    Args:
        own: [Tq, parts, H, A], what the layer keeps of the tokens asked for: their queries first.
        keys, values: [T, H, A] and [T, H, V], of all tokens.
    """

    own: Tensor
    keys: Tensor
    values: Tensor


class SequenceLayer(nn.Module):
    """A pre-norm decoder layer on jagged rows, in two halves: projections, and the rest.

    Between the two, keys and values may be replaced: by those of a longer row, whose first part was
    projected before. That is how candidates cross a context that was encoded once.

    Args:
        dim: D, model width.
        num_heads: H; D / H must be whole.
        num_own: parts of a token's projection beside key and value; the first is the query.

    Raises:
        ValueError: dim is not a multiple of num_heads.
    """

    def __init__(self, dim: int, num_heads: int, num_own: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.num_own = num_own
        self.norm = nn.LayerNorm(dim)
        self.projection = nn.Linear(dim, (num_own + 2) * dim)

    def forward(self, x: Tensor, rows: AttentionRows) -> Tensor:
        """Maps tokens [T, D] to those that are asked for, [Tq, D]."""
        return self.attend(rows.asked_for(x), self.project(x, rows.wanted), rows)

    def project(self, x: Tensor, wanted: Tensor | None = None) -> Projected:
        """The first half, of tokens [T, D] of which those at places `wanted` [Tq] are asked for."""
        x = self.norm(x)
        if wanted is None:
            parts = self._parts(self.activate(self.projection(x)))
            own, keys_values = parts[:, : self.num_own], parts[:, self.num_own :]
        else:
            own = self._parts(self._project(x.index_select(0, wanted), slice(self._own_width())))
            keys_values = self._keys_values(x)
        return Projected(own, *keys_values.unbind(1))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[T, H, A] and [T, H, V] of tokens [T, D]: all that a context's last layer needs."""
        keys, values = self._keys_values(self.norm(x)).unbind(1)
        return keys, values

    def activate(self, projected: Tensor) -> Tensor:
        """Of the projections; none, unless a layer has one."""
        return projected

    def attend(self, x: Tensor, projected: Projected, rows: AttentionRows) -> Tensor:
        """The second half: attention and what follows, of the tokens asked for, [Tq, D]."""
        raise NotImplementedError

    def _keys_values(self, x: Tensor) -> Tensor:
        return self._parts(self._project(x, slice(self._own_width(), None)))

    def _project(self, x: Tensor, part: slice) -> Tensor:
        weight, bias = self.projection.weight, self.projection.bias
        return self.activate(linear(x, weight[part], None if bias is None else bias[part]))

    def _own_width(self) -> int:
        return self.num_own * self.projection.in_features

    def _parts(self, x: Tensor) -> Tensor:
        """[T, parts, H, A] of [T, parts * D]."""
        head_dim = self.projection.in_features // self.num_heads
        return x.unflatten(1, (-1, self.num_heads, head_dim))
