"""Dynamic tables against a dict of rows, step by step, over awkward streams of ids."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.embeddings.plain_table import PlainTable
from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig
from torchrec_gr.embeddings.row_optimizer import RowOptimizer
from torchrec_gr.embeddings.table_group import TableGroup
from torchrec_gr.ops import unique_ids

DIM = 3
EXTREME = (-(2**63), -1, 0, 1, 2**63 - 1)


def config(name: str = "a", **options: object) -> DynamicEmbeddingConfig:
    return DynamicEmbeddingConfig(
        name=name,
        embedding_dim=DIM,
        feature_names=[name],
        **options,  # type: ignore[arg-type]
    )


def group_of(configs: list[DynamicEmbeddingConfig], optimizer: str = "sgd") -> TableGroup:
    group = TableGroup(configs)
    group.seeds = list(range(7, 7 + len(configs)))
    for table in range(len(configs)):
        group.set_optimizer(table, RowOptimizer(optimizer, {"lr": 0.1}))
    return group


def plain_of(group: TableGroup, optimizer: str = "sgd") -> list[PlainTable]:
    """Plain tables whose fresh rows are those of the group's."""

    def initial(table: int, id_: int) -> Tensor:
        fresh = group_of(group.configs)
        offsets = torch.tensor([0] * (table + 1) + [1] * (len(group.configs) - table))
        return fresh.gather(fresh.assign(torch.tensor([id_]), offsets, torch.tensor([9]), 1))[0]

    return [
        PlainTable(c, lambda i, t=t: initial(t, i), optimizer)  # type: ignore[misc]
        for t, c in enumerate(group.configs)
    ]


def step(group: TableGroup, plain: list[PlainTable], batch: list[list[int]]) -> None:
    """One training batch in both, of as many ids of each table, and what they then hold."""
    ids = torch.tensor([i for table in batch for i in table], dtype=torch.int64)
    offsets = torch.tensor([0, *(len(table) for table in batch)]).cumsum(0)
    distinct, bounds, inverse, counts = unique_ids(ids, offsets)
    slots = group.assign(distinct, bounds, counts, plain[0].step + 1)
    grads = torch.randn(len(distinct), DIM)
    for table, part in zip(plain, batch, strict=True):
        table.see(part)
    expected = torch.cat([table.read(part) for table, part in zip(plain, batch, strict=True)])
    torch.testing.assert_close(group.gather(slots)[inverse], expected)
    group.update(slots, bounds, grads, [True] * len(plain))
    for number, table in enumerate(plain):
        mine = slice(int(bounds[number]), int(bounds[number + 1]))
        table.train(distinct[mine].tolist(), grads[mine])
        check_state(group, number, table)


def check_state(group: TableGroup, number: int, plain: PlainTable) -> None:
    assert group.rows.num_ids(number) == len(plain.rows)
    assert group.waiting.num_ids(number) == len(plain.waiting)
    for chunk in group.rows.chunks_of(number):
        part = group.chunk_rows(number, chunk)
        for row in torch.nonzero(part.seen[:, 0]).squeeze(1).tolist():
            known = plain.rows[int(part.ids[row])]
            assert part.seen[row].tolist() == [known.count, known.last]
            torch.testing.assert_close(part.weight[row], known.weight)
            torch.testing.assert_close(part.optimizer[row].reshape(-1), known.state)
    for chunk in group.waiting.chunks_of(number):
        part = group.chunk_waiting(number, chunk)
        used = part.waiting_seen[:, 0] > 0
        for id_, seen in zip(part.waiting_ids[used], part.waiting_seen[used], strict=True):
            assert plain.waiting[int(id_)] == tuple(seen.tolist())


POLICIES: list[dict[str, object]] = [
    {},
    {"max_rows": 8},
    {"max_rows": 8, "eviction": "lfu"},
    {"max_rows": 20, "eviction": "age", "max_age": 2},
    {"eviction": "age", "max_age": 1},
    {"admit_after": 3},
    {"max_rows": 8, "admit_after": 2},
    {"max_rows": 32, "admit_after": 2, "eviction": "lfu"},
]
IDS = st.one_of(st.integers(0, 12), st.sampled_from(EXTREME), st.integers(-(2**63), 2**63 - 1))


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@settings(max_examples=25, deadline=None)
@given(stream=st.lists(st.lists(IDS, max_size=8), min_size=1, max_size=12))
def test_as_a_dict_of_rows(policy: dict[str, object], stream: list[list[int]]) -> None:
    group = group_of([config(**policy)], "rowwise_adagrad")
    plain = plain_of(group, "rowwise_adagrad")
    torch.manual_seed(0)
    for batch in stream:
        step(group, plain, [batch])


