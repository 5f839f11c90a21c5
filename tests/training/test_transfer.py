"""Transfers into models that are not sharded: values, and what is refused before any is touched."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from tests.training.toy import DIM, NUM_ITEMS, toy_model
from torchrec_gr.embeddings.dynamic_collections import DynamicEmbeddingCollection
from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.schema.vocabulary import Vocabulary
from torchrec_gr.training.freeze import freeze
from torchrec_gr.training.source import LONGEST_PIECE, RowPiece, TableInMemory, WeightsInMemory
from torchrec_gr.training.tables import table_weights
from torchrec_gr.training.transfer import transfer
from torchrec_gr.training.transfer_plan import SAME_ROWS, TablePlan, TransferPlan

ITEM = "embeddings.embeddings.item.weight"
IDS = [None, *range(10, 10 + NUM_ITEMS - 1)]
STANDARD_IDS = pa.array([None, *range(20, 60)])
PARAMETERS = [
    ITEM,
    "embeddings.embeddings.user.weight",
    *(f"body.{layer}.{kind}" for layer in ("hidden", "head") for kind in ("weight", "bias")),
]


def _source(ids: Any = STANDARD_IDS, dim: int = DIM, **kept: Any) -> WeightsInMemory:
    """A table "goods" of these ids, one "extra" of standard ids, dense ones for body.hidden."""
    num_rows = NUM_ITEMS if ids is None else len(ids)
    random = torch.Generator().manual_seed(1)
    tensors = {
        "hidden": torch.randn(16, 3 * DIM, generator=random),
        "bias": torch.randn(16, generator=random),
    }
    goods = TableInMemory(torch.randn(num_rows, dim, generator=random), ids, **kept)
    extra = TableInMemory(torch.randn(41, DIM, generator=random), STANDARD_IDS)
    return WeightsInMemory("the source", {"goods": goods, "extra": extra}, tensors)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_rows_are_found_by_id_whatever_their_order() -> None:
    order = torch.randperm(41, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = pa.array([None, *range(20, 60)]).take(pa.array(order))
    source = _source(shuffled)
    rows = dict(zip(shuffled.to_pylist(), source.tables["goods"].weight, strict=True))
    for kind in (list, np.array, pa.array, lambda ids: Vocabulary("item", pa.array(ids[1:]), None)):
        model = toy_model("requests")
        before = _state(model)
        given = kind(IDS) if kind is not np.array else np.array(IDS, dtype=object)
        report = transfer(source, model, TransferPlan({"item": TablePlan("goods", given)}))
        for row, raw_id in enumerate(IDS):
            assert torch.equal(
                table_weights(model)["item"][row], rows.get(raw_id, before[ITEM][row])
            )
        assert [name for name in before if not torch.equal(before[name], _state(model)[name])] == [
            ITEM
        ]
        assert report.tables[0].found == 1 + len(range(20, 46))


@pytest.mark.parametrize("source_null", [False, True])
@pytest.mark.parametrize("target_null", [False, True])
def test_the_row_of_no_id_needs_one_on_both_sides(source_null: bool, target_null: bool) -> None:
    source = _source(pa.array([20, None if source_null else 21, None if source_null else 22]))
    ids = [None if target_null else 3, None if target_null else 4, *range(20, 20 + NUM_ITEMS - 2)]
    model = toy_model("requests")
    before, rows = _state(model)[ITEM], source.tables["goods"].weight
    plan = TablePlan("goods", ids, unknown="mean")
    transfer(source, model, TransferPlan({"item": plan}))
    after = table_weights(model)["item"]
    assert torch.equal(after[2], rows[0])
    both, mean = source_null and target_null, rows.mean(0)
    expected = rows[1] if both else before[0] if target_null else mean
    torch.testing.assert_close(after[0], expected)
    # Later rows without an id are none that the source does not know: they are kept.
    torch.testing.assert_close(after[1], before[1] if target_null else mean)


def test_a_table_longer_than_a_piece_is_copied_whole() -> None:
    num = 2 * LONGEST_PIECE + 5
    weight = torch.arange(num, dtype=torch.float32).unsqueeze(1).expand(-1, 2).contiguous()
    ids = torch.randperm(num)
    source = WeightsInMemory("s", {"t": TableInMemory(weight, pa.array(ids.numpy() * 3))})
    config = EmbeddingConfig(name="t", embedding_dim=2, num_embeddings=num + 9)
    model = EmbeddingCollection([config])
    asked = torch.randperm(num + 9)
    plan = TablePlan("t", asked.numpy() * 3)
    report = transfer(source, model, TransferPlan({"t": plan}))
    known = asked < num
    assert report.tables[0].found == num
    found = table_weights(model)["t"][known]
    assert torch.equal(found[:, 0].long(), ids.argsort()[asked[known]])
    assert torch.equal(found[:, 0], found[:, 1])


def test_principal_directions_keep_dot_products_and_zeros_do_too() -> None:
    torch.manual_seed(0)
    low = torch.randn(200, DIM) @ torch.randn(DIM, 3 * DIM)  # of rank DIM, so nothing is lost
    for weight in (low, torch.randn(200, DIM // 2)):
        table = TableInMemory(weight, pa.array(range(200)))
        model = toy_model("requests")
        plan = TablePlan("t", range(5, 5 + NUM_ITEMS), projection="principal")
        report = transfer(WeightsInMemory("s", {"t": table}), model, TransferPlan({"item": plan}))
        after, part = table_weights(model)["item"], weight[5 : 5 + NUM_ITEMS]
        torch.testing.assert_close(after @ after.T, part @ part.T, rtol=1e-4, atol=1e-3)
        assert report.parameters[0].status == "resized"
    assert torch.equal(after[:, : DIM // 2], part)
    assert not after[:, DIM // 2 :].any()


def test_dense_tensors_go_where_the_plan_says() -> None:
    model, source = toy_model("requests"), _source()
    before = _state(model)
    dense = {"body.hidden.weight": "hidden", "body.hidden.bias": "bias"}
    report = transfer(source, model, TransferPlan(dense=dense))
    after = _state(model)
    for name in PARAMETERS:
        expected = source.tensors[dense[name]] if name in dense else before[name]
        assert torch.equal(after[name], expected)
    assert report.names("loaded") == list(dense)
    assert report.unused == ("goods", "extra")


def test_nothing_planned_is_nothing_done() -> None:
    model = toy_model("dynamic_requests")
    report = transfer(_source(), model, TransferPlan())
    assert report.names("left") == report.names("loaded", "resized", "left")
    assert sorted(report.names("left")) == sorted(PARAMETERS)
    assert report.unused == ("goods", "extra", "hidden", "bias")


def test_every_parameter_has_its_line() -> None:
    model = toy_model("requests")
    freeze(model, ["item", "body.head.*"])
    counts = np.arange(NUM_ITEMS)
    source = _source(pa.array([None, *range(20, 20 + NUM_ITEMS - 1)]))
    plan = TransferPlan(
        {
            "item": TablePlan("goods", IDS, unknown="hash", counts=counts),
            "user": TablePlan("extra", [*range(20, 30), None]),
        },
        {"body.hidden.weight": "hidden"},
    )
    report = transfer(source, model, plan)
    assert [(e.name, e.status, e.frozen, e.note) for e in report.parameters] == [
        (PARAMETERS[0], "loaded", True, "from goods"),
        (PARAMETERS[1], "resized", False, "from extra"),
        (PARAMETERS[2], "loaded", False, "from hidden"),
        (PARAMETERS[3], "left", False, ""),
        (PARAMETERS[4], "left", True, ""),
        (PARAMETERS[5], "left", True, ""),
    ]
    item, user = report.tables
    assert (item.rows, item.found, item.unknown, item.unused) == (37, 27, 10, 10)
    assert item.traffic == sum(range(11, 37)) / sum(range(37))
    assert (user.rows, user.found, user.traffic, user.unused) == (11, 11, None, 30)
    assert report.unused == ("bias",)


def test_the_vocabulary_brings_its_counts() -> None:
    counts = np.full(NUM_ITEMS, 3)
    counts[0] = 100
    vocabulary = Vocabulary("item", pa.array(IDS[1:]), counts)
    plan = TransferPlan({"item": TablePlan("goods", vocabulary)})
    (table,) = transfer(_source(), toy_model("requests"), plan).tables
    assert table.traffic == (100 + 3 * 26) / (100 + 3 * 36)


@dataclasses.dataclass
class _Watched:
    """A table that notes how many of its rows are held at once."""

    num_rows: int
    dim: int = DIM
    optimizer: None = None
    slots: None = None
    most_held: int = 0

    def raw_ids(self) -> pa.Array:
        return pa.array(range(self.num_rows))

    def counts(self) -> None:
        return None

    def pieces(self) -> Iterator[RowPiece]:
        held: list[Any] = []
        for first in range(0, self.num_rows, 1000):
            weight = torch.full((min(1000, self.num_rows - first), self.dim), float(first))
            held = [(part, num) for part, num in held if part() is not None]
            held.append((weakref.ref(weight), len(weight)))
            self.most_held = max(self.most_held, sum(num for _, num in held))
            piece = RowPiece(first, weight)
            del weight
            yield piece
            del piece


@pytest.mark.parametrize("view", ["requests", "dynamic_requests"])
@pytest.mark.parametrize("dim", [DIM, 2 * DIM])
def test_no_more_than_a_piece_is_held_at_once(view: str, dim: int) -> None:
    watched = _Watched(9500, dim)
    source: Any = WeightsInMemory("s", {"t": watched})  # type: ignore[dict-item]
    ids = None if view.startswith("dynamic") else range(NUM_ITEMS)
    plan = TablePlan("t", ids, projection="principal")
    transfer(source, toy_model(view), TransferPlan({"item": plan}))
    assert watched.most_held == 1000


def _refused() -> Mapping[str, tuple[WeightsInMemory, TransferPlan, str]]:
    """What cannot be done, by what is wrong with it; and how the error goes."""

    def item(*args: Any, source: WeightsInMemory | None = None, **options: Any) -> Any:
        return source or _source(), TransferPlan({"item": TablePlan(*args, **options)})

    strings = pa.array([f"sku {i}" for i in range(40)], pa.large_string())
    twice = _source(pa.array([None, *range(20, 59), 20]))
    return {
        "target": (
            _source(),
            TransferPlan({"itm": TablePlan("goods", IDS)}),
            "the model: unknown table 'itm': did you mean 'item'",
        ),
        "source": (*item("god", IDS), "the source: unknown table 'god': did you mean 'goods'"),
        "dense target": (
            _source(),
            TransferPlan(dense={"body.hiden.bias": "bias"}),
            "the model: unknown dense tensor .* did you mean 'body.hidden.bias'",
        ),
        "dense source": (
            _source(),
            TransferPlan(dense={"body.hidden.bias": "bais"}),
            "the source: unknown dense tensor 'bais': did you mean 'bias'",
        ),
        "dense shape": (
            _source(),
            TransferPlan(dense={"body.head.bias": "bias"}),
            r"bias of shape \(16,\) into body.head.bias of shape \(1,\)",
        ),
        "a table is not dense": (
            _source(),
            TransferPlan(dense={ITEM: "bias"}),
            "unknown dense tensor 'embeddings",
        ),
        "no ids": (*item("goods"), "raw_ids is missing: say what its 37 rows stand for"),
        "length": (*item("goods", IDS[:-1]), "has 37 rows, but raw_ids has 36"),
        "counts": (*item("goods", IDS, counts=np.ones(5)), "has 37 rows, but counts has 5"),
        "no vocabulary": (
            *item("goods", IDS, source=_source(None)),
            "the vocabulary of 'goods' is missing in the source",
        ),
        "fewer rows": (*item("goods", SAME_ROWS), "has 37 rows, 'goods' of the source 41"),
        "hash of rows": (*item("goods", SAME_ROWS, unknown="hash"), "'hash' needs raw_ids"),
        "width": (
            *item("goods", IDS, source=_source(dim=9)),
            "is 8 wide, 'goods' of the source 9: .*projection='principal'",
        ),
        "strings there": (
            *item("goods", IDS, source=_source(strings)),
            "source's raw ids are large_string, such as 'sku 0', .* int64, such as 10, 11",
        ),
        "strings here": (
            *item("goods", list(map(str, range(37)))),
            "source's raw ids are int64, such as 20, .* large_string, such as '0'",
        ),
        "no id": (*item("goods", [[1]] * 37), "raw ids must be integers or strings"),
        "two rows here": (
            *item("goods", [None, *range(15, 50), 20]),
            "table 'item': an id stands for more than one row, such as 20",
        ),
        "two rows there": (
            *item("goods", IDS, source=twice),
            "in the source an id stands for more than one row, such as 20",
        ),
        "no overlap": (
            *item("goods", range(1000, 1037)),
            "'item' and 'goods' of the source share no id: the source's are such as 20, 21, 22, "
            "the table's such as 1000, 1001, 1002",
        ),
        "no overlap but for no id": (
            *item("goods", [None, *range(1000, 1036)]),
            "share no id",
        ),
        "empty source": (
            *item("goods", IDS, source=_source(pa.array([], pa.int64()))),
            "such as none",
        ),
        "state of none": (
            *item("goods", IDS, optimizer_state=True),
            "has the state of no optimizer",
        ),
        "dense state": (
            _source(),
            TransferPlan(dense={"body.hidden.bias": "bias"}, dense_optimizer_state=True),
            "dense_optimizer_state of body.hidden.bias",
        ),
    }


@pytest.mark.parametrize("what", _refused())
def test_what_cannot_be_done_is_an_error_and_touches_nothing(what: str) -> None:
    source, plan, words = _refused()[what]
    good = {"user": TablePlan("extra", range(20, 31))}
    model = toy_model("requests")
    before = _state(model)
    with pytest.raises(ValueError, match=words):
        transfer(source, model, dataclasses.replace(plan, tables={**good, **plan.tables}))
    after = _state(model)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_words_that_mean_nothing_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="unknown 'average': expected one of keep, mean, hash"):
        TablePlan("goods", IDS, unknown="average")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown projection 'pca': expected one of none, prin"):
        TablePlan("goods", IDS, projection="pca")  # type: ignore[arg-type]


def test_a_model_that_holds_nothing_yet_is_refused() -> None:
    model = toy_model("requests").to("meta")
    for plan in (
        TransferPlan({"item": TablePlan("goods", IDS)}),
        TransferPlan(dense={"body.hidden.bias": "bias"}),
    ):
        with pytest.raises(ValueError, match="on the meta device and holds nothing yet"):
            transfer(_source(), model, plan)


def test_two_tables_of_a_name_are_not_told_apart() -> None:
    model = nn.ModuleList([toy_model("requests"), toy_model("requests")])
    with pytest.raises(ValueError, match=r"more than one table 'item': 0\.emb.*, 1\.emb"):
        transfer(_source(), model, TransferPlan({"item": TablePlan("goods", IDS)}))


def _dynamic(**options: Any) -> DynamicEmbeddingCollection:
    config = DynamicEmbeddingConfig(
        name="item", embedding_dim=DIM, feature_names=["item"], **options
    )
    return DynamicEmbeddingCollection([config])


def test_a_dynamic_table_takes_ids_and_counts() -> None:
    source = _source(num_seen=np.arange(41) - 1)
    for max_rows in (None, 10):
        model = _dynamic(max_rows=max_rows)
        report = transfer(source, model, TransferPlan({"item": TablePlan("goods")}))
        (table,) = dynamic_tables(model).values()
        rows = table.rows()
        kept = range(50, 60) if max_rows else range(20, 60)  # the most counted
        order = rows.ids.argsort()
        assert rows.ids[order].tolist() == list(kept)
        assert rows.seen[order].tolist() == [[max(1, raw_id - 20), 0] for raw_id in kept]
        expected = source.tables["goods"].weight[[raw_id - 19 for raw_id in kept]]
        assert torch.equal(rows.weight[order], expected)
        (entry,) = report.tables
        assert (entry.rows, entry.found, entry.unused) == (len(kept), len(kept), 41 - len(kept))
        assert entry.traffic is None
        note = "from goods; 30 ids stayed behind: max_rows=10" if max_rows else "from goods"
        assert report.parameters[0].note == note


def test_of_equal_counts_the_smaller_ids_come() -> None:
    model = _dynamic(max_rows=3)
    source = _source(pa.array([9, 8, 7, 6, None, 5]))
    transfer(source, model, TransferPlan({"item": TablePlan("goods")}))
    (table,) = dynamic_tables(model).values()
    assert sorted(table.rows().ids.tolist()) == [5, 6, 7]


def test_what_a_dynamic_table_cannot_take_is_refused() -> None:
    strings = _source(pa.array(["a", None], pa.large_string()))
    twice = _source(pa.array([4, 5, 4]))
    kept = {"state": torch.zeros(41, DIM), "optimizer": "adagrad"}
    cases: list[tuple[WeightsInMemory, TablePlan, str]] = [
        (strings, TablePlan("goods"), "keys are int64, .*large_string, such as 'a'"),
        (twice, TablePlan("goods"), "in the source an id stands for more than one row, such as 4"),
        (_source(None), TablePlan("goods"), "the vocabulary of 'goods' is missing"),
        (_source(), TablePlan("goods", IDS), "leave raw_ids, unknown and counts out"),
        (_source(), TablePlan("goods", unknown="mean"), "leave raw_ids, unknown and counts out"),
        (_source(dim=9), TablePlan("goods"), "projection='principal'"),
        (_source(), TablePlan("goods", optimizer_state=True), "the state of no optimizer"),
        (_source(**kept), TablePlan("goods", optimizer_state=True), "by none"),
    ]
    for source, plan, words in cases:
        model = _dynamic()
        with pytest.raises(ValueError, match=words):
            transfer(source, model, TransferPlan({"item": plan}))
        (table,) = dynamic_tables(model).values()
        assert table.report().rows == 0
