"""Multi-hash tables in artefacts: rows are slots of hash functions, and fit the same ones alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from tests.pretrained.attaching.attach_cases import (
    KEYS,
    SHAPES,
    build,
    impressions,
    schema,
    vocabularies,
)
from tests.pretrained.attaching.pinfm_cases import (
    DIM,
    HASHED,
    by_definition,
    plain,
    save_pinfm,
    table,
)
from torchrec_gr import attach_pretrained, attachment
from torchrec_gr.embeddings import MultiHashEmbeddingCollection, MultiHashEmbeddingConfig
from torchrec_gr.embeddings.multi_hash_config import HashSlots
from torchrec_gr.pretrained import Pretrained, load_pretrained, untrained_module
from torchrec_gr.pretrained.artefact.record import RECORD, PretrainedError
from torchrec_gr.pretrained.serving.export import export_scorer
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.schema.raw_id_keys import raw_id_keys
from torchrec_gr.training.freeze import frozen_names
from torchrec_gr.training.sealed_json import read_sealed, write_sealed
from torchrec_gr.training.source import TableInMemory, WeightsInMemory
from torchrec_gr.training.transfer import transfer
from torchrec_gr.training.transfer_plan import SAME_ROWS, TablePlan, TransferPlan

SUB_TABLES = ["item_hash0", "item_hash1"]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    torch.set_num_threads(1)
    return save_pinfm(tmp_path_factory.mktemp("hashed") / "artefact", HASHED)


def rows(artefact: Pretrained, name: str) -> Tensor:
    return torch.cat([piece.weight for piece in artefact.tables[name].pieces()])


def by_hash(artefact: Pretrained, ids: Tensor) -> Tensor:
    """Embeddings of raw ids, from the artefact's sub-tables and the definition."""
    config = multi_hash()
    parts = [rows(artefact, name)[config.hash(ids, k)] for k, name in enumerate(SUB_TABLES)]
    return torch.cat(parts, dim=1)


def multi_hash(**changes: Any) -> MultiHashEmbeddingConfig:
    given = {
        "name": "item",
        "embedding_dim": DIM,
        "num_embeddings": HASHED.hash_rows,
        "num_hashes": HASHED.num_hashes,
        "feature_names": ["id"],
    }
    return MultiHashEmbeddingConfig(**(given | changes))


def test_the_record_says_what_the_rows_are(artefact: Pretrained) -> None:
    assert sorted(artefact.tables) == ["category", *SUB_TABLES]
    assert list(artefact.vocabularies) == ["category"]
    for function, name in enumerate(SUB_TABLES):
        saved = artefact.tables[name]
        assert saved.slots == HashSlots(HASHED.hash_rows, HASHED.num_hashes, function, seed=0)
        assert saved.raw_ids() is None
        assert saved.counts() is None
        assert saved.num_rows == HASHED.hash_rows
        assert saved.dim == DIM // 2
    assert artefact.tables["category"].slots is None
    readme = (artefact.path / "README.md").read_text()
    assert "any, by hash 1 of 2, seed 0" in readme


def test_a_record_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = save_pinfm(tmp_path / "artefact", HASHED).path
    fields, _ = read_sealed(path / RECORD)
    fields["tables"]["item_hash0"]["slots"]["num_embeddings"] = 12
    write_sealed(path / RECORD, fields)
    with pytest.raises(PretrainedError, match="'item_hash0': its rows are not the slots of"):
        load_pretrained(path)


