"""One large static table, trained by several processes: where its rows are, speed and memory.

The table is built on the meta device, so no process ever holds it whole. Ids are drawn over its
whole range, the optimizer is row-wise Adagrad, a step is forward, a loss of all that was looked up,
backward and update. Sequences are sharded row-wise; bags stay whole where they fit, and row-wise
where each process is said to have room for two thirds of the table.

    python -m benchmarks.static_tables --rows 50000000 --dim 16 --processes 2
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.measure import Row, Table, figure, machine, parse, print_machine, write_json
from torchrec_gr.training.optimizer import DenseOptimizer, Schedule, TableOptimizer, build_optimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard

OPTIMIZER = TableOptimizer("rowwise_adagrad", lr=0.1)
_NUM_BATCHES = 2
_VALUES_A_ROW = 10
_META = torch.device("meta")


class Case(NamedTuple):
    """A table, and how it is read.

    Args:
        look_up: "sequences" of rows, or "bags" that are summed.
        num_rows, width: of the table.
        num_processes: that train it.
        batch_size: rows of a process's batch, each of ten ids.
        num_steps: to train.
        max_table_bytes: as `shard` takes it.
    """

    look_up: Literal["sequences", "bags"]
    num_rows: int
    width: int
    num_processes: int
    batch_size: int
    num_steps: int
    max_table_bytes: int | None = None


class Trained(NamedTuple):
    """What a process reports.

    Args:
        sharding: of the table.
        rows: first row and end of what this process holds.
        table_bytes: its rows and their optimizer state.
        memory_before, peak_memory: of the process, in bytes: before sharding, and at most.
        shard_seconds, step_seconds: of sharding, and of a step.
        losses: of every step; the same few batches take turns.
    """

    sharding: str
    rows: tuple[int, int]
    table_bytes: int
    memory_before: int
    peak_memory: int
    shard_seconds: float
    step_seconds: float
    losses: list[float]


class Reader(nn.Module):
    """A case's table, and a score of what is looked up in it, all on the meta device."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        config = EmbeddingBagConfig if case.look_up == "bags" else EmbeddingConfig
        collection = EmbeddingBagCollection if case.look_up == "bags" else EmbeddingCollection
        self.bags = case.look_up == "bags"
        self.tables = collection(
            tables=[config(name="item", num_embeddings=case.num_rows, embedding_dim=case.width)],
            device=_META,
        )
        self.head = nn.Linear(case.width, 1, device=_META)

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        """The mean square by which each looked up vector's score misses 1."""
        looked_up = self.tables(ids)
        vectors = looked_up.values() if self.bags else looked_up["item"].values()
        return (self.head(vectors) - 1).square().mean()


def train(case: Case) -> list[Trained]:
    """Trains a case in processes of its own, and gives what each of them reports."""
    with tempfile.TemporaryDirectory() as folder:
        args = (case, torch.get_num_threads(), Path(folder))
        multiprocessing.spawn(_train_in_process, args=args, nprocs=case.num_processes)
        reports = (Path(folder) / str(rank) for rank in range(case.num_processes))
        return [torch.load(report, weights_only=False) for report in reports]


