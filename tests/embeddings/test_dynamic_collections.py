"""Dynamic collections against TorchRec's own, which hold every id from the start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.embeddings.dynamic_collections import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
)
from torchrec_gr.embeddings.dynamic_config import (
    DynamicEmbeddingBagConfig,
    DynamicEmbeddingConfig,
)
from torchrec_gr.embeddings.dynamic_table import DynamicTable, dynamic_tables
from torchrec_gr.embeddings.table_report import describe, table_reports, total

NUM_IDS, B = 11, 5
TABLES = {"item": (8, ["hist", "cand"]), "user": (4, ["user"]), "shared": (8, ["hist"])}
KEYS = ["user", "unused", "cand", "hist"]
OPTIMIZERS: list[tuple[Any, dict[str, float]]] = [
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.Adagrad, {"lr": 0.1, "eps": 1e-8}),
    (RowWiseAdagrad, {"lr": 0.1, "eps": 1e-8}),
]


def collection(pooling: PoolingType | None = None, **options: Any) -> nn.Module:
    if pooling is None:
        return DynamicEmbeddingCollection(
            [
                DynamicEmbeddingConfig(name=n, embedding_dim=d, feature_names=f, **options)
                for n, (d, f) in TABLES.items()
            ]
        )
    return DynamicEmbeddingBagCollection(
        [
            DynamicEmbeddingBagConfig(
                name=n, embedding_dim=d, feature_names=f, pooling=pooling, **options
            )
            for n, (d, f) in TABLES.items()
        ]
    )


def static(dynamic: nn.Module, pooling: PoolingType | None) -> nn.Module:
    """TorchRec's collection of the rows that the dynamic one gives to ids 0 to NUM_IDS - 1."""
    weights = {}
    for name, table in dynamic_tables(dynamic).items():
        ids, count = torch.arange(NUM_IDS), torch.ones(NUM_IDS, dtype=torch.int64)
        fresh = type(table._group)(table._group.configs)
        fresh.seeds = table._group.seeds
        offsets = fresh._offsets(table._number, NUM_IDS)
        weights[name + ".weight"] = fresh.gather(fresh.assign(ids, offsets, count, 1))
    plain: nn.Module
    if pooling is None:
        # TorchRec's sequence collections have tables of one width: one collection for each.
        plain = nn.ModuleDict(
            {
                name: EmbeddingCollection(
                    tables=[
                        EmbeddingConfig(
                            name=name, embedding_dim=d, num_embeddings=NUM_IDS, feature_names=f
                        )
                    ]
                )
                for name, (d, f) in TABLES.items()
            }
        )
        weights = {f"{k.split('.')[1]}.{k}": w for k, w in weights.items()}
    else:
        plain = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=n,
                    embedding_dim=d,
                    num_embeddings=NUM_IDS,
                    feature_names=f,
                    pooling=pooling,
                )
                for n, (d, f) in TABLES.items()
            ]
        )
    plain.load_state_dict(weights)
    return plain


def batch(step: int, rows: int = B, weighted: bool = False) -> KeyedJaggedTensor:
    random = torch.Generator().manual_seed(step)
    lengths = torch.randint(4, (len(KEYS) * rows,), generator=random)
    num = int(lengths.sum())
    return KeyedJaggedTensor(
        keys=KEYS,
        values=torch.randint(NUM_IDS, (num,), generator=random),
        lengths=lengths,
        weights=torch.rand(num, generator=random) if weighted else None,
    )


def sequences(module: nn.Module, kjt: KeyedJaggedTensor) -> list[Tensor]:
    """user, cand, hist of both tables."""
    if isinstance(module, nn.ModuleDict):
        found = {n: m(kjt) for n, m in module.items()}
        item, shared = found["item"], found["shared"]
        parts = [found["user"]["user"], item["cand"], item["hist"], shared["hist"]]
    else:
        found = module(kjt)
        assert list(found) == ["hist@item", "cand", "user", "hist@shared"]
        parts = [found[n] for n in ("user", "cand", "hist@item", "hist@shared")]
    lengths = kjt.to_dict()
    for name, part in zip(("user", "cand", "hist", "hist"), parts, strict=True):
        assert part.lengths().tolist() == lengths[name].lengths().tolist()
    return [part.values() for part in parts]


