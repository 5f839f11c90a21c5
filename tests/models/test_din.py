"""DIN, row by row and event by event."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.models.din import DIN, DINConfig, build_din, history_pairs
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table

DIM = 3
PAIRS = {"history_item": "item", "history_shop": "shop"}
CONFIG = DINConfig(attention=(5, 4), dense_arch=(6,), over_arch=(8, 7), activation="prelu")
KEYS = ["country", "item", "shop", "tags", "history_item", "history_shop", "history_click"]

Row = dict[str, list[int]]


def _tables(dim: int = DIM) -> list[EmbeddingBagConfig]:
    features = {
        "item": ["item", "history_item"],
        "shop": ["shop", "history_shop"],
        "click": ["history_click"],
        "tag": ["tags"],
        "country": ["country"],
    }
    return [
        EmbeddingBagConfig(name=name, embedding_dim=dim, num_embeddings=9, feature_names=names)
        for name, names in features.items()
    ]


def _model(config: DINConfig = CONFIG, num_tasks: int = 2) -> DIN:
    torch.manual_seed(0)
    return build_din(_tables(), 2, PAIRS, config, history=["history_click"], num_tasks=num_tasks)


def _row(events: Sequence[tuple[int, int, int]], *, tags: Sequence[int] = ()) -> Row:
    columns = list(zip(*events, strict=True)) or [()] * 3
    history = dict(zip(KEYS[-3:], map(list, columns), strict=True))
    return {"country": [2], "item": [4], "shop": [1], "tags": list(tags), **history}


FULL = _row([(1, 2, 0), (4, 1, 1), (1, 2, 1)], tags=(3, 5, 3))
PADDING: Row = {key: [] for key in KEYS}
BATCHES = [[FULL, _row([]), _row([(7, 8, 1)]), PADDING], [_row([]), PADDING], [FULL]]


def _ids(rows: Sequence[Row]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=KEYS,
        values=torch.tensor(
            [id for key in KEYS for row in rows for id in row[key]], dtype=torch.int64
        ),
        lengths=torch.tensor([len(row[key]) for key in KEYS for row in rows]),
    )


def _dense(num_rows: int) -> Tensor:
    return torch.randn(num_rows, 2)


def _expected(model: DIN, dense: Tensor, rows: Sequence[Row]) -> Tensor:
    unit = model.body.attention.unit
    logits = []
    for numbers, row in zip(dense, rows, strict=True):
        target = torch.cat([_sum(model, "item", row["item"]), _sum(model, "shop", row["shop"])])
        interest = bag = torch.zeros(3 * DIM)
        for item, shop, click in zip(*(row[key] for key in KEYS[-3:]), strict=True):
            columns = [("item", item), ("shop", shop), ("click", click)]
            event = torch.cat([_sum(model, table, [id]) for table, id in columns])
            paired = event[: 2 * DIM]
            inputs = torch.cat([event, target, paired - target, paired * target])
            weight = unit.rest((unit.first.weight @ inputs + unit.first.bias)[None])[0]
            interest, bag = interest + weight * event, bag + event
        joined = [target, interest, bag, target * bag[: 2 * DIM]]
        joined += [_sum(model, "tag", row["tags"]), _sum(model, "country", row["country"])]
        joined.append(model.body.dense_arch(numbers[None])[0])
        logits.append(model.body.over_arch(torch.cat(joined)[None])[0])
    return torch.stack(logits)


def _sum(model: DIN, table: str, ids: Sequence[int]) -> Tensor:
    weight = model.get_parameter(f"embeddings.embeddings.{table}.weight")
    return sum((weight[id] for id in ids), torch.zeros(DIM))


@pytest.mark.parametrize("rows", BATCHES)
def test_values_and_gradients_are_those_of_a_loop(rows: list[Row]) -> None:
    model, dense = _model(), _dense(len(rows))
    result, expected = model(dense, _ids(rows)), _expected(model, dense, rows)
    assert result.shape == (len(rows), 2)
    torch.testing.assert_close(result, expected)
    upstream = torch.randn_like(result)
    of_result, of_expected = (
        torch.autograd.grad(
            logits, list(model.parameters()), upstream, allow_unused=True, materialize_grads=True
        )
        for logits in (result, expected)
    )
    torch.testing.assert_close(of_result, of_expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("activation", ["dice", "prelu"])
def test_in_evaluation_neither_company_nor_order_matters(activation: str) -> None:
    model = _model(dataclasses.replace(CONFIG, activation=activation))  # type: ignore[arg-type]
    rows, dense = BATCHES[0], _dense(4)
    for _ in range(5):
        model(_dense(4), _ids(rows))
    model.eval()
    together = model(dense, _ids(rows))
    alone = [model(dense[i : i + 1], _ids([row])) for i, row in enumerate(rows)]
    torch.testing.assert_close(torch.cat(alone), together)
    turned = {**FULL, **{key: FULL[key][::-1] for key in KEYS[-3:]}}
    torch.testing.assert_close(model(dense, _ids([turned, *rows[1:]])), together)
    longer = {**FULL, **{key: [*FULL[key], 1] for key in KEYS[-3:]}}
    assert not torch.allclose(model(dense, _ids([longer, *rows[1:]]))[0], together[0])


@pytest.mark.parametrize("rows", BATCHES)
def test_dice_trains_on_few_events_or_none(rows: list[Row]) -> None:
    model = _model(dataclasses.replace(CONFIG, activation="dice"))
    model(_dense(len(rows)), _ids(rows)).sum().backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert all(grad.isfinite().all() for grad in gradients)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_tables_keep_their_names_rows_and_first_values() -> None:
    tables = _tables()
    tables[0].init_fn = lambda weight: nn.init.constant_(weight, 0.25)
    model = build_din(tables, 2, PAIRS, CONFIG, history=["history_click"])
    weights = {name: w for name, w in model.named_parameters() if name.startswith("embeddings")}
    assert list(weights) == [f"embeddings.embeddings.{table.name}.weight" for table in tables]
    assert all(weight.shape == (9, DIM) for weight in weights.values())
    assert (weights["embeddings.embeddings.item.weight"] == 0.25).all()


def test_history_features_are_paired_by_column_and_table() -> None:
    schema = FeatureSchema(
        name="shop",
        labels=("click",),
        features=(
            Feature("item", "candidate"),
            Feature("similar", "candidate", table="item"),
            Feature("shop", "candidate", table="own_shop"),
            Feature("history_similar", "history", column="similar", table="item"),
            Feature("history_item", "history", column="item"),
            Feature("history_shop", "history", column="shop", table="shop"),
            Feature("history_click", "history", column="click"),
        ),
        tables=tuple(Table(name) for name in ("item", "own_shop", "shop", "click")),
        user="user",
        time="time",
    )
    assert history_pairs(schema) == {"history_similar": "similar", "history_item": "item"}


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(ValueError, match="at least one table"):
        build_din([], 2, PAIRS, CONFIG)
    with pytest.raises(ValueError, match=r"one width for all, got widths \[3, 8\]"):
        build_din([_tables(8)[0], *_tables()[1:]], 2, PAIRS, CONFIG)
    with pytest.raises(ValueError, match="at least one dense feature, got 0"):
        build_din(_tables(), 0, PAIRS, CONFIG)
    with pytest.raises(ValueError, match="to compare it with, got none"):
        build_din(_tables(), 2, {}, CONFIG)
    with pytest.raises(ValueError, match="unknown feature 'itme': did you mean 'item'"):
        build_din(_tables(), 2, {"history_item": "itme"}, CONFIG)
    with pytest.raises(ValueError, match="'history_item' reads table 'item', 'shop' table 'shop'"):
        build_din(_tables(), 2, {"history_item": "shop"}, CONFIG)
    with pytest.raises(ValueError, match="'dice' or 'prelu', got 'relu'"):
        DINConfig(activation="relu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="over_arch: expected at least one hidden width"):
        DINConfig(over_arch=())
