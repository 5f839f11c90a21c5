"""Wukong's layer, dot product by dot product; and the order of its polynomials."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from torchrec_gr.modules.wukong_layer import (
    FactorizationMachineBlock,
    LinearCompressBlock,
    WukongLayer,
)

DIM, NUM_FMB, NUM_LCB, RANK = 3, 2, 3, 2


def _layer(num_in: int) -> WukongLayer:
    torch.manual_seed(num_in)
    layer = WukongLayer(num_in, NUM_FMB, NUM_LCB, DIM, RANK, (7, 6)).double()
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.5)
    return layer


def _expected(layer: WukongLayer, x: Tensor) -> Tensor:
    """Of one row: [n, D] -> [NUM_FMB + NUM_LCB, D]."""
    fmb, num_in = layer.fmb, x.shape[0]
    products = torch.stack([torch.stack([a @ b for b in x]) for a in x])
    projected = torch.stack(
        [
            sum((products[i, j] * fmb.projection[j, k] for j in range(num_in)), torch.zeros(()))
            for i in range(num_in)
            for k in range(RANK)
        ]
    )
    hidden = layer_norm(projected, projected.shape, fmb.norm.weight, fmb.norm.bias)
    linears = [part for part in fmb.mlp if isinstance(part, nn.Linear)]
    for linear in linears[:-1]:
        hidden = (linear.weight @ hidden + linear.bias).clamp(min=0)
    mixed = linears[-1].weight @ hidden + linears[-1].bias
    machines = [mixed[DIM * i : DIM * (i + 1)] for i in range(NUM_FMB)]
    compressed = _mixed(layer.lcb, x)
    residual = list(x) if isinstance(layer.residual, nn.Identity) else _mixed(layer.residual, x)
    rows = []
    for row, old in zip([*machines, *compressed], residual, strict=True):
        rows.append(layer_norm(row + old, (DIM,), layer.norm.weight, layer.norm.bias))
    return torch.stack(rows)


def _mixed(block: nn.Module, x: Tensor) -> list[Tensor]:
    assert isinstance(block, LinearCompressBlock)
    return [
        sum((weight * row for weight, row in zip(of_out, x, strict=True)), torch.zeros(DIM))
        for of_out in block.weight
    ]


@pytest.mark.parametrize("num_in", [1, 4, NUM_FMB + NUM_LCB, 8])
@pytest.mark.parametrize("num_rows", [1, 3])
def test_values_and_gradients_are_those_of_a_loop(num_in: int, num_rows: int) -> None:
    layer = _layer(num_in)
    x = torch.randn(num_rows, num_in, DIM, dtype=torch.float64, requires_grad=True)
    result = layer(x)
    expected = torch.stack([_expected(layer, row) for row in x])
    torch.testing.assert_close(result, expected)
    inputs = [x, *layer.parameters()]
    upstream = torch.randn_like(result)
    torch.testing.assert_close(
        torch.autograd.grad(result, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
    )


def test_no_rows_give_none() -> None:
    assert _layer(4)(torch.zeros(0, 4, DIM, dtype=torch.float64)).shape == (0, 5, DIM)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_order_doubles_with_every_layer(num_layers: int) -> None:
    """Without norms and ReLUs, l layers are a polynomial of degree 2^l of their input."""
    torch.manual_seed(num_layers)
    machines = [FactorizationMachineBlock(3, 3, DIM, RANK, ()).double() for _ in range(num_layers)]
    compress = [LinearCompressBlock(3, 3).double() for _ in range(num_layers)]
    for machine in machines:
        machine.norm = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(1, 3, DIM, dtype=torch.float64)

    def stacked(scale: float) -> Tensor:
        hidden = scale * x
        for machine, block in zip(machines, compress, strict=True):
            hidden = machine(hidden) + block(hidden) + hidden
        return hidden.flatten()

    order = 2**num_layers
    scales = torch.linspace(-1, 1, order + 3, dtype=torch.float64)
    values = torch.stack([stacked(float(scale)) for scale in scales])
    powers = scales[:, None] ** torch.arange(order + 1)
    fit = torch.linalg.lstsq(powers, values).solution
    torch.testing.assert_close(powers @ fit, values, atol=1e-9, rtol=1e-7)
    lower = torch.linalg.lstsq(powers[:, :-1], values).solution
    assert (powers[:, :-1] @ lower - values).abs().max() > 1e-6
