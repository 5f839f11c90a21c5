"""What each stage of deduplication saves: bytes exchanged and time of a training step.

Two processes of one thread, joined by gloo, share dynamic tables under DistributedModelParallel. A
process makes the ids of its batch unique before it asks for their rows ("requests"), and those that
all ask it for before it looks them up ("owned"). Bytes are ids with their counts, rows and
gradients that a process sends to the other, in one step, of both together; a step's time is that of
the slower process.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ModuleSharder, ShardingPlan
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.embeddings.tables import LookUp, Reader, kjt_like, looked_up
from benchmarks.embeddings.traffic import DRAWN, raw_ids
from benchmarks.embeddings.training_step import Case, draw_batch, train
from benchmarks.measure import Row, Table, compared, largest_difference
from torchrec_gr.embeddings.dynamic_sharding import (
    DynamicEmbeddingBagSharder,
    DynamicEmbeddingSharder,
    ShardedDynamicCollection,
)

NUM_PROCESSES = 2
LARGEST_DIFFERENCE = 1e-4
"""No time is printed where what is looked up differs by more, relatively."""


class Stages(NamedTuple):
    """Which stages are on."""

    requests: bool
    owned: bool


ALL_STAGES = [Stages(*on) for on in itertools.product((False, True), repeat=2)]


class Plan(NamedTuple):
    """What is measured.

    Args:
        cases: tables, and the batch of each process.
        num_batches: steps in a round.
        num_rounds: the best counts.
    """

    cases: Sequence[Case]
    num_batches: int
    num_rounds: int


FULL = Plan(
    (
        Case("sequences", (50, 50, 50), 1 << 19, 64, 512),
        Case("bags", (1, 1, 1, 1, 20, 20), 1 << 19, 64, 2048),
    ),
    num_batches=4,
    num_rounds=5,
)
QUICK = Plan((Case("sequences", (10, 10), 1 << 14, 16, 128),), num_batches=2, num_rounds=2)


class Cost(NamedTuple):
    """Of a step."""

    milliseconds: float
    num_bytes: int


def measure(plan: Plan) -> list[Row]:
    """Prints the table; no time before the stages are found to change no result."""
    print(f"\ndeduplication, {NUM_PROCESSES} processes, a training step. {DRAWN}")
    columns = {"look-up": 9, "requests": 8, "owned": 5, "MB": 8, "saves": 6}
    table = Table(columns | {"ms": 8, "faster": 6, "difference": 10})
    context = multiprocessing.get_context("spawn")
    rows = []
    for case in plan.cases:
        with (
            tempfile.TemporaryDirectory() as folder,
            ProcessPoolExecutor(NUM_PROCESSES, context) as processes,
        ):
            runs = [
                processes.submit(run, rank, Path(folder) / "store", case, plan)
                for rank in range(NUM_PROCESSES)
            ]
            (costs, difference), _ = (each.result() for each in runs)
        rows += _report(case, costs, difference, table)
    return rows


def _report(case: Case, costs: Mapping[Stages, Cost], difference: float, table: Table) -> list[Row]:
    rows = []
    off = costs[Stages(requests=False, owned=False)]
    for stages, cost in costs.items():
        where = case._asdict() | stages._asdict() | {"processes": NUM_PROCESSES}
        saved = compared("dedup_bytes", where, cost.num_bytes, off.num_bytes, difference)
        faster = compared("dedup_step", where, cost.milliseconds, off.milliseconds, difference)
        table.row(
            case.look_up,
            *("on" if on else "off" for on in stages),
            f"{cost.num_bytes / 1e6:.2f}",
            f"{saved['ratio']:.1f}x",
            f"{cost.milliseconds:.1f}",
            f"{faster['ratio']:.2f}x",
            f"{difference:.1e}",
        )
        rows += [saved, faster]
    both_on = [row for row in rows if row["case"]["requests"] and row["case"]["owned"]]
    return both_on + [row for row in rows if row not in both_on]


def run(rank: int, store: Path, case: Case, plan: Plan) -> tuple[dict[Stages, Cost], float]:
    """One process's part: the costs of all stages on and off, and by how much results differ."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(store), NUM_PROCESSES), rank=rank, world_size=NUM_PROCESSES
    )
    try:
        seeds = range(rank * plan.num_batches, (rank + 1) * plan.num_batches)
        numbers = [draw_batch(case, seed) for seed in seeds]
        batches = [kjt_like(kjt, raw_ids(kjt.values())) for kjt in numbers]
        models = {stages: sharded_reader(case, stages) for stages in ALL_STAGES}
        for model in models.values():
            train(model, batches)
        difference = require_alike(models, batches[0])
        return _time(models, batches, plan.num_rounds), difference
    finally:
        dist.destroy_process_group()