def pooled(module: nn.Module, kjt: KeyedJaggedTensor) -> list[Tensor]:
    found = module(kjt)
    assert found.keys() == ["hist@item", "cand", "user", "hist@shared"]
    assert found.length_per_key() == [8, 8, 4, 8]
    return [found.values()]


CASES: list[tuple[PoolingType | None, Callable[..., list[Tensor]]]] = [
    (None, sequences),
    (PoolingType.SUM, pooled),
    (PoolingType.MEAN, pooled),
]


@pytest.mark.parametrize(("pooling", "outputs"), CASES, ids=["rows", "sums", "means"])
@pytest.mark.parametrize(("optimizer", "settings"), OPTIMIZERS, ids=["sgd", "adagrad", "rowwise"])
def test_trained_as_torchrecs(
    pooling: PoolingType | None,
    outputs: Callable[..., list[Tensor]],
    optimizer: Any,
    settings: dict[str, float],
) -> None:
    dynamic = collection(pooling)
    plain = static(dynamic, pooling)
    for module in (dynamic, plain):
        apply_optimizer_in_backward(optimizer, module.parameters(), settings)
    for step in range(4):
        kjt = batch(step)
        mine, theirs = outputs(dynamic, kjt), outputs(plain, kjt)
        torch.testing.assert_close(mine, theirs)
        for parts in (mine, theirs):
            sum((part**3 + part).sum() for part in parts).backward()  # type: ignore[union-attr]


def test_weights_count() -> None:
    dynamic = DynamicEmbeddingBagCollection(
        [DynamicEmbeddingBagConfig(name="item", embedding_dim=8, feature_names=["hist", "cand"])],
        is_weighted=True,
    )
    kjt = batch(0, weighted=True)
    ones = KeyedJaggedTensor(KEYS, kjt.values(), torch.ones_like(kjt.weights()), kjt.lengths())
    rows = DynamicEmbeddingCollection(
        [DynamicEmbeddingConfig(name="item", embedding_dim=8, feature_names=["hist", "cand"])]
    )
    rows.load_state_dict(
        {
            name.replace("embedding_bags", "embeddings"): value
            for name, value in (dynamic(kjt) and dynamic.state_dict()).items()
        }
    )
    single = rows.eval()(kjt)
    for given in (kjt, ones):
        found = dynamic.eval()(given)
        for name in ("hist", "cand"):
            jt = given[name]
            bags = [
                (row * w.unsqueeze(1)).sum(0)
                for row, w in zip(
                    single[name].values().split(jt.lengths().tolist()),
                    jt.weights().split(jt.lengths().tolist()),
                    strict=True,
                )
            ]
            torch.testing.assert_close(found[name], torch.stack(bags))


@pytest.mark.parametrize(("pooling", "outputs"), CASES, ids=["rows", "sums", "means"])
def test_evaluation_changes_nothing(
    pooling: PoolingType | None, outputs: Callable[..., list[Tensor]]
) -> None:
    dynamic = collection(pooling)
    outputs(dynamic, batch(0))
    before = dynamic.state_dict()
    dynamic.eval()
    unknown = batch(1)
    unknown = KeyedJaggedTensor(KEYS, unknown.values() + 1000, lengths=unknown.lengths())
    assert all((part == 0).all() for part in outputs(dynamic, unknown))
    assert all(torch.equal(v, before[k]) for k, v in dynamic.state_dict().items())


