"""Rows of tables read, updated and made anew: the ops against plain loops over rows."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from torchrec_gr.ops import gather_rows, init_rows_, update_rows_
from torchrec_gr.ops.pool_rows_reference import pool_rows_reference
from torchrec_gr.ops.table_rows_reference import (
    gather_rows_reference,
    initial_values,
    update_rows_reference,
)

SIZES = [5, 1, 1024, 65536]
DIMS = [1, 2, 3, 7, 8, 16, 33, 64, 130]
OPTIMIZERS = ["sgd", "adagrad", "rowwise_adagrad"]


def _weights(dim: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(size, dim, generator=draw) for size in SIZES]


def _states(optimizer: str, dim: int) -> list[Tensor]:
    shape = {"sgd": [0], "adagrad": [dim], "rowwise_adagrad": []}[optimizer]
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(size, *shape, generator=draw) for size in SIZES]


def _slots(num: int, with_none: bool = True) -> Tensor:
    """Different rows, the first and last of the chunks among them, and -1 at times."""
    every = torch.cat([(chunk << 16) + torch.arange(size) for chunk, size in enumerate(SIZES)])
    draw = torch.Generator().manual_seed(2)
    slots = every[torch.randperm(len(every), generator=draw)][:num]
    if with_none:
        slots[1::4] = -1
    return slots


def _update(
    weights: list[Tensor],
    states: list[Tensor],
    slots: Tensor,
    grads: Tensor,
    optimizer: str,
    lr: float,
    eps: float,
) -> None:
    """Of one table, each row read once."""
    offsets = torch.tensor([0, slots.numel()])
    update_rows_(weights, states, slots, offsets, grads, [optimizer], [lr], [eps])


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("num", [0, 1, 50])
def test_gather(dim: int, num: int) -> None:
    weights, slots = _weights(dim), _slots(num)
    assert torch.equal(gather_rows(weights, slots, dim), gather_rows_reference(weights, slots, dim))


def test_gather_repeats_rows_and_leaves_them() -> None:
    weights = _weights(4)
    slots = torch.tensor([3 << 16 | 65535, 0, 0, -1, 3 << 16 | 65535])
    gathered = gather_rows(weights, slots, 4)
    assert torch.equal(gathered[0], weights[3][-1])
    assert torch.equal(gathered[0], gathered[4])
    assert torch.equal(gathered[1], gathered[2])
    gathered.zero_()
    assert all(map(torch.equal, weights, _weights(4)))


def test_gather_without_chunks() -> None:
    assert gather_rows([], torch.full((3,), -1), 5).tolist() == [[0.0] * 5] * 3


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_update(dim: int, optimizer: str) -> None:
    slots, grads = _slots(60), torch.randn(60, dim)
    actual, expected = ((_weights(dim), _states(optimizer, dim)) for _ in range(2))
    _update(*actual, slots, grads, optimizer, 0.1, 1e-3)
    update_rows_reference(*expected, slots, grads, optimizer, 0.1, 1e-3)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
    untouched = torch.ones(SIZES[3], dtype=torch.bool)
    untouched[slots[slots >> 16 == 3] & 0xFFFF] = False
    assert torch.equal(actual[0][3][untouched], expected[0][3][untouched])


def _bags(kind: str, num_rows: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """300 places of rows, alone, in uneven bags, or with factors there."""
    draw = torch.Generator().manual_seed(3)
    index = torch.randint(num_rows, (300,), generator=draw)
    cuts = torch.randint(301, (40,), generator=draw).sort().values
    offsets = torch.cat([torch.tensor([0]), cuts, torch.tensor([300])])
    factors = torch.rand(300, generator=draw)
    return index, None if kind == "alone" else offsets, factors if kind == "factors" else None


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["alone", "bags", "factors"])
def test_gather_reads_by_index_and_sums_bags(dim: int, kind: str) -> None:
    weights, slots, reading = _weights(dim), _slots(60), _bags(kind, 60)
    expected = pool_rows_reference(gather_rows_reference(weights, slots, dim), *reading)
    torch.testing.assert_close(gather_rows(weights, slots, dim, *reading), expected)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["alone", "bags", "factors"])
def test_update_sums_what_was_read(dim: int, kind: str) -> None:
    """Of three tables, each with an optimizer of its own, or none."""
    slots, (index, offsets, factors) = _slots(60, with_none=False), _bags(kind, 60)
    slots = slots[(slots >> 16).argsort(stable=True)]
    table_offsets = torch.searchsorted(slots >> 16, torch.tensor([0, 1, 3, 4]))
    names, lrs = ["adagrad", "none", "rowwise_adagrad"], [0.1, 0.2, 0.3]
    kinds = ["adagrad", "sgd", "sgd", "rowwise_adagrad"]
    actual, expected = (
        (_weights(dim), [_states(kinds[chunk], dim)[chunk] for chunk in range(4)]) for _ in range(2)
    )
    grads = torch.randn(300 if offsets is None else len(offsets) - 1, dim)
    update_rows_(
        *actual,
        slots,
        table_offsets,
        grads,
        names,
        lrs,
        [1e-3] * 3,
        index=index,
        offsets=offsets,
        factors=factors,
    )
    rows = torch.zeros(60, dim, requires_grad=True)
    pool_rows_reference(rows, index, offsets, factors).backward(grads)
    assert rows.grad is not None
    for table, (name, lr) in enumerate(zip(names, lrs, strict=True)):
        part = slice(int(table_offsets[table]), int(table_offsets[table + 1]))
        if name != "none":
            update_rows_reference(*expected, slots[part], rows.grad[part], name, lr, 1e-3)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_chunks_of_different_optimizers() -> None:
    """Those that have no row among the slots are not asked for their states."""
    weights = [torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3)]
    states = [torch.ones(2), torch.ones(2, 3), torch.ones(2, 0)]
    for chunk, optimizer in enumerate(["rowwise_adagrad", "adagrad", "sgd"]):
        _update(
            weights, states, torch.tensor([chunk << 16 | 1]), torch.ones(1, 3), optimizer, 0.1, 0.0
        )
        assert (weights[chunk][0] == 1).all()
        assert (weights[chunk][1] < 1).all()
    assert [s[1].sum().item() for s in states] == [2, 6, 0]
    assert [s[0].sum().item() for s in states] == [1, 3, 0]
    every = torch.arange(3) << 16
    init_rows_(weights, states, every, every, 0, 0.0)
    assert [s[0].sum().item() for s in states] == [0, 0, 0]
    with pytest.raises(ValueError, match=r"^states: expected 1 values a row for rowwise_adagrad"):
        _update(weights, states, every, torch.ones(3, 3), "rowwise_adagrad", 0.1, 0.0)


def test_update_of_a_fresh_row_with_no_gradient_stays_finite() -> None:
    weights, states = [torch.ones(1, 4)], [torch.zeros(1)]
    _update(weights, states, torch.tensor([0]), torch.zeros(1, 4), "rowwise_adagrad", 1, 1e-8)
    assert torch.equal(weights[0], torch.ones(1, 4))


@pytest.mark.parametrize("dim", [1, 2, 5, 16, 63, 64, 65, 200])
def test_initial_values(dim: int) -> None:
    ids = torch.tensor([0, -1, 5, 2**63 - 1, -(2**63)])
    slots = _slots(5, with_none=False)
    weights, states = _weights(dim), _states("adagrad", dim)
    init_rows_(weights, states, slots, ids, -7, 0.25)
    expected = [initial_values(id_, dim, -7, 0.25) for id_ in ids.tolist()]
    torch.testing.assert_close(
        gather_rows(weights, slots, dim), torch.tensor(expected), rtol=0, atol=1e-6
    )
    assert not gather_rows(states, slots, dim).any()
    changed = sum(int((a != b).any(1).sum()) for a, b in zip(weights, _weights(dim), strict=True))
    assert changed == len(ids)


def test_initial_values_never_change() -> None:
    """What a seed gives is part of the library: a checkpoint's rows may be made again from it."""
    weights = [torch.empty(1, 4)]
    init_rows_(weights, [torch.empty(1)], torch.zeros(1).long(), IDS[:1], 3, 1.0)
    assert weights[0].flatten().tolist() == pytest.approx(NORMAL, abs=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_initial_states_are_zero(optimizer: str) -> None:
    weights, states = _weights(3), _states(optimizer, 3)
    init_rows_(weights, states, _slots(100, with_none=False), torch.arange(100), 0, 1.0)
    left = sum(int((s.reshape(len(s), -1) != 0).any(1).sum()) for s in states)
    assert left == (0 if optimizer == "sgd" else sum(SIZES) - 100)


def test_initial_values_are_normal() -> None:
    """To 6 standard errors: mean, variance, fourth moment and the correlation of neighbours."""
    dim, scale = 64, 0.5
    weights = [torch.empty(4096, dim)]
    slots = torch.arange(4096)
    init_rows_(weights, [torch.empty(4096, 0)], slots, slots, 1, scale)
    values = weights[0].double() / scale
    error = 6 / math.sqrt(values.numel())
    assert abs(values.mean()) < error
    assert abs(values.square().mean() - 1) < 1.5 * error
    assert abs(values.pow(4).mean() - 3) < 10 * error
    assert abs((values[:, :-1] * values[:, 1:]).mean()) < error
    assert abs((values[:-1] * values[1:]).mean()) < error
    assert abs((values[:, ::2] * values[:, 1::2].abs()).mean()) < error


def test_initial_values_differ_by_seed_and_id() -> None:
    def values(seed: int, ids: Tensor) -> Tensor:
        weights = [torch.empty(len(ids), 8)]
        init_rows_(weights, [torch.empty(len(ids))], torch.arange(len(ids)), ids, seed, 1)
        return weights[0]

    together = torch.cat([values(seed, torch.arange(-50, 50)) for seed in range(5)])
    assert len(together.unique()) > 0.99 * together.numel()
    assert torch.equal(values(2, torch.tensor([7, 3]))[0], values(2, torch.tensor([7]))[0])


def test_same_bits_on_any_number_of_threads() -> None:
    slots, dim = _slots(20_000, with_none=False), 17
    grads = torch.randn(len(slots), dim)

    def run(optimizer: str) -> list[Tensor]:
        weights, states = _weights(dim), _states(optimizer, dim)
        init_rows_(weights, states, slots[::2], slots[::2], 5, 1.0)
        _update(weights, states, slots, grads, optimizer, 0.1, 1e-8)
        return [gather_rows(weights, slots, dim), *weights, *states]

    threads = torch.get_num_threads()
    for optimizer in OPTIMIZERS:
        alone = run(optimizer)
        try:
            for count in (2, 3, 7):
                torch.set_num_threads(count)
                assert all(map(torch.equal, alone, run(optimizer)))
        finally:
            torch.set_num_threads(threads)


WEIGHTS, STATES = [torch.ones(4, 2), torch.ones(3, 2)], [torch.ones(4), torch.ones(3)]
SLOTS, IDS, GRADS = torch.tensor([0, 1 << 16 | 2]), torch.tensor([8, 9]), torch.ones(2, 2)
NORMAL = [0.4785837233066559, -1.0612198114395142, 1.154367208480835, 1.0846019983291626]


@pytest.mark.parametrize(
    ("name", "weights", "slots", "dim"),
    [
        ("weights", WEIGHTS, SLOTS, 3),
        ("weights", [WEIGHTS[0].double()], SLOTS, 2),
        ("weights", [WEIGHTS[0].T.contiguous().T], SLOTS, 2),
        ("weights", [torch.zeros(65537, 2)], SLOTS, 2),
        ("slots", WEIGHTS, torch.tensor([4]), 2),
        ("slots", WEIGHTS, torch.tensor([-2]), 2),
        ("slots", WEIGHTS, torch.tensor([2 << 16]), 2),
        ("slots", WEIGHTS, SLOTS[None], 2),
        ("dim", WEIGHTS, SLOTS, 0),
    ],
)
def test_gather_names_the_wrong_argument(
    name: str, weights: list[Tensor], slots: Tensor, dim: int
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        gather_rows(weights, slots, dim)


@pytest.mark.parametrize(
    ("name", "states", "slots", "grads", "optimizer"),
    [
        ("states", STATES[:1], SLOTS, GRADS, "rowwise_adagrad"),
        ("states", STATES[::-1], SLOTS, GRADS, "rowwise_adagrad"),
        ("states", STATES, SLOTS, GRADS, "sgd"),
        ("states", STATES, SLOTS, GRADS, "adagrad"),
        ("states", WEIGHTS, SLOTS, GRADS, "rowwise_adagrad"),
        ("states", [STATES[0], WEIGHTS[1]], SLOTS, GRADS, "rowwise_adagrad"),
        ("weights", STATES, SLOTS, GRADS[:, :1], "rowwise_adagrad"),
        ("grads", STATES, SLOTS, GRADS.double(), "rowwise_adagrad"),
        ("grads", STATES, SLOTS, GRADS.flatten(), "rowwise_adagrad"),
        ("grads", STATES, SLOTS, GRADS[:, :0], "rowwise_adagrad"),
        ("grads", STATES, SLOTS[:1], GRADS, "rowwise_adagrad"),
        ("slots", STATES, torch.tensor([0, 4]), GRADS, "rowwise_adagrad"),
        ("optimizers", STATES, SLOTS, GRADS, "adam"),
    ],
)
def test_update_names_the_wrong_argument(
    name: str, states: list[Tensor], slots: Tensor, grads: Tensor, optimizer: str
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        _update(WEIGHTS, states, slots, grads, optimizer, 0.1, 1e-8)
    assert all((w == 1).all() for w in WEIGHTS)
    assert all((s == 1).all() for s in STATES)


@pytest.mark.parametrize(
    ("name", "states", "slots", "ids", "std"),
    [
        ("states", STATES[:1], SLOTS, IDS, 1.0),
        ("slots", STATES, torch.tensor([0, -1]), IDS, 1.0),
        ("ids", STATES, SLOTS, IDS[:1], 1.0),
        ("ids", STATES, SLOTS, IDS.int(), 1.0),
        ("std", STATES, SLOTS, IDS, -1.0),
        ("std", STATES, SLOTS, IDS, math.inf),
        ("std", STATES, SLOTS, IDS, math.nan),
    ],
)
def test_init_names_the_wrong_argument(
    name: str, states: list[Tensor], slots: Tensor, ids: Tensor, std: float
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        init_rows_(WEIGHTS, states, slots, ids, 0, std)
    assert all((w == 1).all() for w in WEIGHTS)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("index", {"offsets": torch.tensor([0, 2])}),
        ("index", {"factors": torch.ones(2)}),
        ("index", {"index": torch.tensor([0, 2])}),
        ("index", {"index": torch.tensor([-1, 0])}),
        ("index", {"index": torch.tensor([0, 1]).int()}),
        ("offsets", {"index": torch.tensor([0, 1]), "offsets": torch.tensor([0, 3])}),
        ("factors", {"index": torch.tensor([0, 1]), "factors": torch.ones(3)}),
    ],
)
def test_what_is_read_is_checked(name: str, arguments: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        gather_rows(WEIGHTS, SLOTS, 2, **arguments)


@pytest.mark.parametrize(
    ("name", "offsets", "optimizers", "lrs", "eps"),
    [
        ("table_offsets", [0, 3], ["sgd"], [0.1], [0.0]),
        ("optimizers", [0, 2], [], [0.1], [0.0]),
        ("lrs", [0, 2], ["none"], [], [0.0]),
        ("eps", [0, 2], ["none"], [0.1], []),
        ("grads", [0, 2], ["none"], [0.1], [0.0]),
    ],
)
def test_tables_are_checked(
    name: str, offsets: list[int], optimizers: list[str], lrs: list[float], eps: list[float]
) -> None:
    grads = GRADS[:1] if name == "grads" else GRADS
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        update_rows_(WEIGHTS, STATES, SLOTS, torch.tensor(offsets), grads, optimizers, lrs, eps)