def sharded_reader(case: Case, stages: Stages) -> DistributedModelParallel:
    """Dynamic tables without rows, over all processes."""
    torch.manual_seed(0)
    reader = Reader(case.tables.dynamic())
    apply_optimizer_in_backward(RowWiseAdagrad, reader.parameters(), {"lr": 0.05})
    sharder = _sharder(case.look_up, stages)
    plan = construct_module_sharding_plan(
        reader.collection,
        {name: row_wise() for name in case.tables.names},
        sharder=sharder,
        local_size=NUM_PROCESSES,
        device_type="cpu",
    )
    return DistributedModelParallel(
        reader,
        device=torch.device("cpu"),
        plan=ShardingPlan({"collection": plan}),
        sharders=[sharder],
    )


def require_alike(
    models: Mapping[Stages, DistributedModelParallel], kjt: KeyedJaggedTensor
) -> float:
    """The largest difference of what models that were trained alike look up.

    Without the owner's stage each process's gradient of a row is a step of its own, so that models
    with and without it differ: each is held against the other one of its kind.

    Raises:
        RuntimeError: it is too large.
    """
    found: dict[Stages, list[Tensor]] = {key: looked_up(m, kjt) for key, m in models.items()}
    difference = max(
        largest_difference(found[Stages(True, owned)], found[Stages(False, owned)])
        for owned in (False, True)
    )
    if not difference <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"rows differ by {difference:.1e} with and without deduplication")
    return difference


def _time(
    models: Mapping[Stages, DistributedModelParallel],
    batches: Sequence[KeyedJaggedTensor],
    num_rounds: int,
) -> dict[Stages, Cost]:
    """Models take turns; the order is reversed from one round to the next."""
    best = torch.full((len(models),), math.inf, dtype=torch.float64)
    sent = torch.zeros(len(models), dtype=torch.int64)
    order = list(enumerate(models.values()))
    for _ in range(num_rounds):
        for place, model in order:
            before = _exchanged_bytes(model)
            dist.barrier()
            began = perf_counter()
            train(model, batches)
            seconds = torch.tensor(perf_counter() - began, dtype=torch.float64)
            dist.all_reduce(seconds, dist.ReduceOp.MAX)
            best[place] = torch.minimum(best[place], seconds)
            sent[place] = _exchanged_bytes(model) - before
        order.reverse()
    dist.all_reduce(sent)
    milliseconds = (1000 * best / len(batches)).tolist()
    num_bytes = (sent // len(batches)).tolist()
    costs = map(Cost, milliseconds, num_bytes)
    return dict(zip(models, costs, strict=True))


def _exchanged_bytes(model: nn.Module) -> int:
    collections = [m for m in model.modules() if isinstance(m, ShardedDynamicCollection)]
    return sum(collection.num_exchanged_bytes for collection in collections)


def _sharder(look_up: LookUp, stages: Stages) -> ModuleSharder[nn.Module]:
    deduplicate = {"deduplicate_requests": stages.requests, "deduplicate_owned": stages.owned}
    if look_up == "bags":
        return DynamicEmbeddingBagSharder(**deduplicate)
    return DynamicEmbeddingSharder(**deduplicate)
