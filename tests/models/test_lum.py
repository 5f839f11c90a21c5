"""LUM against itself written out in plain loops, and what a query may and may not see."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tests.models.conftest import RequestMaker
from tests.modules.dense_layers import dense_layer
from torchrec_gr.models.lum import LUMPretrainer
from torchrec_gr.models.lum_config import LUMConfig
from torchrec_gr.modules.sequence_trunk import Block, TrunkConfig
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema
from torchrec_gr.sequences.request_batch import RequestBatch

HISTORIES = [3, 0, 12, 1, 5]
BOTH = ("history_category", "history_shop")
TRUNK = TrunkConfig(dim=16, num_layers=2, num_heads=2, max_seq_len=32)
CONFIG = LUMConfig(conditions=BOTH, trunk=TRUNK, init_std=0.5)
CONDITIONS = torch.tensor([[1, 2], [5, 0], [3, 7], [1, 3]])


@pytest.fixture
def schema(schema: FeatureSchema) -> FeatureSchema:
    """The shop's, with a second feature of an event for a condition of two."""
    shop = Feature("history_shop", "history", column="shop")
    return dataclasses.replace(schema, features=(*schema.features, shop))


@pytest.fixture
def model(schema: FeatureSchema, table_rows: dict[str, int]) -> LUMPretrainer:
    torch.manual_seed(0)
    return LUMPretrainer(CONFIG, schema, table_rows)


def _with(model: LUMPretrainer, schema: FeatureSchema, **trunk: object) -> LUMPretrainer:
    torch.manual_seed(1)
    rows = {name: t.num_embeddings for name, t in model.embeddings.embeddings.items()}
    config = dataclasses.replace(CONFIG, trunk=dataclasses.replace(TRUNK, **trunk))  # type: ignore[arg-type]
    return LUMPretrainer(config, schema, {**rows, "country": 5})


def _causal_row(model: LUMPretrainer, row: Tensor) -> Tensor:
    """[N, D] hidden states of one row of token embeddings, by dense causal attention."""
    encoder = model.body.encoder
    x = row.double() * encoder.tokens.scale + encoder.tokens.positions.weight[: len(row)]
    x = x[None]
    for layer in encoder.trunk.each_layer():
        x = dense_layer(layer, x, [list(range(len(row)))], TRUNK.max_seq_len)
    return x[0]


def _rows(model: LUMPretrainer, batch: RequestBatch) -> list[tuple[Tensor, Tensor]]:
    """Of each user the row c1, i1, c2, i2, ... and the items' ids."""
    tables = {name: table.weight for name, table in model.embeddings.embeddings.items()}
    lengths = batch.num_history().tolist()
    ids = {
        name: batch.ids[f"history_{name}"].values().split(lengths)
        for name in ("item", "category", "shop")
    }
    rows = []
    for items, categories, shops in zip(ids["item"], ids["category"], ids["shop"], strict=True):
        row = []
        for item, category, shop in zip(items, categories, shops, strict=True):
            row.append(tables["category"][category] + tables["shop"][shop])
            row.append(tables["item"][item])
        rows.append((torch.stack(row) if row else torch.zeros(0, TRUNK.dim), items))
    return rows


def _loss_by_definition(model: LUMPretrainer, batch: RequestBatch) -> tuple[Tensor, int]:
    table = model.embeddings.embeddings["item"].weight.double()
    negatives = batch.ids["negative_history_item"].values()
    losses = [torch.zeros((), dtype=torch.float64)]
    for row, items in _rows(model, batch):
        hidden = _causal_row(model, row)
        for place, item in enumerate(items.tolist()):
            if item == 0:
                continue
            h = normalize(hidden[2 * place], dim=0) / CONFIG.temperature
            others = negatives[negatives != item]
            candidates = normalize(table[torch.cat([torch.tensor([item]), others])], dim=1)
            losses.append(cross_entropy(candidates @ h, torch.tensor(0)))
    return torch.stack(losses).sum(), len(losses) - 1


@pytest.mark.parametrize("block", ["hstu", "hstu_research", "sasrec", "ligr"])
def test_the_loss_and_every_gradient_are_the_definition(
    model: LUMPretrainer, schema: FeatureSchema, make_requests: RequestMaker, block: Block
) -> None:
    """Rows are drawn from small tables, so out-of-vocabulary items and collisions occur."""
    model = _with(model, schema, block=block, bias="position")
    batch = make_requests(HISTORIES, [0] * 5, num_negatives=40, seed=3)
    items = batch.ids["history_item"].values()
    assert (items == 0).any()
    assert torch.isin(items, batch.ids["negative_history_item"].values()).any()
    loss, output = model(batch)
    expected, units = _loss_by_definition(model, batch)
    assert float(output.num_units) == units == int((items > 0).sum())
    torch.testing.assert_close(output.loss_sum, expected.detach().float())
    torch.testing.assert_close(loss, (expected / units).float())
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad(loss, list(parameters.values()))
    oracle = torch.autograd.grad(expected / units, list(parameters.values()))
    for name, got, right in zip(parameters, ours, oracle, strict=True):
        largest = float(right.abs().max())
        assert largest > 0, name
        assert float((got - right).abs().max()) < 1e-4 * largest, name


