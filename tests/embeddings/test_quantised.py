"""Quantised tables against the float ones that they replace."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
from torchrec.quant.embedding_modules import EmbeddingBagCollection as StockQuantisedBags
from torchrec.quant.embedding_modules import EmbeddingCollection as StockQuantised
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from torchrec_gr.embeddings.multi_hash import (
    MultiHashEmbeddingBagCollection,
    MultiHashEmbeddingCollection,
)
from torchrec_gr.embeddings.multi_hash_config import (
    MultiHashEmbeddingBagConfig,
    MultiHashEmbeddingConfig,
)
from torchrec_gr.embeddings.quantised import quantise
from torchrec_gr.embeddings.quantised_tables import store_rows, table_bytes
from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard

ROWS = 500
ERRORS = {8: (0.0035, 0.006), 4: (0.06, 0.09)}
"""Relative error on normal rows of width 32, from and to."""

FEATURES = ("hist", "cand", "user")
Build = Callable[..., nn.Module]


def _normal(weight: Tensor) -> Tensor:
    return nn.init.normal_(weight)


def _configs(kind: type, widths: tuple[int, int], **options: Any) -> list[Any]:
    shapes = {"num_embeddings": ROWS, "init_fn": _normal, **options}
    return [
        kind(name="item", embedding_dim=widths[0], feature_names=["hist", "cand"], **shapes),
        kind(name="user", embedding_dim=widths[1], feature_names=["user"], **shapes),
    ]


def plain(dim: int = 32, **options: Any) -> nn.Module:
    return EmbeddingCollection(tables=_configs(EmbeddingConfig, (dim, dim)), **options)


def bags(dim: int = 32, other_dim: int | None = None, **options: Any) -> nn.Module:
    tables = _configs(EmbeddingBagConfig, (dim, other_dim or dim))
    tables[1].pooling = PoolingType.MEAN
    return EmbeddingBagCollection(tables=tables, **options)


def multi_hash(sub_dim: int = 32) -> nn.Module:
    configs = _configs(MultiHashEmbeddingConfig, (3 * sub_dim, 3 * sub_dim), num_hashes=3)
    return MultiHashEmbeddingCollection(configs)


def multi_hash_bags(sub_dim: int = 32) -> nn.Module:
    configs = _configs(MultiHashEmbeddingBagConfig, (3 * sub_dim, 3 * sub_dim), num_hashes=3)
    return MultiHashEmbeddingBagCollection(configs)


BUILDS: dict[str, Build] = {
    "plain": plain,
    "bags": bags,
    "multi_hash": multi_hash,
    "multi_hash_bags": multi_hash_bags,
}


def batch(num_rows: int = 60, seed: int = 0, weighted: bool = False) -> KeyedJaggedTensor:
    """None to five ids a bag, each repeated somewhere; an unread key among them."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(6, (4 * num_rows,), generator=random)
    values = torch.randint(ROWS, (int(lengths.sum()),), generator=random)
    return KeyedJaggedTensor(
        keys=["user", "unread", "cand", "hist"],
        values=values,
        lengths=lengths,
        weights=torch.rand(len(values), generator=random) if weighted else None,
    )


def outputs(module: nn.Module, kjt: KeyedJaggedTensor) -> dict[str, Tensor]:
    found = module(kjt)
    if isinstance(found, KeyedTensor):
        return found.to_dict()
    for feature in FEATURES:
        assert torch.equal(found[feature].lengths(), kjt[feature].lengths())
    return {feature: found[feature].values() for feature in found}