def _train_in_process(rank: int, case: Case, num_threads: int, folder: Path) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(max(1, num_threads // case.num_processes))
    os.environ["LOCAL_WORLD_SIZE"] = str(case.num_processes)
    store = dist.FileStore(str(folder / "store"), case.num_processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=case.num_processes)
    with process_group("cpu") as device:
        torch.save(_train(case, device), folder / str(rank))
    dist.barrier()
    dist.destroy_process_group()


def _train(case: Case, device: torch.device) -> Trained:
    torch.manual_seed(0)
    memory_before = _status("VmRSS")
    began = perf_counter()
    model = shard(
        Reader(case),
        device=device,
        table_optimizer=OPTIMIZER,
        max_table_bytes=case.max_table_bytes,
    )
    sharded = perf_counter()
    optimizer = build_optimizer(model, OPTIMIZER, DenseOptimizer(), Schedule())
    batches = [_draw_batch(case, seed) for seed in range(_NUM_BATCHES)]
    losses = []
    started = perf_counter()
    for step in range(case.num_steps):
        optimizer.zero_grad()
        loss = model(batches[step % _NUM_BATCHES])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    step_seconds = (perf_counter() - started) / case.num_steps
    return Trained(
        *_placed(model),
        memory_before=memory_before,
        peak_memory=_status("VmHWM"),
        shard_seconds=sharded - began,
        step_seconds=step_seconds,
        losses=losses,
    )


def _draw_batch(case: Case, seed: int) -> KeyedJaggedTensor:
    random = torch.Generator().manual_seed(dist.get_rank() + seed * dist.get_world_size())
    num_values = _VALUES_A_ROW * case.batch_size
    return KeyedJaggedTensor(
        keys=["item"],
        values=torch.randint(case.num_rows, (num_values,), generator=random),
        lengths=torch.full((case.batch_size,), _VALUES_A_ROW),
    )


def _placed(model: DistributedModelParallel) -> tuple[str, tuple[int, int], int]:
    """How the table is sharded, this process's rows of it, and the bytes that they take."""
    (tables,) = model.plan.plan.values()
    (weight,) = (value for name, value in model.state_dict().items() if "item" in name)
    shards = weight.local_shards()
    (first, num_rows) = (
        (shards[0].metadata.shard_offsets[0], shards[0].metadata.shard_sizes[0])
        if shards
        else (0, 0)
    )
    states = model.fused_optimizer.state_dict()["state"].values()
    kept = [part for state in states for value in state.values() for part in value.local_shards()]
    taken = sum(part.tensor.nbytes for part in [*shards, *kept])
    return tables["item"].sharding_type, (first, first + num_rows), taken


def _status(name: str) -> int:
    """Bytes that this process takes ("VmRSS"), or took at most ("VmHWM")."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def cases(num_rows: int, width: int, num_processes: int, quick: bool) -> list[Case]:
    """The table as sequences, as bags, and as bags where it does not fit whole."""
    sizes = (num_rows, width, num_processes, 256 if quick else 4096, 4 if quick else 20)
    two_thirds = num_rows * (width + 1) * torch.float32.itemsize * 2 // 3
    return [
        Case("sequences", *sizes),
        Case("bags", *sizes),
        Case("bags", *sizes, max_table_bytes=two_thirds),
    ]


def measure(cases: Sequence[Case]) -> list[Row]:
    """Prints the table, a row for each case."""
    print("\npeak memory: of the whole process, its libraries among it")
    table = Table(
        {
            "look-up": 9,
            "rows": 11,
            "width": 5,
            "sharding": 10,
            "rows of each process": 25,
            "to shard, s": 11,
            "steps/s": 8,
            "ids/s": 9,
            "tables, GB": 11,
            "peak memory, GB": 15,
        }
    )
    return [row for case in cases for row in _measure_case(case, table)]


def _measure_case(case: Case, table: Table) -> list[Row]:
    reports = train(case)
    steps = 1 / max(report.step_seconds for report in reports)
    ids = steps * case.num_processes * case.batch_size * _VALUES_A_ROW
    table.row(
        case.look_up,
        f"{case.num_rows:,}",
        f"{case.width}",
        reports[0].sharding,
        ", ".join(f"{end - first:,}" for first, end in (report.rows for report in reports)),
        f"{max(report.shard_seconds for report in reports):.1f}",
        f"{steps:.1f}",
        f"{ids:,.0f}",
        " + ".join(f"{report.table_bytes / 1e9:.2f}" for report in reports),
        " + ".join(f"{report.peak_memory / 1e9:.2f}" for report in reports),
    )
    described = case._asdict() | {"sharding": reports[0].sharding}
    peaks = [report.peak_memory for report in reports]
    return [
        figure("static_tables_ids_per_second", described, ids),
        figure("static_tables_peak_memory", described, sum(peaks)) | {"of_each_process": peaks},
    ]


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, help="of the table; default: 50 million")
    parser.add_argument("--dim", type=int, default=16, help="its width; default: 16")
    parser.add_argument("--processes", type=int, default=2, help="default: 2")


def main() -> None:
    """Measures, and writes the figures if asked to."""
    options = parse("benchmarks.static_tables", __doc__, _add_arguments)
    described = machine([], 0)
    print_machine(described)
    num_rows = options.rows or (200_000 if options.quick else 50_000_000)
    rows = measure(cases(num_rows, options.dim, options.processes, options.quick))
    if options.json is not None:
        write_json(options.json, described, rows)


if __name__ == "__main__":
    main()
