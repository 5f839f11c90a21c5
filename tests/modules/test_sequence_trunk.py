"""The trunk's blocks against dense ones, and what a trunk promises whatever its block."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from tests.modules.dense_layers import dense_layer
from tests.modules.trunk_rows import DIM, LENGTHS, LONGEST, TrunkCase, make_case, make_trunk
from torchrec_gr.modules.dropout import Dropout
from torchrec_gr.modules.relative_bias import BiasKind
from torchrec_gr.modules.sequence_trunk import Block, SequenceTrunk, TrunkConfig

BLOCKS, BIASES = get_args(Block), get_args(BiasKind)
every_block = pytest.mark.parametrize("block", BLOCKS)


class _Halving(nn.Module):
    """In the place of dropout: what it would do on average, with nothing to make up for it."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def _trunk(block: Block, bias: BiasKind = "none", **options: Any) -> SequenceTrunk:
    options = {"dim": DIM, "num_heads": 3, "max_seq_len": LONGEST, **options}
    return make_trunk(TrunkConfig(block=block, bias=bias, **options))


def _dense(trunk: SequenceTrunk, case: TrunkCase, **options: Any) -> Tensor:
    x = case.padded()
    for layer in trunk.each_layer():
        x = dense_layer(layer, x, case.times, case.rows.max_seq_len, **options)
    return case.unpadded(x)


def _assert_equal_with_gradients(trunk: SequenceTrunk, case: TrunkCase, **options: Any) -> None:
    """Values to float32's rounding; each gradient to 1e-4 of its own largest entry."""
    output, expected = trunk(case.x, case.rows), _dense(trunk, case, **options)
    torch.testing.assert_close(output, expected.float(), rtol=1e-4, atol=1e-4)
    weights = torch.randn_like(output)
    leaves = {"x": case.x, **dict(trunk.named_parameters())}
    ours = torch.autograd.grad((output * weights).sum(), list(leaves.values()))
    oracle = torch.autograd.grad((expected * weights).sum(), list(leaves.values()))
    for name, got, right in zip(leaves, ours, oracle, strict=True):
        largest = float(right.abs().max())
        assert largest > 0, name
        error = float((got - right).abs().max()) / largest
        assert error < 1e-4, f"{name}: {error}"


@every_block
@pytest.mark.parametrize("bias", BIASES)
def test_equals_the_dense_layers_with_every_gradient(block: Block, bias: BiasKind) -> None:
    _assert_equal_with_gradients(_trunk(block, bias), make_case())


@every_block
def test_a_longer_configured_row_changes_as_in_the_definition(block: Block) -> None:
    """HSTU divides by the configured length, and tables are read from another middle."""
    case = make_case(max_seq_len=20)
    trunk = _trunk(block, "position_time", max_seq_len=20, num_heads=1, feed_forward_dim=7)
    _assert_equal_with_gradients(trunk, case)


@every_block
def test_drops_where_the_definition_does(block: Block) -> None:
    trunk = _trunk(block, dropout=0.5)
    for module in list(trunk.modules()):
        for name, child in module.named_children():
            if isinstance(child, Dropout):
                assert child.p == 0.5
                setattr(module, name, _Halving())
    _assert_equal_with_gradients(trunk, make_case(), drop=lambda x: x / 2)


@every_block
def test_drops_in_training_alone(block: Block) -> None:
    case, trunk = make_case(), _trunk(block, dropout=0.3)
    first, second = trunk(case.x, case.rows), trunk(case.x, case.rows)
    assert not torch.equal(first, second)
    trunk.eval()
    torch.testing.assert_close(trunk(case.x, case.rows), _dense(trunk, case).float())


