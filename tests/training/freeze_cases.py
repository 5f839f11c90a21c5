"""Training with parameters frozen for some of the steps, by one process or two, and in plain torch.

Each case trains 2 steps, freezes, trains 3, thaws, and trains 2 more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    data_parallel,
    grid_shard,
    table_row_wise,
    table_wise,
)
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.training.toy import whole
from torchrec_gr.training.freeze import freeze, frozen_names, thaw
from torchrec_gr.training.optimizer import (
    DenseOptimizer,
    Schedule,
    ScheduledOptimizer,
    TableOptimizer,
    build_optimizer,
)
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharders import sharders
from torchrec_gr.training.sharding import shard
from torchrec_gr.training.tables import table_weights

TABLES = {"a": 11, "b": 5, "c": 7, "d": 3}
FEATURES = {"a1": "a", "a2": "a", "b": "b", "c": "c", "d": "d"}
DIM, ROWS = 8, 4
FREE, FROZEN, LAST = range(2), range(2, 5), range(5, 7)
LR, DENSE_LR = 0.1, 0.02


class Case(NamedTuple):
    """What is frozen in the middle steps, and how it is sharded and trained."""

    collection: str
    sharding: str
    optimizer: str
    frozen: tuple[str, ...]
    pipelined: bool = False

    @property
    def name(self) -> str:
        """For the results."""
        frozen, pipelined = "+".join(self.frozen), "-pipelined" * self.pipelined
        return f"{self.collection}-{self.sharding}-{self.optimizer}-{frozen}{pipelined}"


class Ranker(nn.Module):
    """Pools each feature's rows, and scores the rows of a batch."""

    def __init__(self, collection: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        keys = {t: [f for f, of in FEATURES.items() if of == t] for t in TABLES}
        common: list[dict[str, Any]] = [
            {"name": t, "num_embeddings": n, "embedding_dim": DIM, "feature_names": keys[t]}
            for t, n in TABLES.items()
        ]
        if collection == "bags":
            self.tables: nn.Module = EmbeddingBagCollection(
                [EmbeddingBagConfig(**table) for table in common]
            )
        else:
            self.tables = EmbeddingCollection([EmbeddingConfig(**table) for table in common])
        self.body = _Body(collection)

    def forward(self, kjt: KeyedJaggedTensor) -> tuple[Tensor, Tensor]:
        """The loss, and the scores [ROWS, 1]."""
        return self.body(self.tables(kjt))


class _Body(nn.Module):
    def __init__(self, collection: str) -> None:
        super().__init__()
        self.is_pooled = collection == "bags"
        self.hidden = nn.Linear(len(FEATURES) * DIM, 6)
        self.head = nn.Linear(6, 1)

    def forward(self, found: Any) -> tuple[Tensor, Tensor]:
        pooled = [found[key] if self.is_pooled else _sums(found[key]) for key in FEATURES]
        scores = self.head(self.hidden(torch.cat(pooled, dim=1)).tanh())
        return (scores - 1).square().mean(), scores


def _sums(rows: Any) -> Tensor:
    row = torch.arange(ROWS).repeat_interleave(rows.lengths().long())
    return rows.values().new_zeros(ROWS, DIM).index_add(0, row, rows.values())


def batch(step: int, rank: int) -> KeyedJaggedTensor:
    """Repeated ids, empty rows; in one step none on a process, in others none of a feature."""
    random = torch.Generator().manual_seed(100 * step + rank)
    lengths = torch.randint(4, (len(FEATURES), ROWS), generator=random)
    if step == 3:
        lengths[2 * rank : 2 * rank + 2] = 0
    if step == 4 and rank == 1:
        lengths[:] = 0
    values = [
        torch.randint(TABLES[table], (int(num),), generator=random)
        for table, num in zip(FEATURES.values(), lengths.sum(1), strict=True)
    ]
    return KeyedJaggedTensor(list(FEATURES), torch.cat(values), lengths=lengths.flatten().int())


def train_plainly(case: Case, num_processes: int) -> dict[str, Tensor]:
    """The weights of plain torch after all steps, each on the batches of all processes."""
    model = Ranker(case.collection)
    tables = list(table_weights(model).values())
    dense = list(model.body.parameters())
    settings = {"betas": (0.9, 0.98)}
    optimizers = [torch.optim.AdamW(dense, lr=DENSE_LR, weight_decay=0.1, **settings)]
    if case.optimizer == "adamw":
        optimizers.append(torch.optim.AdamW(tables, lr=LR, weight_decay=0.01, **settings))
    else:
        optimizers.append(torch.optim.Adagrad(tables, lr=LR, eps=1e-8))
    for step in [*FREE, *FROZEN, *LAST]:
        model.zero_grad()
        for rank in range(num_processes):
            (model(batch(step, rank))[0] / num_processes).backward()
        for name, weight in model.named_parameters():
            if step in FROZEN and _is_frozen(name, case.frozen):
                weight.grad = None
        for optimizer in optimizers:
            optimizer.step()
    return {name: weight.detach() for name, weight in model.state_dict().items()}


def _is_frozen(name: str, frozen: tuple[str, ...]) -> bool:
    return any(part in frozen for part in name.split("."))


def train(case: Case) -> dict[str, Any]:
    """The whole weights after all steps, and whether what was frozen stood still."""
    model, optimizer = sharded(case)
    patterns = [name if name in TABLES else f"body.{name}.*" for name in case.frozen]
    _steps(model, optimizer, FREE, case.pipelined)
    freeze(model, patterns)
    names = frozen_names(model)
    before = local_values(model, optimizer)
    _steps(model, optimizer, FROZEN, case.pipelined)
    after = local_values(model, optimizer)
    kept = {key: torch.equal(before[key], after[key]) for key in before}
    assert frozen_names(model.train()) == names
    thaw(model, patterns)
    assert not frozen_names(model)
    _steps(model, optimizer, LAST, case.pipelined)
    return {"kept": kept, "frozen": names, "weights": whole_weights(model)}


def train_beside_frozen(case: Case, *, by_rate: bool) -> dict[str, Tensor]:
    """What this process holds after 4 steps of which all have the case's parameters frozen.

    Args:
        case: freezes tables alone.
        by_rate: frozen before sharding by a fused SGD of learning rate 0, as TorchRec can.
    """
    model, optimizer = sharded(case, case.frozen if by_rate else ())
    if not by_rate:
        freeze(model, case.frozen)
    _steps(model, optimizer, range(4), case.pipelined)
    return local_values(model, optimizer)


def sharded(case: Case, at_rate_0: tuple[str, ...] = ()) -> tuple[Any, ScheduledOptimizer]:
    """The case's model over all processes, and its optimizer; some tables by an SGD of rate 0."""
    model = Ranker(case.collection)
    for table in at_rate_0:
        weight = table_weights(model)[table]
        apply_optimizer_in_backward(torch.optim.SGD, [weight], {"lr": 0.0})
    decay = 0.01 if case.optimizer == "adamw" else 0.0
    tables = TableOptimizer(case.optimizer, LR, weight_decay=decay)  # type: ignore[arg-type]
    device = torch.device("cpu")
    if case.sharding in ("table_wise", "row_wise", "column_wise"):
        wise: Any = case.sharding
        dmp = shard(model, device=device, table_optimizer=tables, sharding=wise)
    else:
        dmp = _shard_by_hand(model, case)
    dense = DenseOptimizer(DENSE_LR, clip_norm=None)
    return dmp, build_optimizer(dmp, tables, dense, Schedule())


def _shard_by_hand(model: Ranker, case: Case) -> DistributedModelParallel:
    """By the types of sharding that `shard` does not offer."""
    if case.optimizer != "adamw":
        for weight in table_weights(model).values():
            if not hasattr(weight, "_in_backward_optimizers"):
                apply_optimizer_in_backward(torch.optim.Adagrad, [weight], {"lr": LR})
    size = dist.get_world_size()
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    kind: Any = {
        "table_row_wise": table_row_wise(host_index=0),
        "grid_shard": grid_shard(host_indexes=[0]),
        "data_parallel": data_parallel(),
        "on_one_process": table_wise(rank=0),
        "table_column_wise": column_wise(ranks=list(range(size))),
    }[case.sharding]
    plan: EmbeddingModuleShardingPlan = construct_module_sharding_plan(
        model.tables,
        dict.fromkeys(TABLES, kind),
        local_size=size,
        world_size=size,
        device_type="cpu",
    )
    if case.sharding == "table_column_wise":
        for placed in plan.values():
            placed.sharding_type = case.sharding
    dmp = DistributedModelParallel(
        model,
        device=torch.device("cpu"),
        plan=ShardingPlan({"tables": plan}),
        sharders=sharders(),
    )
    dmp.load_state_dict(weights)
    return dmp


def _steps(model: Any, optimizer: ScheduledOptimizer, steps: range, pipelined: bool) -> None:
    batches = iter([batch(step, dist.get_rank()) for step in steps])
    if pipelined:
        pipeline: Any = TrainPipelineSparseDist(model, optimizer, torch.device("cpu"))
        for _ in steps:
            pipeline.progress(batches)
        pipeline.detach()
        return
    for kjt in batches:
        optimizer.zero_grad()
        model(kjt)[0].backward()
        optimizer.step()


def local_values(model: Any, optimizer: ScheduledOptimizer) -> dict[str, Tensor]:
    """Copies of this process's part of every weight and its optimizer's state."""
    values = {name: whole(value).clone() for name, value in model.state_dict().items()}
    for name, weight in optimizer.params.items():
        for key, value in optimizer.state.get(weight, {}).items():
            if isinstance(value, Tensor):
                values[f"{name} {key}"] = whole(value).clone()
    return values


def whole_weights(model: Any) -> dict[str, Tensor]:
    """Of all processes together."""
    weights = {}
    for name, value in model.state_dict().items():
        if not hasattr(value, "local_shards"):
            weights[name] = value.detach().clone()
            continue
        weights[name] = torch.full(value.size(), torch.nan)
        mine = [(s.metadata.shard_offsets, s.tensor.detach()) for s in value.local_shards()]
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, mine)
        for (row, column), part in (placed for of in parts for placed in of):
            weights[name][row : row + part.shape[0], column : column + part.shape[1]] = part
    return weights