def test_slots_go_into_the_same_slots(artefact: Pretrained) -> None:
    model = MultiHashEmbeddingCollection([multi_hash()])
    plan = TransferPlan({name: TablePlan(name, SAME_ROWS) for name in SUB_TABLES})
    report = transfer(artefact, model, plan)
    assert report.names("loaded") == [f"sub_tables.embeddings.{name}.weight" for name in SUB_TABLES]
    for name in SUB_TABLES:
        assert torch.equal(table(model, name), rows(artefact, name))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"num_embeddings": 14},
        {"num_hashes": 4, "embedding_dim": 2 * DIM},
    ],
)
def test_other_functions_are_refused(changes: dict[str, int], artefact: Pretrained) -> None:
    model = MultiHashEmbeddingCollection([multi_hash(**changes)])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    plan = TransferPlan({name: TablePlan(name, SAME_ROWS) for name in SUB_TABLES})
    with pytest.raises(ValueError, match="slots of hash functions fit the same functions alone"):
        transfer(artefact, model, plan)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_slots_are_no_rows_of_ids(artefact: Pretrained) -> None:
    hashed = MultiHashEmbeddingCollection([multi_hash()])
    crossed = TransferPlan({"item_hash0": TablePlan("item_hash1", SAME_ROWS)})
    stock = TransferPlan({"item_hash0": TablePlan("category", SAME_ROWS)})
    for plan in (crossed, stock):
        with pytest.raises(ValueError, match="fit the same functions alone"):
            transfer(artefact, hashed, plan)
    by_id = TransferPlan({"item_hash0": TablePlan("item_hash0", list(range(13)))})
    with pytest.raises(ValueError, match="give raw_ids=SAME_ROWS"):
        transfer(artefact, hashed, by_id)
    own = next(iter(build("net").children()))  # a table "item" of ids
    with pytest.raises(ValueError, match="'item' has rows of its own for ids"):
        transfer(artefact, own, TransferPlan({"item": TablePlan("item_hash0", SAME_ROWS)}))
    memory = WeightsInMemory(
        "memory",
        {"item": TableInMemory(torch.ones(13, DIM // 2), slots=multi_hash().slots(1))},
    )
    transfer(memory, hashed, TransferPlan({"item_hash1": TablePlan("item", SAME_ROWS)}))
    assert bool((table(hashed, "item_hash1") == 1).all())


def attach(artefact: Any, **options: Any) -> Any:
    return attach_pretrained(build("dlrm"), artefact, **{"strategy": "full", **KEYS, **options})


@pytest.mark.parametrize("shape", ["mixed", "filled", "nothing", "one empty"])
def test_values_are_raw_ids(shape: str, artefact: Pretrained) -> None:
    model, batch = attach(artefact), impressions(*SHAPES[shape])
    assert attachment(model).tables == (
        "pretrained_item_hash0",
        "pretrained_item_hash1",
        "pretrained_category",
    )
    items = by_hash(artefact, torch.arange(100))
    expected = by_definition(
        model.pretrained.body.encoder, batch, items, rows(artefact, "category")
    )
    vectors = model.pretrained(batch.sparse_features)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)


def test_ids_never_seen_have_embeddings(artefact: Pretrained) -> None:
    model = attach(artefact)
    ids = [(1 << 63) - 1, -(1 << 63), 0, -1, 10**15]
    kjt = impressions([[3]] * 5, [1] * 5).sparse_features
    values = kjt.values().clone()
    first, last = kjt.offset_per_key()[3:5]
    values[first:last] = torch.tensor(ids)
    vectors = model.pretrained(type(kjt)(kjt.keys(), values, lengths=kjt.lengths()))
    assert torch.equal(vectors[:, DIM:], by_hash(artefact, torch.tensor(ids)))


def test_rows_are_mapped_to_raw_ids(artefact: Pretrained) -> None:
    """Integers stand for themselves, strings for their hash, null for a fixed key."""
    batch = impressions([[0, 1], [2]], [2, 1])
    for ids in (pa.array([1010, None, -7]), pa.array(["b", None, "a"], pa.large_string())):
        model = attach(artefact, vocabularies={"item": ids})
        items = by_hash(artefact, torch.from_numpy(raw_id_keys(ids)))
        expected = by_definition(
            model.pretrained.body.encoder, batch, items, rows(artefact, "category")
        )
        vectors = model.pretrained(batch.sparse_features)
        torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)
    mine = attach(artefact, vocabularies=vocabularies())
    keys = mine.pretrained.item_ids.row_keys.keys
    assert keys.tolist()[1:] == vocabularies()["item"].raw_ids.tolist()
    assert not any("keys" in name for name in mine.state_dict())


def test_replaced_candidates_are_any_id(artefact: Pretrained) -> None:
    torch.manual_seed(0)
    known = attach(artefact, tuning=PinFMTuning(replace_candidate=1.0), vocabularies=vocabularies())
    raw = attach(artefact, tuning=PinFMTuning(replace_candidate=0.5))
    batch = impressions([[1, 2]] * 60, [3] * 60)
    for model, share in ((known, 1.0), (raw, 0.5)):
        own = model.eval().pretrained(batch.sparse_features)
        drawn = model.train().pretrained(batch.sparse_features)
        other = (own != drawn).any(dim=1)
        assert abs(other.float().mean() - share) < 0.2
        assert len(torch.unique(drawn[other][:, DIM:], dim=0)) > 20
        assert torch.equal(own[~other], drawn[~other])


def test_the_strategies(artefact: Pretrained) -> None:
    frozen = attach(artefact, strategy="sparse-freeze", tuning=PinFMTuning(content={"brand": 3}))
    tables = {n for n in frozen_names(frozen) if "embeddings" in n}
    prefix = "pretrained.items.sub_tables.embeddings.pretrained_item_hash"
    category = "pretrained.embeddings.embeddings.pretrained_category.weight"
    assert tables == {f"{prefix}{k}.weight" for k in (0, 1)} | {category}
    slow = attach(artefact, strategy="full-slow")
    assert "pretrained_item_hash1" in attachment(slow).parameter_groups()[0].patterns
    report = attachment(slow).report
    assert report is not None
    assert {t.table: (t.rows, t.found) for t in report.tables}["pretrained_item_hash0"] == (13, 13)
    untrained = untrained_module(
        module="pinfm", config=plain(HASHED), schema=schema(), vocabularies=vocabularies()
    )
    torch.manual_seed(1)
    scratch = attach(untrained, strategy="none")
    torch.manual_seed(1)
    other = attach(artefact, strategy="none").state_dict()
    assert list(scratch.state_dict()) == list(other)
    assert all(torch.equal(value, other[name]) for name, value in scratch.state_dict().items())


def test_the_item_alone(tmp_path: Path) -> None:
    """No other table is left, and so no other collection."""
    artefact = save_pinfm(tmp_path / "artefact", HASHED)
    options = {"features": {"item": "past_item", "category": None}}
    model = attach(artefact, **options, candidate={"item": "item_id"})
    assert model.pretrained.embeddings is None
    batch = impressions(*SHAPES["mixed"])
    items = by_hash(artefact, torch.arange(100))
    expected = by_definition(model.pretrained.body.encoder, batch, items, torch.zeros(6, DIM))
    vectors = model.pretrained(batch.sparse_features)
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=1e-5)


