"""What a frozen table costs in training: time of a step, and memory.

    python -m benchmarks.freeze

Tables of one width are sharded under DistributedModelParallel in one process. Some of them, or all,
are frozen: by `freeze` before sharding or after it, or by a fused SGD of learning rate 0, which is
what TorchRec has; or they are trained as the others are, by row-wise Adagrad. A step is forward, a
loss of all that was looked up, times a dense weight, backward and update.

Steps are timed back to back in one process. Memory is that of a process of its own for each way:
what its first steps take at their peak beyond what the process held before them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.embeddings.tables import Reader, looked_up
from benchmarks.embeddings.traffic import DRAWN
from benchmarks.embeddings.training_step import Case as Reading
from benchmarks.embeddings.training_step import draw_batch
from benchmarks.measure import (
    Row,
    Table,
    best_milliseconds,
    compared,
    figure,
    largest_difference,
    machine,
    parse,
    print_machine,
    write_json,
)
from torchrec_gr.training.freeze import freeze
from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.peak_memory import in_own_process, peak_bytes
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard

Way = Literal["freeze", "freeze, sharded", "SGD of rate 0", "trained"]

OPTIMIZER = TableOptimizer("rowwise_adagrad", lr=0.05)
_NUM_BATCHES = 4


class Case(NamedTuple):
    """Tables, a batch of their ids, and how many of the tables are frozen.

    Args:
        reading: the tables and the batch.
        num_frozen: the first so many tables.
    """

    reading: Reading
    num_frozen: int


class Plan(NamedTuple):
    """What is measured, and for how long each."""

    cases: Sequence[Case]
    seconds: float


_BAGS = Reading("bags", (1,) * 26, 1 << 17, 64, 4096)
_SEQUENCES = Reading("sequences", (50, 50, 50), 1 << 17, 64, 1024)
FULL = Plan(
    (Case(_BAGS, 26), Case(_BAGS, 13), Case(_SEQUENCES, 3), Case(_SEQUENCES, 1)), seconds=6.0
)
QUICK = Plan(
    (
        Case(Reading("bags", (1,) * 8, 1 << 14, 64, 2048), 8),
        Case(Reading("sequences", (20, 20), 1 << 14, 64, 512), 2),
    ),
    seconds=0.5,
)


class Memory(NamedTuple):
    """In bytes.

    Args:
        tables, state: the numbers of the tables, and of their optimizers' state.
        step: what training takes at its peak beyond what the process held before.
    """

    tables: int
    state: int
    step: int


class Scorer(Reader):
    """What is looked up, times a weight that trains."""

    def __init__(self, collection: nn.Module, width: int) -> None:
        super().__init__(collection)
        self.weight = nn.Parameter(torch.linspace(-1, 1, width))

    def forward(self, kjt: KeyedJaggedTensor) -> list[Tensor]:
        """[N] of each key."""
        return [values @ self.weight for values in super().forward(kjt)]


def measure(plan: Plan) -> list[Row]:
    """Prints the table, a row for each way that a case can be frozen."""
    print(f"\na training step with frozen tables. {DRAWN}")
    columns = {"look-up": 9, "tables": 6, "frozen": 6, "rows": 7, "width": 5, "batch": 5}
    columns |= {"by": 15, "ms": 8, "times as fast": 13, "state, MB": 9, "step's peak, MB": 15}
    table = Table(columns)
    return [row for case in plan.cases for row in _measure_case(case, plan.seconds, table)]


def _measure_case(case: Case, seconds: float, table: Table) -> list[Row]:
    memory = {way: memory_of(case, way) for way in get_args(Way)}
    with process_group("cpu"):
        times = _times(case, seconds)
    rows: list[Row] = []
    for way, ms in times.items():
        table.row(
            case.reading.look_up,
            f"{len(case.reading.num_values)}",
            f"{case.num_frozen}",
            f"{case.reading.num_rows}",
            f"{case.reading.width}",
            f"{case.reading.batch_size}",
            way,
            f"{ms:.2f}",
            f"{times['SGD of rate 0'] / ms:.2f}",
            f"{memory[way].state / 1e6:.1f}",
            f"{memory[way].step / 1e6:.1f}",
        )
        described = case.reading._asdict() | {"num_frozen": case.num_frozen, "by": way}
        rows.append(figure("frozen_state_bytes", described, memory[way].state))
        rows.append(figure("frozen_step_peak_bytes", described, memory[way].step))
        for other in ("SGD of rate 0", "trained"):
            against = described | {"against": other}
            rows.append(compared("frozen_step", against, ms, times[other], 0.0))
    return rows


def _times(case: Case, seconds: float) -> dict[Way, float]:
    """Milliseconds of a step; none before all ways have learned the same beside frozen tables."""
    models = {way: build(case, way) for way in get_args(Way)}
    batches = [draw_batch(case.reading, seed) for seed in range(_NUM_BATCHES)]
    steps = {way: partial(train, model, batches) for way, model in models.items()}
    for step in steps.values():
        step()
    scores = {way: looked_up(model, batches[0]) for way, model in models.items()}
    for way in ("freeze", "freeze, sharded"):
        difference = largest_difference(scores[way], scores["SGD of rate 0"])
        if difference:
            raise RuntimeError(f"{way}: after training, scores differ by {difference:.1e}: {case}")
    times = best_milliseconds(steps, seconds)
    return {way: times[way] / _NUM_BATCHES for way in models}


def build(case: Case, way: Way) -> DistributedModelParallel:
    """The case's tables, sharded, some of them frozen in one of the ways."""
    torch.manual_seed(0)
    model = Scorer(case.reading.tables.stock(case.reading.num_rows), case.reading.width)
    frozen = case.reading.tables.names[: case.num_frozen]
    if way == "freeze":
        freeze(model, frozen)
    elif way == "SGD of rate 0":
        weights = list(model.collection.parameters())[: case.num_frozen]
        apply_optimizer_in_backward(torch.optim.SGD, weights, {"lr": 0.0})
    sharded = shard(
        model, device=torch.device("cpu"), table_optimizer=OPTIMIZER, sharding="table_wise"
    )
    if way == "freeze, sharded":
        freeze(sharded, frozen)
    return sharded