@pytest.mark.parametrize(("pooling", "outputs"), CASES, ids=["rows", "sums", "means"])
def test_a_frozen_table_is_read_as_in_evaluation(
    pooling: PoolingType | None, outputs: Callable[..., list[Tensor]]
) -> None:
    """It and `shared` are one physical table; of which it must not lose, and not get, rows."""
    dynamic = collection(pooling, max_rows=8, eviction="age", max_age=1)
    apply_optimizer_in_backward(RowWiseAdagrad, dynamic.parameters(), {"lr": 0.1})
    tables = {name.split(".")[-1]: table for name, table in dynamic_tables(dynamic).items()}

    def train(steps: range) -> None:
        for step in steps:
            kjt = batch(step, rows=2)
            ids = kjt.values() + 100 * step
            kjt = KeyedJaggedTensor(KEYS, ids, lengths=kjt.lengths())
            sum(part.square().sum() for part in outputs(dynamic, kjt)).backward()  # type: ignore[union-attr]

    train(range(2))
    before = {name: copy.deepcopy(table.rows()) for name, table in tables.items()}
    tables["item"].weight.requires_grad_(False)
    train(range(2, 5))
    for name, table in tables.items():
        kept = vars(before[name]), vars(table.rows())
        same = all(torch.equal(kept[0][field], kept[1][field]) for field in kept[0])
        assert same == (name == "item")
    assert int(tables["item"].step) == 2
    assert int(tables["shared"].step) == 5
    tables["item"].weight.requires_grad_(True)
    known = set(before["item"].ids.tolist())
    train(range(5, 6))
    after = tables["item"].rows()
    assert int(after.seen[:, 1].max()) == int(tables["item"].step) == 3
    assert known & set(after.ids.tolist())  # of an age that counts its own batches alone


@pytest.mark.parametrize("pooling", [None, PoolingType.SUM])
def test_state_dict_round_trip(pooling: PoolingType | None) -> None:
    first, second = collection(pooling, admit_after=2), collection(pooling, admit_after=2)
    for module in (first, second):
        apply_optimizer_in_backward(RowWiseAdagrad, module.parameters(), {"lr": 0.1})
    outputs = sequences if pooling is None else pooled
    for step in range(3):
        sum(part.sum() for part in outputs(first, batch(step))).backward()  # type: ignore[union-attr]
    outputs(second, batch(7))  # of another past
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        for module in (first, second):
            sum(part.sum() for part in outputs(module, batch(step))).backward()  # type: ignore[union-attr]
    expected, found = first.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    for prefix in dynamic_tables(first):
        for ids, others in (
            ("ids", ("weight", "seen", "optimizer")),
            ("waiting_ids", ("waiting_seen",)),
        ):
            orders = [state[f"{prefix}.{ids}"].argsort() for state in (expected, found)]
            for name in (ids, *others):
                a, b = (
                    state[f"{prefix}.{name}"][order]
                    for state, order in zip((expected, found), orders, strict=True)
                )
                assert torch.equal(a, b), f"{prefix}.{name}"


def test_a_batch_between_forward_and_backward_may_evict() -> None:
    """Gradients of an evicted id are dropped, never given to the id that took its place."""
    dynamic = DynamicEmbeddingCollection(
        [DynamicEmbeddingConfig(name="a", embedding_dim=4, feature_names=["a"], max_rows=2)]
    )
    apply_optimizer_in_backward(torch.optim.SGD, dynamic.parameters(), {"lr": 1.0})

    def read(*ids: int) -> Tensor:
        kjt = KeyedJaggedTensor(["a"], torch.tensor(ids), lengths=torch.tensor([len(ids)]))
        return dynamic(kjt)["a"].values()

    early = read(1, 2)
    late = read(3)
    fresh = late.detach().clone()
    early.sum().backward()
    table: DynamicTable = dynamic.tables()[0]
    rows = table.rows()
    weight = {int(i): w for i, w in zip(rows.ids, rows.weight, strict=True)}
    torch.testing.assert_close(weight[3], fresh[0])
    (kept,) = weight.keys() - {3}
    torch.testing.assert_close(weight[kept], early.detach()[kept - 1] - 1)


