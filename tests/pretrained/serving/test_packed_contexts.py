"""What is packed comes back: exactly, to 8 bits of mantissa, or to half a step of its scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.pretrained.serving.packed_contexts import (
    ContextDtype,
    pack_contexts,
    unpack_layers,
)


def cache_of(*layers: Tensor) -> ContextCache:
    num_tokens = layers[0].shape[0]
    offsets = torch.tensor([0, num_tokens])
    return ContextCache(layers, tuple(2 * x for x in layers), offsets, offsets[1:])


def unpacked(cache: ContextCache, dtype: ContextDtype) -> tuple[Tensor, ...]:
    packed = pack_contexts(cache, dtype)
    return (*unpack_layers(packed, "keys"), *unpack_layers(packed, "values"))


@pytest.mark.parametrize("num_tokens", [0, 1, 7])
def test_fp32_is_exact(num_tokens: int) -> None:
    cache = cache_of(torch.randn(num_tokens, 2, 5), torch.randn(num_tokens, 2, 5))
    for found, given in zip(unpacked(cache, "fp32"), (*cache.keys, *cache.values), strict=True):
        assert torch.equal(found, given)


def test_bf16_keeps_eight_bits() -> None:
    cache = cache_of(torch.randn(9, 2, 5) * 1e-3, torch.randn(9, 2, 5) * 1e3)
    for found, given in zip(unpacked(cache, "bf16"), (*cache.keys, *cache.values), strict=True):
        assert torch.equal(found, given.bfloat16().float())
        assert ((found - given).abs() <= given.abs() / 256).all()


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e6, 1e35])
def test_int8_is_off_by_half_a_step_at_most(size: float) -> None:
    """The step of each token and head is its own: a large neighbour takes no precision away."""
    layers = [torch.randn(9, 2, 5) * size for _ in range(2)]
    layers[0][3] *= 10
    layers[1][4, 1] = 0
    cache = cache_of(*layers)
    for found, given in zip(unpacked(cache, "int8"), (*cache.keys, *cache.values), strict=True):
        for token in range(9):
            for head in range(2):
                x, y = given[token, head].double(), found[token, head].double()
                step = x.abs().max() / 127
                assert (x - y).abs().max() <= step / 2 * (1 + 1e-4)
                assert y.abs().max() <= x.abs().max() * (1 + 1e-6)


def test_bytes() -> None:
    cache = cache_of(torch.randn(10, 2, 16))
    sizes = {
        dtype: sum(tensor.nbytes for tensor in pack_contexts(cache, dtype).values())  # type: ignore[arg-type]
        for dtype in ("fp32", "bf16", "int8")
    }
    assert sizes == {"fp32": 2 * 320 * 4, "bf16": 2 * 320 * 2, "int8": 2 * (320 + 20 * 4)}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_int8_refuses_what_it_cannot_hold(wrong: float) -> None:
    keys = torch.randn(3, 2, 5)
    keys[1, 1, 2] = wrong
    with pytest.raises(ValueError, match="keys of contexts are not finite"):
        pack_contexts(cache_of(keys), "int8")
    assert not unpacked(cache_of(keys), "bf16")[0].isfinite().all()


def test_contexts_without_layers() -> None:
    offsets = torch.tensor([0, 2])
    packed = pack_contexts(ContextCache((), (), offsets, offsets[1:], torch.ones(1, 4)), "int8")
    assert packed == {}
    assert unpack_layers(packed, "keys") == ()