@pytest.mark.parametrize("bias", ["none", "position", "alibi"])
def test_queries_together_are_the_queries_one_at_a_time(
    model: LUMPretrainer, schema: FeatureSchema, make_requests: RequestMaker, bias: str
) -> None:
    model = _with(model, schema, bias=bias)
    batch = make_requests(HISTORIES, [0] * 5, seed=4)
    together = model.query(batch, CONDITIONS)
    alone = torch.cat([model.query(batch, condition[None]) for condition in CONDITIONS], dim=1)
    assert together.shape == (5, 4, TRUNK.dim)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=2), torch.ones(5, 4))
    apart = (together[:, 0] - together[:, 1]).abs().amax(dim=1)
    assert (apart > 0.01).all(), "another condition is another answer"


def test_a_query_is_the_next_condition_token_of_the_definition(
    model: LUMPretrainer, make_requests: RequestMaker
) -> None:
    batch = make_requests(HISTORIES, [0] * 5, seed=5)
    answers = model.query(batch, CONDITIONS)
    tables = {name: table.weight for name, table in model.embeddings.embeddings.items()}
    for user, (row, _) in enumerate(_rows(model, batch)):
        for place, (category, shop) in enumerate(CONDITIONS.tolist()):
            asked = tables["category"][category] + tables["shop"][shop]
            hidden = _causal_row(model, torch.cat([row, asked[None]]))[-1]
            expected = normalize(hidden, dim=0).float()
            torch.testing.assert_close(answers[user, place], expected, atol=1e-5, rtol=0)


def test_an_items_prediction_sees_its_condition_and_not_itself(
    model: LUMPretrainer, make_requests: RequestMaker
) -> None:
    batch = make_requests([6, 2], [0, 0], seed=6)
    events = torch.arange(8)
    columns = [torch.randn(8, TRUNK.dim) for _ in range(2)]
    before = model.body.encoder(*columns, batch.num_history(), events)
    for column, first_changed in ((0, 3), (1, 4)):
        changed = [values.clone() for values in columns]
        changed[column][3] += torch.randn(TRUNK.dim)
        after = model.body.encoder(*changed, batch.num_history(), events)
        same = (before == after).all(dim=1)
        assert same.tolist() == [e < first_changed or e >= 6 for e in range(8)]


def test_every_place_of_a_query_is_learned(
    model: LUMPretrainer, make_requests: RequestMaker
) -> None:
    """Learning reads one event more than the longest history, behind which a query then stands."""
    longest = 12
    batch = make_requests([longest + 1], [0], num_negatives=5)
    loss, output = model(batch)
    loss.backward()
    learned = model.body.encoder.tokens.positions.weight.grad
    assert learned is not None
    assert (learned[: 2 * longest + 1].abs().amax(dim=1) > 0).all()
    assert model.query(make_requests([longest], [0]), CONDITIONS).shape[1] == 4
    assert int(output.num_units) > 0


@pytest.mark.parametrize("num_history", [[0], [0, 0]])
def test_no_event_gives_no_loss(
    model: LUMPretrainer, make_requests: RequestMaker, num_history: list[int]
) -> None:
    batch = make_requests(num_history, [0] * len(num_history), num_negatives=5)
    loss, output = model(batch)
    loss.backward()
    assert float(loss.detach()) == float(output.num_units) == 0
    for name, parameter in model.body.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() == 0, name


def test_its_tables_serve_item_and_conditions_alone(
    schema: FeatureSchema, table_rows: dict[str, int], make_requests: RequestMaker
) -> None:
    config = dataclasses.replace(CONFIG, conditions=("history_category",))
    model = LUMPretrainer(config, schema, table_rows)
    assert set(model.embeddings.embeddings) == {"item", "category"}
    assert int(model(make_requests([4], [0], num_negatives=3))[1].num_units) > 0
    vectors = model.item_vectors()
    assert not vectors[0].any()
    torch.testing.assert_close(vectors[1:].norm(dim=1), torch.ones(29))


def test_what_cannot_be_a_condition_is_named(
    schema: FeatureSchema, table_rows: dict[str, int]
) -> None:
    for conditions, error in (
        (("history_categry",), "history_categry.*history_category"),
        (("history_item",), "history feature for a condition"),
        (("country",), "history feature for a condition"),
    ):
        config = dataclasses.replace(CONFIG, conditions=conditions)
        with pytest.raises(ValueError, match=error):
            LUMPretrainer(config, schema, table_rows)
    with pytest.raises(ValueError, match="each named once"):
        LUMConfig(conditions=())
    with pytest.raises(ValueError, match="places and no times"):
        LUMConfig(conditions=BOTH, trunk=dataclasses.replace(TRUNK, bias="position_time"))
    short = dataclasses.replace(CONFIG, trunk=dataclasses.replace(TRUNK, max_seq_len=24))
    with pytest.raises(
        ValueError, match="12 events and the one to predict, two tokens each, need 26"
    ):
        LUMPretrainer(short, schema, table_rows)
    with pytest.raises(ValueError, match="has no target"):
        LUMPretrainer(CONFIG, dataclasses.replace(schema, target=None), table_rows)
