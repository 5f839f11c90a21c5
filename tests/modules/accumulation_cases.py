"""Jagged rows and a model over them, whose loss is taken whole or in pieces."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from torchrec_gr.modules.gradient_accumulation import Body
from torchrec_gr.ops.hstu_attention import hstu_attention
from torchrec_gr.sequences.visibility import causal

DIM, HEADS, MAX_SEQ_LEN = 8, 2, 9
LENGTHS = [3, 1, 0, 9, 4, 2, 5, 0, 7]


class Sequences(nn.Module):
    """Attention over jagged rows, a head over every token, and a weight that is never used."""

    def __init__(self, float64: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.projection = nn.Linear(DIM, 3 * DIM)
        self.full_precision = nn.Linear(DIM, DIM)
        self.head = nn.Linear(DIM, 1)
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.full((), 0.7), requires_grad=False)
        # The op knows no float64.
        self.attend = _by_definition if float64 else _attention
        if float64:
            self.double()

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Logits [T] of tokens [T, D]."""
        offsets = nn.functional.pad(lengths.cumsum(0), (1, 0))
        q, k, v = self.projection(values).unflatten(1, (3, HEADS, -1)).unbind(1)
        attended = self.attend(q, k, v, offsets).flatten(1)
        with torch.autocast("cpu", enabled=False):
            hidden = self.full_precision(attended.to(self.head.weight.dtype) + values).tanh()
        return self.head(hidden * self.frozen).squeeze(1)


def _attention(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Tensor:
    return hstu_attention(q, k, v, offsets, offsets, causal(offsets), max_seq_len=MAX_SEQ_LEN)


def _by_definition(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor) -> Tensor:
    rows = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff())
    places = torch.arange(len(rows))
    seen = (rows[:, None] == rows) & (places[:, None] >= places)
    scores = torch.einsum("qha,kha->hqk", q, k).sigmoid() * seen
    return torch.einsum("hqk,khv->qhv", scores, v)


class Batch:
    """Jagged rows of tokens that want a gradient, and a label for each."""

    def __init__(self, float64: bool = False) -> None:
        random = torch.Generator().manual_seed(1)
        self.lengths = torch.tensor(LENGTHS)
        num_tokens = int(self.lengths.sum())
        dtype = torch.float64 if float64 else torch.float32
        self.values = torch.randn(num_tokens, DIM, generator=random, dtype=dtype).requires_grad_()
        self.labels = torch.randint(2, (num_tokens,), generator=random).to(dtype)

    def pieces(self, num_rows: list[int]) -> list[tuple[Tensor, ...]]:
        """So many rows each."""
        lengths = self.lengths.split(num_rows)
        tokens = [int(part.sum()) for part in lengths]
        return list(zip(self.values.split(tokens), lengths, self.labels.split(tokens), strict=True))


def loss_body(model: nn.Module) -> Body:
    """Of a piece: the summed loss, and the logits."""

    def body(piece: tuple[Tensor, ...], number: int) -> tuple[Tensor, Tensor]:
        values, lengths, labels = piece
        logits = model(values, lengths).to(labels.dtype)
        return binary_cross_entropy_with_logits(logits, labels, reduction="sum"), logits

    return body


def whole_batch(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss and the logits of a batch that is not cut."""
    return loss_body(model)((batch.values, batch.lengths, batch.labels), 0)


def gradients_of(loss: Tensor, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
    """Of a part of the loss, so that backward has something to scale by, which rounds nothing."""
    inputs = [batch.values, *(p for p in model.parameters() if p.requires_grad)]
    return torch.autograd.grad(loss / 32, inputs, materialize_grads=True)
