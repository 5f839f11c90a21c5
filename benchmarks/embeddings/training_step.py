"""A training step over dynamic tables against one over stock TorchRec tables of the same rows.

Both are sharded under DistributedModelParallel with fused row-wise Adagrad, in one process. All ids
are resident; a step is forward, a loss of all that was looked up, backward and update. Dynamic
tables also count each id of the step. Stock tables are sharded table-wise, which is their fastest:
one process has nothing to exchange.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.embeddings.tables import LookUp, Reader, Tables, kjt_like, looked_up
from benchmarks.embeddings.traffic import DRAWN, raw_ids, scatter_rows, zipf_ranks
from benchmarks.measure import Row, Table, best_milliseconds, figure, largest_difference
from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.plan import Sharding
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard

LARGEST_DIFFERENCE = 1e-4
"""No time is printed where what is looked up after training differs by more, relatively."""

OPTIMIZER = TableOptimizer("rowwise_adagrad", lr=0.05)
_NUM_BATCHES = 4
_FILL_ROWS = 1 << 16


class Case(NamedTuple):
    """Tables of one width and a batch of their ids.

    Args:
        look_up: what is done with the ids of a row.
        num_values: of each table, ids a row of the batch.
        num_rows: of each table, a power of two.
        width: of the tables.
        batch_size: rows of the batch.
    """

    look_up: LookUp
    num_values: Sequence[int]
    num_rows: int
    width: int
    batch_size: int

    @property
    def tables(self) -> Tables:
        """What they are made from."""
        return Tables(self.look_up, len(self.num_values), self.width)


class Plan(NamedTuple):
    """What is measured, and for how long each."""

    cases: Sequence[Case]
    seconds: float


FULL = Plan(
    (
        Case("bags", (1, 1, 1, 1, 20, 20), 1 << 19, 64, 4096),
        Case("sequences", (50, 50, 50), 1 << 19, 64, 1024),
        Case("bags", (1,) * 26, 1 << 18, 16, 4096),
        Case("sequences", (50, 50, 50), 1 << 19, 16, 1024),
    ),
    seconds=4.0,
)
QUICK = Plan(
    (
        Case("bags", (1, 1, 5), 1 << 14, 16, 512),
        Case("sequences", (10, 10), 1 << 14, 16, 256),
    ),
    seconds=0.3,
)


def measure(plan: Plan) -> list[Row]:
    """Prints the table; no time before both have learned the same."""
    print(f"\na training step, ms: dynamic tables against stock ones. {DRAWN}")
    columns = {"look-up": 9, "tables x ids": 13, "rows": 7, "width": 5, "batch": 5}
    table = Table(columns | {"dynamic": 8, "stock": 8, "times as long": 13, "difference": 10})
    with process_group("cpu"):
        return [_measure_case(case, plan.seconds, table) for case in plan.cases]


def _measure_case(case: Case, seconds: float, table: Table) -> Row:
    dynamic = dynamic_reader(case)
    stock = stock_reader(case, resident_rows(dynamic, case))
    indices = [draw_batch(case, seed) for seed in range(_NUM_BATCHES)]
    ids = [kjt_like(kjt, raw_ids(kjt.values())) for kjt in indices]
    steps = {
        "dynamic": partial(train, dynamic, ids),
        "stock": partial(train, stock, indices),
    }
    for step in steps.values():
        step()
    difference = largest_difference(looked_up(dynamic, ids[0]), looked_up(stock, indices[0]))
    if not difference <= LARGEST_DIFFERENCE:
        raise RuntimeError(f"after training, rows differ by {difference:.1e}: {case}")
    times = {name: ms / _NUM_BATCHES for name, ms in best_milliseconds(steps, seconds).items()}
    ratio = times["dynamic"] / times["stock"]
    table.row(
        case.look_up,
        _ids_a_row(case),
        f"{case.num_rows}",
        f"{case.width}",
        f"{case.batch_size}",
        f"{times['dynamic']:.2f}",
        f"{times['stock']:.2f}",
        f"{ratio:.2f}",
        f"{difference:.1e}",
    )
    further = {"ours": times["dynamic"], "other": times["stock"], "difference": difference}
    return figure("dynamic_step_vs_static", case._asdict(), ratio) | further


def dynamic_reader(case: Case) -> DistributedModelParallel:
    """Sharded dynamic tables in which all ids have rows, in the order of their numbers."""
    torch.manual_seed(0)
    model = _sharded(case.tables.dynamic(), None)
    for piece in _all_ids(case):
        model(piece)
    return model


def resident_rows(dynamic: DistributedModelParallel, case: Case) -> list[Tensor]:
    """[num_rows, width] of each table, in the order of the ids' numbers."""
    pieces = [looked_up(dynamic, piece) for piece in _all_ids(case)]
    return [torch.cat(rows) for rows in zip(*pieces, strict=True)]


def stock_reader(case: Case, rows: Sequence[Tensor]) -> DistributedModelParallel:
    """Sharded TorchRec tables of given rows."""
    collection = case.tables.stock(case.num_rows)
    with torch.no_grad():
        for weight, values in zip(collection.parameters(), rows, strict=True):
            weight.copy_(values)
    return _sharded(collection, "table_wise")


def train(model: DistributedModelParallel, batches: Sequence[KeyedJaggedTensor]) -> None:
    """A step over each batch; every value that is looked up has a gradient of its own."""
    model.train()
    for kjt in batches:
        model.fused_optimizer.zero_grad()
        values = model(kjt)
        weight = torch.linspace(-1, 1, values[0].shape[1])
        sum((v @ weight).tanh().mean() for v in values).backward()
        model.fused_optimizer.step()


def draw_batch(case: Case, seed: int) -> KeyedJaggedTensor:
    """The numbers of Zipf ids, hot ones anywhere in their table."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(case.num_values).repeat_interleave(case.batch_size)
    ranks = zipf_ranks(int(lengths.sum()), case.num_rows, draw)
    return KeyedJaggedTensor(case.tables.keys, scatter_rows(ranks, case.num_rows), lengths=lengths)


def _all_ids(case: Case) -> Iterator[KeyedJaggedTensor]:
    """Each id of each table once, a row each."""
    keys = case.tables.keys
    for numbers in torch.arange(case.num_rows).split(_FILL_ROWS):
        lengths = torch.ones(len(keys) * len(numbers), dtype=torch.int64)
        yield KeyedJaggedTensor(keys, raw_ids(numbers).repeat(len(keys)), lengths=lengths)


def _ids_a_row(case: Case) -> str:
    """How many tables read how many ids: 4 x 1, 2 x 20."""
    runs = ((len([*tables]), num) for num, tables in itertools.groupby(case.num_values))
    return ", ".join(f"{tables} x {num}" for tables, num in runs)


def _sharded(collection: nn.Module, sharding: Sharding | None) -> DistributedModelParallel:
    return shard(
        Reader(collection),
        device=torch.device("cpu"),
        table_optimizer=OPTIMIZER,
        sharding=sharding,
    )