@settings(max_examples=25, deadline=None)
@given(stream=st.lists(st.tuples(*[st.lists(IDS, max_size=6)] * 3), min_size=1, max_size=8))
def test_merged_tables_do_not_meet(stream: list[tuple[list[int], ...]]) -> None:
    """The same ids in three tables of other policies are other things."""
    configs = [config("a"), config("b", max_rows=6), config("c", admit_after=2)]
    group = group_of(configs, "adagrad")
    plain = plain_of(group, "adagrad")
    torch.manual_seed(0)
    for batch in stream:
        step(group, plain, list(batch))


@pytest.mark.parametrize("eviction", ["lru", "lfu"])
def test_long_stream_over_several_chunks(eviction: str) -> None:
    group = group_of([config(max_rows=5000, eviction=eviction)])
    (plain,) = plain_of(group)
    plain.initial = lambda _: torch.zeros(DIM)
    torch.manual_seed(1)
    for _ in range(12):
        ids = torch.unique(torch.randint(1 << 40, (1500,)) % 20000)
        offsets = torch.tensor([0, len(ids)])
        group.assign(ids, offsets, torch.ones_like(ids), plain.step + 1)
        plain.see(ids.tolist())
    part = [group.chunk_rows(0, chunk) for chunk in group.rows.chunks_of(0)]
    used = torch.cat([p.ids[p.seen[:, 0] > 0] for p in part])
    assert len(part) == 4
    assert sorted(used.tolist()) == sorted(plain.rows)
    found = group.find(used, torch.tensor([0, len(used)]))
    assert len(torch.unique(found)) == len(used)
    assert (found >= 0).all()


def test_a_new_id_inherits_nothing() -> None:
    """On eviction the row and its optimizer state are fresh again."""
    group = group_of([config(max_rows=1)], "rowwise_adagrad")
    one, offsets, count = torch.tensor([5]), torch.tensor([0, 1]), torch.tensor([1])
    first = group.assign(one, offsets, count, 1)
    fresh = group.gather(first).clone()
    group.update(first, offsets, torch.ones(1, DIM), [True])
    other = group.assign(one + 1, offsets, count, 2)
    assert other.tolist() == first.tolist()  # the same place
    assert not torch.equal(group.gather(other), fresh)
    assert group.chunk_rows(0, 0).optimizer.tolist() == [0]
    again = group.assign(one, offsets, count, 3)
    assert torch.equal(group.gather(again), fresh)
    assert group.num_evicted == [2]


def test_a_batch_beyond_the_budget_is_refused() -> None:
    group = group_of([config(max_rows=4)])
    offsets, counts = torch.tensor([0, 3]), torch.ones(3, dtype=torch.int64)
    group.assign(torch.tensor([1, 2, 3]), offsets, counts, 1)
    ids, offsets = torch.arange(2, 7), torch.tensor([0, 5])
    with pytest.raises(ValueError, match=r"needs 5 rows .* max_rows=4 .* raise max_rows"):
        group.assign(ids, offsets, torch.ones(5, dtype=torch.int64), 2)
    assert (group.find(torch.tensor([1, 2, 3]), torch.tensor([0, 3])) >= 0).all()
    assert group.rows.num_ids(0) == 3


def test_training_without_an_optimizer_is_refused() -> None:
    group = TableGroup([config()])
    offsets = torch.tensor([0, 1])
    slots = group.assign(torch.tensor([1]), offsets, torch.tensor([1]), 1)
    with pytest.raises(RuntimeError, match=r"'a' has no optimizer.*apply_optimizer_in_backward"):
        group.update(slots, offsets, torch.ones(1, DIM), [True])
    group.update(slots, offsets, torch.ones(1, DIM), [False])


def test_frozen_rows_keep_every_bit() -> None:
    group = group_of([config()])
    offsets = torch.tensor([0, 1])
    slots = group.assign(torch.tensor([1]), offsets, torch.tensor([1]), 1)
    before = group.gather(slots)
    group.update(slots, offsets, torch.full((1, DIM), torch.inf), [False])
    assert torch.equal(group.gather(slots), before)
