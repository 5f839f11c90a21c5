"""Quantised dynamic tables against the dynamic ones, in evaluation mode, that they replace."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from torchrec_gr.embeddings.dynamic_collections import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
)
from torchrec_gr.embeddings.dynamic_config import (
    DynamicEmbeddingBagConfig,
    DynamicEmbeddingConfig,
)
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.embeddings.id_rows import IdRows
from torchrec_gr.embeddings.quantised import quantise
from torchrec_gr.embeddings.table_rows import TableRows

EDGES = [-(2**63), -1, 0, 1, 2**63 - 1]
ERRORS = {8: (0.0035, 0.006), 4: (0.06, 0.09)}
WIDTHS = {"item": 32, "shop": 16, "user": 32}
TABLES: list[dict[str, Any]] = [
    {"name": "item", "embedding_dim": 32, "feature_names": ["hist", "cand"]},
    {"name": "shop", "embedding_dim": 16, "feature_names": ["shop", "cand"]},
    {"name": "user", "embedding_dim": 32, "feature_names": ["user"]},
]
OUTPUTS = ["hist", "cand@item", "shop", "cand@shop", "user"]
NUM_IDS = {"item": 70_000, "shop": 300, "user": 0}


def known_ids(table: str) -> Tensor:
    """Of any value; more than a chunk of items; no user."""
    random = torch.Generator().manual_seed(len(table))
    drawn = torch.randint(-(2**63), 2**63 - 1, (NUM_IDS[table],), generator=random)
    return torch.cat([torch.tensor(EDGES), drawn]).unique() if NUM_IDS[table] else drawn


def collection(kind: str, *, fill: bool = True, is_weighted: bool = False) -> nn.Module:
    """Of normal rows."""
    torch.manual_seed(0)
    if kind == "bags":
        means = set() if is_weighted else {"shop", "user"}
        bags = [
            DynamicEmbeddingBagConfig(
                **table,
                pooling=PoolingType.MEAN if table["name"] in means else PoolingType.SUM,
            )
            for table in TABLES
        ]
        module: nn.Module = DynamicEmbeddingBagCollection(bags, is_weighted=is_weighted)
    else:
        module = DynamicEmbeddingCollection([DynamicEmbeddingConfig(**table) for table in TABLES])
    for table in dynamic_tables(module).values() if fill else ():
        ids = known_ids(table.config.name)
        none = TableRows.empty(table.config.embedding_dim)
        table.load_rows(
            TableRows(
                ids=ids,
                seen=torch.ones(len(ids), 2, dtype=torch.int32),
                weight=torch.randn(len(ids), table.config.embedding_dim),
                optimizer=torch.empty(len(ids), 0),
                waiting_ids=none.waiting_ids,
                waiting_seen=none.waiting_seen,
            )
        )
    return module.eval()


def batch(weighted: bool = False) -> KeyedJaggedTensor:
    """Bags of none to five ids, most of them known, some repeated; an unread key among them."""
    random = torch.Generator().manual_seed(5)
    num_rows = 200
    values, lengths = [], []
    for table in ("user", "item", "shop", "item", "item"):
        length = torch.randint(6, (num_rows,), generator=random)
        pool = torch.cat([known_ids(table), torch.tensor([7, -7, 123])])
        values.append(pool[torch.randint(len(pool), (int(length.sum()),), generator=random)])
        lengths.append(length)
    values[1][:8] = torch.tensor([*EDGES, 99, 0, 0])
    return KeyedJaggedTensor(
        keys=["user", "cand", "shop", "unread", "hist"],
        values=torch.cat(values),
        lengths=torch.cat(lengths),
        weights=torch.rand(sum(map(len, values)), generator=random) if weighted else None,
    )


def outputs(module: nn.Module, kjt: KeyedJaggedTensor) -> dict[str, Tensor]:
    found = module(kjt)
    if isinstance(found, KeyedTensor):
        assert found.keys() == OUTPUTS
        return {name: found[name] for name in OUTPUTS}
    assert list(found) == OUTPUTS
    for name in OUTPUTS:
        assert torch.equal(found[name].lengths().long(), kjt[name.split("@")[0]].lengths())
    return {name: values.values() for name, values in found.items()}


def assert_near(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], bits: int) -> None:
    for name, exact in expected.items():
        assert found[name].dtype == torch.float32
        assert found[name].shape == exact.shape
        if name == "user":  # the table has no rows
            assert not exact.any()
            assert not found[name].any()
        else:
            error = ((found[name] - exact).norm() / exact.norm()).item()
            # Narrower rows have a smaller range, hence a smaller error.
            assert ERRORS[bits][0] * exact.shape[1] / 40 < error < ERRORS[bits][1]


@pytest.mark.parametrize("bits", ERRORS)
@pytest.mark.parametrize(
    ("kind", "weighted"), [("sequences", False), ("bags", False), ("bags", True)]
)
def test_known_ids_read_their_rows_and_others_zeros(kind: str, weighted: bool, bits: int) -> None:
    exact = collection(kind, is_weighted=weighted)
    quantised, report = quantise(copy.deepcopy(exact), bits)
    kjt = batch(weighted)
    expected = outputs(exact, kjt)
    assert_near(outputs(quantised, kjt), expected, bits)
    assert not list(quantised.parameters())
    (converted,) = report.converted
    assert converted.tables == ("item", "user", "shop")
    num_bytes = sum(num + 5 * (num > 0) for num in NUM_IDS.values()) * 8
    assert converted.bytes_after > num_bytes
    assert converted.bytes_after < 0.6 * converted.bytes_before


@pytest.mark.parametrize("kind", ["sequences", "bags"])
def test_unknown_ids_count_in_means_as_they_do_in_the_dynamic_table(kind: str) -> None:
    exact = collection(kind)
    quantised, _ = quantise(copy.deepcopy(exact), 8)
    kjt = KeyedJaggedTensor(
        keys=["hist", "cand", "shop", "user"],
        values=torch.tensor([5] * 6),
        lengths=torch.tensor([2, 0, 1, 1, 0, 1, 1, 0]),
    )
    for values in outputs(quantised, kjt).values():
        assert not values.any()


@pytest.mark.parametrize("bits", ERRORS)
@pytest.mark.parametrize("kind", ["sequences", "bags"])
def test_a_state_dict_brings_its_ids_and_any_number_of_rows(kind: str, bits: int) -> None:
    trained, _ = quantise(nn.Sequential(collection(kind)), bits)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh, _ = quantise(nn.Sequential(collection(kind, fill=False)), bits)
    assert not any(values.any() for values in outputs(fresh[0], batch()).values())  # type: ignore[index]
    state = torch.load(file)
    fresh.load_state_dict(state)
    expected = outputs(trained[0], batch())  # type: ignore[index]
    for copied in (fresh[0], copy.deepcopy(fresh)[0]):  # type: ignore[index]
        for name, values in outputs(copied, batch()).items():
            assert torch.equal(values, expected[name])
    for tensor in state.values():
        tensor.zero_()
    for name, values in outputs(fresh[0], batch()).items():  # type: ignore[index]
        assert torch.equal(values, expected[name])


def test_states_that_do_not_fit_are_refused() -> None:
    model, _ = quantise(collection("sequences"), 8)
    state = model.state_dict()
    fewer, _ = quantise(
        DynamicEmbeddingCollection([DynamicEmbeddingConfig(**t) for t in TABLES[:2]]), 8
    )
    with pytest.raises(RuntimeError, match="offsets"):
        fewer.load_state_dict(state)
    other_bits, _ = quantise(collection("sequences", fill=False), 4)
    with pytest.raises(RuntimeError, match=r"rows\.32\.embeddings\.item\.weight"):
        other_bits.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r'Missing key.*"ids"'):
        model.load_state_dict({name: t for name, t in state.items() if name != "ids"})


def test_widths_and_values_that_cannot_be_stored_are_refused() -> None:
    narrow = DynamicEmbeddingConfig(name="t", embedding_dim=6, feature_names=["f"])
    with pytest.raises(ValueError, match=r"'t' has rows of width 6.*multiple of 4"):
        quantise(DynamicEmbeddingCollection([narrow]), 4)
    module = collection("sequences")
    table = dynamic_tables(module)["embeddings.item"]
    rows = table.rows().kept(torch.tensor([69_999]), torch.empty(0, dtype=torch.int64))
    rows.weight[0, 3] = float("nan")
    table.load_rows(rows)
    with pytest.raises(ValueError, match="'item' of '0' has values from nan"):
        quantise(nn.Sequential(module), 8)


def test_quantised_dynamic_collections_are_not_quantised_again() -> None:
    quantised, _ = quantise(collection("bags"), 8)
    with pytest.raises(ValueError, match="is a QuantisedDynamicEmbeddingBagCollection"):
        quantise(nn.Sequential(quantised), 8)


@pytest.mark.parametrize("nums", [[0], [0, 0], [1, 0, 3], [65_536, 65_537, 1], [0, 12, 13]])
def test_ids_are_numbered_in_their_order(nums: list[int]) -> None:
    """Against a dictionary; the same ids in every table."""
    pool = torch.cat([torch.tensor(EDGES), torch.arange(100, 100 + max(nums))])
    ids = torch.cat([pool[:num].flip(0) for num in nums])
    offsets = torch.tensor([0, *nums]).cumsum(0)
    rows = IdRows(ids, offsets)
    known = [{id: row + 1 for row, id in enumerate(part.tolist())} for part in ids.split(nums)]
    asked = [pool.flip(0)[::7], *([pool[:20]] * (len(nums) - 1))]
    found = rows.find(torch.cat(asked), torch.tensor([0, *map(len, asked)]).cumsum(0))
    expected = [known[t].get(id, 0) for t, part in enumerate(asked) for id in part.tolist()]
    assert found.tolist() == expected