def test_one_step_reaches_the_sub_tables(artefact: Pretrained) -> None:
    model = attach(artefact)
    (widening,) = [w for n, w in model.named_parameters() if n.endswith("widening.weight")]
    nn.init.normal_(widening)
    batch = impressions(*SHAPES["mixed"])
    model(batch.dense_features, batch.sparse_features).square().sum().backward()
    for name in attachment(model).tables:
        gradient = table(model, name).grad
        assert gradient is not None
        assert gradient.any()


def test_the_sizes_are_the_configs(artefact: Pretrained) -> None:
    """A config that was altered does not fit what was saved."""
    altered = dataclasses.replace(artefact, config={**artefact.config, "hash_rows": 17})
    with pytest.raises(ValueError, match="fit the same functions alone"):
        attach(altered)


def test_a_scorer_is_exported(artefact: Pretrained) -> None:
    """Rows become raw ids and then slots inside the program."""
    model = attach(artefact, vocabularies=vocabularies()).eval()
    (widening,) = [w for n, w in model.named_parameters() if n.endswith("widening.weight")]
    nn.init.normal_(widening)
    batch = impressions(*SHAPES["filled"])
    program = export_scorer(model, (batch.dense_features, batch.sparse_features), quantize="none")
    other = impressions(*SHAPES["mixed"])
    kjt = other.sparse_features
    lengths = kjt.lengths().view(len(kjt.keys()), -1)
    found = program.module()(other.dense_features, kjt.values(), lengths)
    expected = model(other.dense_features, kjt)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
