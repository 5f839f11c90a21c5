"""The five strategies, between models and kinds of tables."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.training.toy import NUM_ITEMS, sharded, toy_model
from torchrec_gr.training.freeze import has_fused_optimizer
from torchrec_gr.training.tables import table_of, table_weights
from torchrec_gr.training.transfer import STRATEGIES, Strategy, transfer


def _pretrained() -> dict[str, Tensor]:
    return {name: torch.randn_like(w) for name, w in toy_model("requests", 1).state_dict().items()}


def _changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, w in model.state_dict().items() if not torch.equal(w, before[name])}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_loads_and_freezes_its_part(strategy: Strategy) -> None:
    model, pretrained = toy_model("requests"), _pretrained()
    before = {name: w.clone() for name, w in model.state_dict().items()}
    report = transfer(model, pretrained, strategy)
    tables = {name for name in before if table_of(name)}
    loaded = {"none": set(), "full": set(before), "sparse": tables}[strategy.split("-")[0]]
    assert _changed(model, before) == set(report.loaded) == loaded
    assert set(report.left) == set(before) - loaded
    assert set(report.unused) == set(pretrained) - loaded
    assert set(report.frozen) == (tables if strategy.endswith("freeze") else set())
    for name in loaded:
        assert torch.equal(model.state_dict()[name], pretrained[name])
    frozen = {t for t, weight in table_weights(model).items() if has_fused_optimizer(weight)}
    assert frozen == {table_of(name) for name in report.frozen}


def test_tables_go_from_one_kind_of_collection_into_the_other() -> None:
    model, pretrained = toy_model("impressions"), _pretrained()
    report = transfer(model, pretrained, "sparse", tables={"item": "item"})
    assert report.loaded == ("sparse.bags.embedding_bags.item.weight",)
    assert torch.equal(
        table_weights(model)["item"], pretrained["embeddings.embeddings.item.weight"]
    )


def test_a_table_of_another_name_can_be_named() -> None:
    model, pretrained = toy_model("requests"), _pretrained()
    pretrained["embeddings.embeddings.goods.weight"] = pretrained.pop(
        "embeddings.embeddings.item.weight"
    )
    transfer(model, pretrained, "sparse", tables={"item": "goods"})
    assert torch.equal(
        table_weights(model)["item"], pretrained["embeddings.embeddings.goods.weight"]
    )


def test_an_extended_table_takes_the_old_rows_and_keeps_the_new() -> None:
    model, pretrained = toy_model("requests"), _pretrained()
    name = "embeddings.embeddings.item.weight"
    old = pretrained[name] = pretrained[name][: NUM_ITEMS - 5]
    fresh = table_weights(model)["item"][NUM_ITEMS - 5 :].clone()
    transfer(model, pretrained, "sparse")
    assert torch.equal(table_weights(model)["item"], torch.cat([old, fresh]))


def test_what_does_not_fit_is_an_error_and_touches_nothing() -> None:
    name = "embeddings.embeddings.item.weight"
    model = toy_model("requests")
    before = {name: w.clone() for name, w in model.state_dict().items()}
    cases: list[tuple[dict[str, Tensor], dict[str, str] | None, str, str]] = [
        (_pretrained() | {name: torch.zeros(NUM_ITEMS + 1, 8)}, None, "sparse", "gained rows"),
        (_pretrained() | {name: torch.zeros(NUM_ITEMS, 9)}, None, "sparse", "widths"),
        (_pretrained() | {"body.head.bias": torch.zeros(2)}, None, "full", "body.head.bias"),
        (_pretrained(), {"itm": "item"}, "sparse", r"model lacks \['itm'\]"),
        (_pretrained(), {"item": "itm"}, "sparse", r"weights lack \['itm'\]"),
        ({}, None, "full", "cannot transfer tables"),
        (_pretrained(), None, "sparse-frozen", "expected one of none, full"),
    ]
    for pretrained, tables, strategy, message in cases:
        with pytest.raises(ValueError, match=message):
            transfer(model, pretrained, strategy, tables=tables)  # type: ignore[arg-type]
        assert not _changed(model, before)


def test_a_full_transfer_into_a_model_without_the_dense_part_is_an_error() -> None:
    pretrained = {name.replace("body", "decoder"): w for name, w in _pretrained().items()}
    with pytest.raises(ValueError, match=r"no full transfer into BagRanker.*'sparse'"):
        transfer(toy_model("impressions"), pretrained, "full-freeze")


def test_transferred_weights_survive_sharding() -> None:
    for view in ("requests", "impressions"):
        model, pretrained = toy_model(view), _pretrained()
        transfer(model, pretrained, "sparse-freeze")
        after, _ = sharded(model)
        for name, value in after.state_dict().items():
            if table_of(name):
                source = pretrained[f"embeddings.embeddings.{table_of(name)}.weight"]
                assert torch.equal(value.local_shards()[0].tensor, source)


def test_a_model_that_holds_nothing_yet_is_refused() -> None:
    """Copying to the meta device would do nothing, in silence."""
    with pytest.raises(ValueError, match=r"item\.weight, which is on the meta device"):
        transfer(toy_model("requests").to("meta"), _pretrained(), "sparse")
    with pytest.raises(ValueError, match=r"item\.weight of shape \(0, 8\)"):
        transfer(toy_model("dynamic_requests"), _pretrained(), "sparse")