def train(model: DistributedModelParallel, batches: Sequence[KeyedJaggedTensor]) -> None:
    """A step over each batch."""
    model.train()
    for kjt in batches:
        model.module.weight.grad = None
        sum(scores.tanh().mean() for scores in model(kjt)).backward()
        model.fused_optimizer.step()


def memory_of(case: Case, way: Way) -> Memory:
    """Measured in a process of its own."""
    return in_own_process(memory_here, case, way)


def memory_here(case: Case, way: Way) -> Memory:
    """Measured in this process, which should have done nothing else before."""
    with process_group("cpu"):
        model = build(case, way)
        batches = [draw_batch(case.reading, seed) for seed in range(_NUM_BATCHES)]
        looked_up(model, batches[0])
        peak = peak_bytes(partial(train, model, batches))
        states = model.fused_optimizer.state_dict()["state"].values()
        kept = [part for state in states for value in state.values() for part in _parts(value)]
        tables = [part for name, value in model.state_dict().items() for part in _parts(value)]
        return Memory(_bytes(tables), _bytes(kept), peak)


def _parts(value: Tensor) -> list[Tensor]:
    shards = getattr(value, "local_shards", None)
    return [] if shards is None else [shard.tensor for shard in shards()]


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def main() -> None:
    """Measures, and writes the figures if asked to."""
    options = parse("benchmarks.freeze", __doc__)
    described = machine([], 0)
    print_machine(described)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = measure(QUICK if options.quick else FULL)
    if options.json:
        write_json(options.json, described, rows)


if __name__ == "__main__":
    main()