@every_block
@pytest.mark.parametrize("bias", ["position_time", "alibi"])
@pytest.mark.parametrize("wanted", [[0], [2, 5, 6, 19], list(range(22)), []])
def test_those_asked_for_are_those_of_all(block: Block, bias: BiasKind, wanted: list[int]) -> None:
    case, trunk = make_case(), _trunk(block, bias)
    places = torch.tensor(wanted, dtype=torch.int64)
    ours, right = trunk(case.x, case.rows, places), trunk(case.x, case.rows)[places]
    assert ours.shape == (len(wanted), DIM)
    torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-4)
    leaves = [case.x, *trunk.parameters()]
    weights = torch.randn_like(right)
    gradients = (torch.autograd.grad((y * weights).sum(), leaves) for y in (ours, right))
    for got, expected in zip(*gradients, strict=True):
        tolerance = 1e-4 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@every_block
def test_the_halves_make_the_layer(block: Block) -> None:
    case, wanted = make_case(), torch.tensor([1, 4, 18])
    layer = _trunk(block, "position_time").each_layer()[0]
    rows = case.rows.narrowed_to(wanted)
    projected = layer.project(case.x, wanted)
    keys, values = layer.keys_values(case.x)
    assert torch.equal(projected.keys, keys)
    assert torch.equal(projected.values, values)
    assert projected.own.shape == (3, layer.num_own, 3, DIM // 3)
    torch.testing.assert_close(projected.own, layer.project(case.x).own[wanted])
    output = layer.attend(case.x[wanted], projected._replace(keys=keys, values=values), rows)
    torch.testing.assert_close(output, layer(case.x, case.rows)[wanted])


@every_block
def test_a_row_does_not_depend_on_its_company(block: Block) -> None:
    case, trunk = make_case(), _trunk(block, "position_time")
    together = trunk(case.x, case.rows).split(LENGTHS)
    first = 0
    for row, length in enumerate(LENGTHS):
        alone = make_case(lengths=(length,))
        times = torch.tensor(case.times[row], dtype=torch.int64)
        assert alone.rows.times is not None
        alone.rows.times.copy_(times)
        assert alone.rows.query_times is not None
        alone.rows.query_times.copy_(torch.cat([times[1:], times[-1:]]))
        output = trunk(case.x[first : first + length], alone.rows)
        torch.testing.assert_close(output, together[row], rtol=1e-4, atol=1e-5)
        first += length


@every_block
def test_no_token_sees_the_future(block: Block) -> None:
    case, trunk = make_case(), _trunk(block, "position_time")
    output = trunk(case.x, case.rows)
    changed = case.x.detach().clone()
    changed[14:20] += 3.0  # the last events of the longest row
    assert torch.equal(trunk(changed, case.rows)[:14], output[:14])
    assert torch.equal(trunk(changed, case.rows)[20:], output[20:])
    assert not torch.equal(trunk(changed, case.rows)[14:20], output[14:20])


@every_block
def test_no_token_at_all(block: Block) -> None:
    case = make_case(lengths=(0, 0))
    trunk = _trunk(block, "position_time")
    output = trunk(case.x, case.rows)
    assert output.shape == (0, DIM)
    output.sum().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "dim: expected at least 1, got 0"),
        ({"num_layers": 0}, "num_layers: expected at least 1, got 0"),
        ({"num_heads": 0}, "num_heads: expected at least 1, got 0"),
        ({"max_seq_len": 0}, "max_seq_len: expected at least 1, got 0"),
        ({"feed_forward_dim": 0}, "feed_forward_dim: expected at least 1, got 0"),
        ({"dim": 10, "num_heads": 4}, "dim 10 is not a multiple of num_heads 4"),
        ({"dropout": 1.0}, "dropout: expected at least 0 and below 1, got 1.0"),
        ({"dropout": -0.1}, "dropout: expected at least 0 and below 1, got -0.1"),
        ({"block": "gpt"}, "block: expected one of hstu, hstu_research, sasrec, ligr, got 'gpt'"),
        ({"bias": "rope"}, "bias: expected one of none, position, position_time, alibi, got 'rop"),
    ],
)
def test_a_config_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrunkConfig(**options)
