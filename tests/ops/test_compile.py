"""torch.compile and torch.export of a module that uses both attention ops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchrec_gr.ops import AttentionBias, KeySpans, hstu_attention, jagged_softmax_attention

NUM_HEADS, WIDTH, MAX_SEQ_LEN, BUCKETS = 2, 8, 16, 6

ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
"""Compiled code may round elsewhere, once or twice: relative to the largest value."""


class Layer(nn.Module):
    """Chunks of a fused projection through one op and then the other, with all biases."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.projection = nn.Parameter(torch.randn(WIDTH, 3 * WIDTH, generator=draw) / WIDTH)
        self.slopes = nn.Parameter(torch.randn(NUM_HEADS, generator=draw))
        self.positions = nn.Parameter(torch.randn(1, 2 * MAX_SEQ_LEN - 1, generator=draw))
        self.times = nn.Parameter(torch.randn(NUM_HEADS, BUCKETS, generator=draw))

    def forward(
        self, x: Tensor, offsets: Tensor, start: Tensor, end: Tensor, times: Tensor, scale: Tensor
    ) -> Tensor:
        """Maps tokens [T, D] to tokens [T, D]."""
        spans = KeySpans(start, end)
        bias = AttentionBias(self.slopes, self.positions, self.times, k_times=times)
        q, k, v = self._project(x)
        x = hstu_attention(
            q, k, v, offsets, offsets, spans, max_seq_len=MAX_SEQ_LEN, scale=scale, bias=bias
        )
        q, k, v = self._project(x.flatten(1))
        return jagged_softmax_attention(
            q, k, v, offsets, offsets, spans, max_seq_len=MAX_SEQ_LEN, bias=bias
        ).flatten(1)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x @ self.projection).unflatten(1, (3 * NUM_HEADS, -1)).chunk(3, dim=1)


def _inputs(lengths: list[int]) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(len(lengths))
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    num_tokens = int(offsets[-1])
    places = torch.cat([torch.arange(n, dtype=torch.int32) for n in lengths])
    return (
        torch.randn(num_tokens, WIDTH, generator=draw),
        offsets,
        torch.zeros_like(places),
        places,
        torch.randint(0, 1000, (num_tokens,), generator=draw),
        torch.rand(num_tokens, generator=draw),
    )


def _results(module: nn.Module, layer: Layer, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The output, and the gradients of the input, the scale and the layer's parameters."""
    leaves = [inputs[0].requires_grad_(), inputs[-1].requires_grad_(), *layer.parameters()]
    output = module(*inputs)
    return [output.detach(), *torch.autograd.grad(output.sum(), leaves)]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiled(backend: str, dtype: torch.dtype) -> None:
    """Values and gradients as without compiling, for any number of tokens and rows."""
    torch.compiler.reset()
    layer = Layer()
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for lengths in ([3, 0, 5], [1, 7, 4, 0, 2], [16]):
        inputs = _inputs(lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            expected = _results(layer, layer, inputs)
            results = _results(compiled, layer, inputs)
        for ours, theirs in zip(results, expected, strict=True):
            largest = float(theirs.abs().max())
            torch.testing.assert_close(ours, theirs, rtol=0, atol=largest * ROUNDING[dtype])


def test_exported(tmp_path: Path) -> None:
    layer = Layer()
    tokens, rows = torch.export.Dim("tokens"), torch.export.Dim("rows")
    shapes = [{0: tokens}, {0: rows}, *[{0: tokens}] * 4]
    program = torch.export.export(layer, _inputs([3, 0, 5]), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "layer.pt2")
    loaded = torch.export.load(tmp_path / "layer.pt2").module()
    for lengths in ([3, 0, 5], [1, 7, 4, 0, 2], [16]):
        inputs = _inputs(lengths)
        torch.testing.assert_close(loaded(*inputs), layer(*inputs))