def relative_error(ours: Tensor, exact: Tensor) -> float:
    return ((ours - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("bits", ERRORS)
@pytest.mark.parametrize("kind", BUILDS)
def test_every_kind_of_collection_is_quantised(kind: str, bits: int) -> None:
    torch.manual_seed(0)
    exact = BUILDS[kind]()
    quantised, report = quantise(copy.deepcopy(exact), bits)
    found, expected = outputs(quantised, batch()), outputs(exact, batch())
    assert found.keys() == expected.keys() == set(FEATURES)
    lowest, highest = ERRORS[bits]
    for feature in FEATURES:
        assert found[feature].dtype == torch.float32
        assert found[feature].shape == expected[feature].shape
        assert lowest < relative_error(found[feature], expected[feature]) < highest
    stock = [m for m in quantised.modules() if isinstance(m, (StockQuantised, StockQuantisedBags))]
    assert len(stock) == 1
    assert not list(quantised.parameters())
    assert len(report.converted) == 1


@pytest.mark.parametrize("bits", ERRORS)
def test_rows_are_min_max_integers_with_half_precision_scale_and_offset(bits: int) -> None:
    """Against the definition, in plain torch: what a look-up gives, to the bit of a float16."""
    torch.manual_seed(1)
    exact = plain(dim=12)
    rows = exact.embeddings["item"].weight.detach()
    smallest = rows.amin(dim=1, keepdim=True).half().float()
    scale = ((rows.amax(dim=1, keepdim=True) - smallest) / (2**bits - 1)).half().float()
    expected = smallest + scale * ((rows - smallest) / scale).round().clamp(0, 2**bits - 1)
    quantised, _ = quantise(exact, bits)
    ids = torch.arange(ROWS)
    everything = KeyedJaggedTensor(FEATURES, ids.repeat(3), lengths=torch.full((3,), ROWS))
    found = outputs(quantised, everything)["cand"]
    # A rounding in between may pick the neighbouring integer.
    assert ((found - expected).abs() < scale * 1.001).all()
    assert ((found - expected).abs() < 1e-4).float().mean() > 0.999


@pytest.mark.parametrize("bits", ERRORS)
def test_constant_rows_and_zeros(bits: int) -> None:
    exact = plain(dim=8)
    with torch.no_grad():
        exact.embeddings["item"].weight[:] = torch.arange(ROWS).unsqueeze(1) / 4 - 60
    ids = torch.arange(ROWS)
    everything = KeyedJaggedTensor(FEATURES, ids.repeat(3), lengths=torch.full((3,), ROWS))
    expected = outputs(exact, everything)["cand"].detach()
    quantised, _ = quantise(exact, bits)
    assert torch.equal(outputs(quantised, everything)["cand"], expected)


@pytest.mark.parametrize("bits", ERRORS)
def test_widths_empty_bags_weights(bits: int) -> None:
    for dim, other_dim in ((4, 12), (16 // bits, 100), (256, 20)):
        exact = bags(dim, other_dim)
        quantised, _ = quantise(copy.deepcopy(exact), bits)
        found, expected = outputs(quantised, batch()), outputs(exact, batch())
        for feature, empty in ((f, batch()[f].lengths() == 0) for f in FEATURES):
            assert empty.any()
            assert torch.equal(found[feature][empty], torch.zeros_like(found[feature][empty]))
            assert relative_error(found[feature], expected[feature]) < ERRORS[bits][1] * 1.2
    tables = _configs(EmbeddingBagConfig, (32, 32))
    exact = EmbeddingBagCollection(tables=tables, is_weighted=True)
    quantised, _ = quantise(copy.deepcopy(exact), bits)
    found, expected = (outputs(m, batch(weighted=True)) for m in (quantised, exact))
    for feature in FEATURES:
        assert relative_error(found[feature], expected[feature]) < ERRORS[bits][1]


@pytest.mark.parametrize("kind", BUILDS)
def test_batches_without_values(kind: str) -> None:
    quantised, _ = quantise(BUILDS[kind](), 8)
    lengths = torch.zeros(4 * 3, dtype=torch.int64)
    empty = KeyedJaggedTensor(batch().keys(), torch.empty(0, dtype=torch.int64), lengths=lengths)
    for values in outputs(quantised, empty).values():
        assert not values.any()


def _live_bytes() -> int:
    """Of all tensors that Python holds."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if type(found) in (Tensor, nn.Parameter)]
    storages = [tensor.untyped_storage() for tensor in tensors if not tensor.is_meta]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize(
    ("kind", "bits", "width"),
    [("plain", 8, 32 + 4), ("plain", 4, 16 + 4), ("bags", 4, 16 + 4), ("multi_hash", 8, 32 + 4)],
)
def test_memory_really_falls(kind: str, bits: int, width: int) -> None:
    none = _live_bytes()
    model = nn.Sequential(BUILDS[kind]())
    before = _live_bytes() - none
    _, report = quantise(model, bits)
    after = _live_bytes() - none
    num_tables = 6 if kind.startswith("multi_hash") else 2
    assert report.bytes_before == num_tables * ROWS * 32 * 4
    assert before == pytest.approx(report.bytes_before, abs=4096)
    assert report.bytes_after == pytest.approx(num_tables * ROWS * width, abs=128 * num_tables)
    assert after == pytest.approx(report.bytes_after, abs=4096)
    assert table_bytes(model) == report.bytes_after


@pytest.mark.parametrize("bits", ERRORS)
@pytest.mark.parametrize("kind", BUILDS)
def test_a_state_dict_is_saved_and_loaded(kind: str, bits: int) -> None:
    torch.manual_seed(0)
    trained, _ = quantise(nn.Sequential(BUILDS[kind]()), bits)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    with torch.device("meta"):
        skeleton = BUILDS[kind]()
    fresh, _ = quantise(nn.Sequential(skeleton), bits)
    assert not any(values.any() for values in outputs(fresh[0], batch()).values())  # type: ignore[index]
    fresh.load_state_dict(torch.load(file))
    found, expected = outputs(fresh[0], batch()), outputs(trained[0], batch())  # type: ignore[index]
    for feature in FEATURES:
        assert torch.equal(found[feature], expected[feature])
    other = copy.deepcopy(fresh)
    for tensor in fresh.state_dict().values():
        tensor.zero_()
    for feature in FEATURES:
        assert torch.equal(outputs(other[0], batch())[feature], expected[feature])


def test_names_stay_and_the_report_tells_what_was_done() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sequences = plain()
            self.again = self.sequences
            self.parts = nn.ModuleList([bags(), multi_hash()])
            self.positions = nn.Embedding(10, 4)

    model = Model()
    names = list(model.state_dict())
    same, report = quantise(model, 4)
    assert same is model
    assert list(model.state_dict()) == names
    assert model.again is model.sequences
    assert [one.path for one in report.converted] == [
        "sequences",
        "parts.0",
        "parts.1.sub_tables",
    ]
    assert report.converted[0].tables == ("item", "user")
    assert report.converted[2].tables[:2] == ("item_hash0", "item_hash1")
    assert report.bytes_before == 10 * ROWS * 32 * 4
    assert report.bytes_after == table_bytes(model)
    assert report.left == (("positions", 160),)
    text = str(report)
    for words in ("parts.1.sub_tables", "item_hash1", "positions: left in float, 160"):
        assert words in text


def test_indices_are_handed_on_where_they_were() -> None:
    quantised, _ = quantise(plain(need_indices=True), 8)
    for feature in FEATURES:
        found = quantised(batch())[feature]
        assert torch.equal(found.weights(), batch()[feature].values())
    quantised, _ = quantise(plain(), 8)
    assert quantised(batch())["user"].weights_or_none() is None


def test_rows_may_be_stored_in_parts() -> None:
    whole, parts = plain(), plain()
    rows = torch.randn(ROWS, 32)
    with torch.no_grad():
        whole.embeddings["item"].weight.copy_(rows)
    whole, parts = quantise(whole, 8)[0], quantise(parts, 8)[0]
    store_rows(parts, "item", rows[:7], 0)
    store_rows(parts, "item", rows[7:], 7)
    for feature in ("hist", "cand"):
        assert torch.equal(outputs(whole, batch())[feature], outputs(parts, batch())[feature])


@pytest.mark.parametrize(
    ("bits", "dim", "multiple"), [(8, 5, 2), (4, 5, 4), (4, 6, 4), (4, 2, 4), (8, 1, 2)]
)
def test_widths_that_do_not_fit_are_refused_and_nothing_is_changed(
    bits: int, dim: int, multiple: int
) -> None:
    for build in BUILDS.values():
        model = nn.Sequential(plain(), build(dim))
        children = list(model)
        with pytest.raises(ValueError, match=f"width {dim}: .* a multiple of {multiple}"):
            quantise(model, bits)
        assert list(model) == children


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_values_that_cannot_be_stored_are_refused(value: float) -> None:
    model = nn.Sequential(plain())
    with torch.no_grad():
        model[0].embeddings["user"].weight[3, 5] = value
    with pytest.raises(ValueError, match="table 'user' of '0' has values from"):
        quantise(model, 8)


class _OwnCollection(EmbeddingCollection):
    """Somebody's subclass, whose forward would be lost."""


def test_collections_inside_other_modules_of_torchrec_are_quantised() -> None:
    tables = _configs(EmbeddingBagConfig, (32, 32))
    weighted = EmbeddingBagCollection(tables=tables, is_weighted=True)
    weights = PositionWeightedModuleCollection(dict.fromkeys(FEATURES, 10))
    exact = FeatureProcessedEmbeddingBagCollection(weighted, weights)
    with torch.no_grad():
        for weight in weights.parameters():
            weight.copy_(torch.rand(10))
    quantised, report = quantise(copy.deepcopy(exact), 8)
    found, expected = outputs(quantised, batch()), outputs(exact, batch())
    for feature in FEATURES:
        assert 0.001 < relative_error(found[feature], expected[feature]) < ERRORS[8][1]
    assert [one.path for one in report.converted] == ["_embedding_bag_collection"]


def test_what_cannot_be_converted_is_named_and_nothing_is_changed() -> None:
    quantised, _ = quantise(plain(), 8)
    own = _OwnCollection(tables=_configs(EmbeddingConfig, (8, 8)))
    for module in (quantised, own):
        model = nn.Sequential(plain(), nn.Sequential(module))
        before = model[0]
        with pytest.raises(ValueError, match=rf"'1\.0' is a {type(module).__name__}"):
            quantise(model, 8)
        assert model[0] is before


def test_sharded_models_and_wrong_calls_are_refused() -> None:
    with process_group("cpu") as device:
        optimizer = TableOptimizer(name="sgd")
        sharded = shard(nn.Sequential(plain()), device=device, table_optimizer=optimizer)
        assert isinstance(sharded, DistributedModelParallel)
        with pytest.raises(ValueError, match=r"ShardedEmbeddingCollection.*unsharded"):
            quantise(sharded, 8)
    with pytest.raises(ValueError, match="nothing to quantise"):
        quantise(nn.Linear(2, 2), 8)
    with pytest.raises(ValueError, match="bits must be 4 or 8, got 2"):
        quantise(plain(), 2)