_ANYWHERE = ("table_wise", "row_wise", "column_wise")
_BAGS = (*_ANYWHERE, "table_row_wise", "table_column_wise", "grid_shard")
_PART, _ALL = ("a",), tuple(TABLES)
_OF_ONE, _OF_OTHER = ("a", "d"), ("b", "c", "head")
"""Of two processes, table-wise, all that the one holds, and all that the other does."""
CASES = [
    *(Case("bags", kind, "adagrad", frozen) for kind in _BAGS for frozen in (_PART, _ALL)),
    *(Case("sequences", kind, "adagrad", f) for kind in _ANYWHERE for f in (_PART, _ALL)),
    *(Case(c, kind, "adamw", _PART) for c in ("bags", "sequences") for kind in _ANYWHERE),
    *(Case("bags", "data_parallel", "adamw", frozen) for frozen in (_PART, _ALL)),
    *(Case(c, "table_wise", "adagrad", _OF_ONE) for c in ("bags", "sequences")),
    *(Case(c, "table_wise", "adagrad", _OF_OTHER, True) for c in ("bags", "sequences")),
    Case("sequences", "table_wise", "adamw", ("b", "d")),
    Case("bags", "table_wise", "adamw", _ALL),
    *(Case(c, "on_one_process", "adagrad", _ALL) for c in ("bags", "sequences")),
    Case("bags", "row_wise", "adagrad", ("hidden", "head")),
    Case("bags", "table_wise", "adagrad", (*_ALL, "hidden"), True),
]
BESIDE = [
    case for case in CASES if case.sharding != "data_parallel" and set(case.frozen) < set(TABLES)
]


def run_all() -> dict[str, Any]:
    """The results of every case by its name, for this process."""
    results: dict[str, Any] = {case.name: train(case) for case in CASES}
    for case in BESIDE:
        for by_rate in (False, True):
            results[case.name, by_rate] = train_beside_frozen(case, by_rate=by_rate)
    return results


def run_all_in_processes(num_processes: int, work_dir: Path) -> list[dict[str, Any]]:
    """`run_all` of each process of a group of its own."""
    arguments = (num_processes, work_dir)
    multiprocessing.spawn(_run_one, args=arguments, nprocs=num_processes)
    return [
        torch.load(work_dir / f"{rank}.pt", weights_only=False) for rank in range(num_processes)
    ]


def _run_one(rank: int, num_processes: int, work_dir: Path) -> None:
    torch.set_num_threads(1)
    size = str(num_processes)
    os.environ.update(RANK=str(rank), WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
    store = dist.FileStore(str(work_dir / "store"), num_processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=num_processes)
    with process_group("cpu"):
        torch.save(run_all(), work_dir / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