def test_empty_batches() -> None:
    dynamic = collection()
    apply_optimizer_in_backward(torch.optim.SGD, dynamic.parameters(), {"lr": 1.0})
    for rows in (0, 3):
        none = torch.empty(0, dtype=torch.int64)
        kjt = KeyedJaggedTensor(
            KEYS, none, lengths=torch.zeros(len(KEYS) * rows).long(), stride=rows
        )
        found = dynamic(kjt)
        assert [found[n].values().shape for n in found] == [(0, 8), (0, 8), (0, 4), (0, 8)]
        sum(jt.values().sum() for jt in found.values()).backward()
        bags = collection(PoolingType.MEAN)(kjt)
        assert bags.values().shape == (rows, 28)
        assert (bags.values() == 0).all()


def test_bad_input_is_refused() -> None:
    dynamic = collection()
    with pytest.raises(ValueError, match=r"lacks features \['cand', 'hist'\].*\['user'\]"):
        dynamic(KeyedJaggedTensor(["user"], torch.tensor([1]), lengths=torch.tensor([1])))
    floats = KeyedJaggedTensor(KEYS, torch.rand(4), lengths=torch.ones(4).long())
    with pytest.raises(ValueError, match=r"integers, got values of torch\.float32"):
        dynamic(floats)
    item = DynamicEmbeddingConfig(name="item", embedding_dim=4, feature_names=["a"])
    with pytest.raises(ValueError, match="its own name"):
        DynamicEmbeddingCollection([item, item])
    with pytest.raises(ValueError, match="at least one table"):
        DynamicEmbeddingCollection([])
    mean = DynamicEmbeddingBagConfig(
        name="m", embedding_dim=4, feature_names=["a"], pooling=PoolingType.MEAN
    )
    with pytest.raises(ValueError, match=r"\['m'\] pool means"):
        DynamicEmbeddingBagCollection([mean], is_weighted=True)
    adam = DynamicEmbeddingCollection([item])
    apply_optimizer_in_backward(torch.optim.Adam, adam.parameters(), {"lr": 1.0})
    with pytest.raises(ValueError, match="cannot be trained by Adam: expected one of"):
        adam(KeyedJaggedTensor(["a"], torch.tensor([1]), lengths=torch.tensor([1])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1"),
        ({"feature_names": []}, "feature_names is empty"),
        ({"eviction": "fifo"}, "unknown eviction 'fifo'"),
        ({"eviction": "age"}, "max_age belongs to eviction='age'"),
        ({"max_age": 3}, "max_age belongs to eviction='age'"),
        ({"init_std": float("nan")}, "init_std must not be negative"),
    ],
)
def test_bad_configurations_are_refused(options: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"name": "a", "embedding_dim": 4, "feature_names": ["a"]}
    with pytest.raises(ValueError, match=message):
        DynamicEmbeddingConfig(**good | options)


def test_seeds_follow_torchs() -> None:
    def rows() -> Tensor:
        torch.manual_seed(11)
        return sequences(collection(), batch(0))[0]

    assert torch.equal(rows(), rows())
    torch.manual_seed(12)
    assert not torch.equal(sequences(collection(), batch(0))[0], rows())


def test_reports_say_what_there_is() -> None:
    dynamic = DynamicEmbeddingCollection(
        [
            DynamicEmbeddingConfig(
                name="a", embedding_dim=64, feature_names=["a"], max_rows=4, admit_after=2
            )
        ]
    )
    apply_optimizer_in_backward(RowWiseAdagrad, dynamic.parameters(), {"lr": 0.1})
    for ids in ([1, 1, 2, 2, 3], [4, 4, 5, 5, 6, 6], [3]):
        kjt = KeyedJaggedTensor(["a"], torch.tensor(ids), lengths=torch.tensor([len(ids)]))
        dynamic(kjt)
    reports = table_reports(dynamic)
    (report,) = reports["embeddings.a"]
    assert (report.rows, report.waiting, report.admitted, report.evicted) == (4, 0, 6, 2)
    chunks = 4 * (64 * 4 + 4 + 16) + 4 * 16  # rows with their state, id, count, step; waiting ids
    assert chunks <= report.bytes <= chunks + 4 * 1024 * 8  # and the maps
    assert total([report, report]).rows == 8
    assert "embeddings.a" in describe(reports)
