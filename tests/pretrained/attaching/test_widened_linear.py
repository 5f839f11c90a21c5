"""A widened Linear by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchrec_gr.pretrained.attaching.widened_linear import Carrier, linear_at, unwiden, widen


def widened(dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, Carrier]:
    torch.manual_seed(0)
    linear, carrier = nn.Linear(5, 3, dtype=dtype), Carrier()
    widen(linear, 4, carrier, torch.device("cpu"))
    return linear, carrier


def test_it_adds_a_linear_of_the_vector() -> None:
    linear, carrier = widened()
    x, carrier.vector = torch.randn(7, 5), torch.randn(7, 4)
    assert list(linear.state_dict()) == ["weight", "bias", "widening.weight"]
    own = nn.functional.linear(x, linear.weight, linear.bias)
    assert torch.equal(linear(x), own)
    nn.init.normal_(linear.widening.weight)
    torch.testing.assert_close(linear(x), own + carrier.vector @ linear.widening.weight.T)


def test_it_takes_the_dtype_of_the_linear() -> None:
    linear, carrier = widened(torch.bfloat16)
    carrier.vector = torch.randn(2, 4)
    assert linear(torch.randn(2, 5, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_misuse_is_refused() -> None:
    linear, carrier = widened()
    with pytest.raises(ValueError, match="outside the forward"):
        linear(torch.randn(7, 5))
    carrier.vector = torch.randn(2, 4)
    with pytest.raises(ValueError, match=r"\[B, 5\], got \[2, 3, 5\]"):
        linear(torch.randn(2, 3, 5))
    with pytest.raises(ValueError, match="unknown Linear in widen 'x'"):
        linear_at(nn.Sequential(linear, nn.ReLU()), "x")


def test_unwiden_undoes_it() -> None:
    linear, _ = widened()
    unwiden(linear)
    assert type(linear) is nn.Linear
    assert vars(linear).keys() == vars(nn.Linear(5, 3)).keys()
    assert list(linear.state_dict()) == ["weight", "bias"]
    linear(torch.randn(2, 3, 5))
