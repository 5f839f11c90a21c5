"""A transfer across vocabularies and shardings, against loading a state dict of the same size.

The source is an artefact that as many processes wrote, its table sharded row-wise. The target's
vocabulary is as large, in another order, and four fifths of its ids are the source's. Beside it
what people do today: each process reads the whole state dict (`torch.load`, `load_state_dict`),
or its share of a distributed checkpoint (`torch.distributed.checkpoint.load`); both need the same
rows in the same order, and copy all of them. Every way has processes of its own; what it has
loaded is checked. All files were written just before, so the system has them in memory if it can.

    python -m benchmarks.transfer --rows 20000000 --dim 32 --processes 2
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as multiprocessing
from numpy.typing import NDArray
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from benchmarks.measure import (
    Row,
    Table,
    compared,
    machine,
    parse,
    print_machine,
    write_json,
)
from benchmarks.static_tables import OPTIMIZER, Case, Reader
from torchrec_gr.pretrained import ModelCard, load_pretrained, save_pretrained
from torchrec_gr.schema import Feature, FeatureSchema, Vocabulary
from torchrec_gr.schema import Table as SchemaTable
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import Sharding, shard
from torchrec_gr.training.transfer import transfer
from torchrec_gr.training.transfer_plan import TablePlan, TransferPlan

OURS = "transfer"
WAYS = (OURS, "torch.load", "dcp.load")
SHARDINGS: tuple[Sharding, ...] = ("row_wise", "table_wise")
_KNOWN = 0.8
_ODD = 0x9E3779B97F4A7C15
_PERIOD = 4099
_PIECE = 65_536
_STATUS = Path("/proc/self/status")
_ROUNDS = 2


class Size(NamedTuple):
    """Of the table, and how many processes share it."""

    num_rows: int
    width: int
    num_processes: int


class Loaded(NamedTuple):
    """What a process reports.

    Args:
        seconds: until all processes are done, the best of a few rounds.
        open_seconds: of these, to open the source: `load_pretrained` checks every file.
        memory: the most that the process took beside its model, in bytes.
        held_bytes: of the rows that it holds.
    """

    seconds: float
    open_seconds: float
    memory: int
    held_bytes: int


def raw_ids(numbers: NDArray[np.int64]) -> pa.Array:
    """[n] an id for each number, different from each other and in no order."""
    spread = numbers.astype(np.uint64) * np.uint64(_ODD)
    return pa.array((spread & np.uint64(2**63 - 1)).astype(np.int64))


def target_numbers(num: int) -> NDArray[np.int64]:
    """[num] the numbers of the target's ids; the source's are those below `num`."""
    first = round(num * (1 - _KNOWN))
    return np.random.default_rng(0).permutation(np.arange(first, first + num, dtype=np.int64))


def values(rows: Tensor, width: int) -> Tensor:
    """[n, width] what the source has in some rows."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(_PERIOD, width, generator=random)[rows % _PERIOD]


def measure(size: Size) -> list[Row]:
    """Prints the table, a row for each sharding of the target and each way to load it."""
    print(
        f"\n{size.num_rows:,} rows of width {size.width}, {size.num_processes} processes. Memory: "
        "the most that each process took beside its model"
    )
    table = Table(
        {
            "target": 10,
            "way": 10,
            "seconds": 8,
            "of these to open": 8,
            "memory, GB": 15,
            "rows held, GB": 13,
        }
    )
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _in_processes(_prepare, size, folder, "source")
        for sharding in SHARDINGS:
            found = {way: _measure_one(size, folder, sharding, way, table) for way in WAYS}
            rows += _rows(size, sharding, found)
    return rows


def _measure_one(
    size: Size, folder: Path, sharding: Sharding, way: str, table: Table
) -> list[Loaded]:
    _in_processes(_load, size, folder, sharding, way)
    found = _read(folder, sharding, way, size.num_processes)
    table.row(
        sharding,
        way,
        f"{_seconds(found):.2f}",
        f"{max(part.open_seconds for part in found):.2f}",
        " + ".join(f"{part.memory / 1e9:.3f}" for part in found),
        " + ".join(f"{part.held_bytes / 1e9:.3f}" for part in found),
    )
    return found


def _read(folder: Path, sharding: str, way: str, num_processes: int) -> list[Loaded]:
    """What the processes have written."""
    parts = [folder / f"{sharding}-{way}-{rank}.json" for rank in range(num_processes)]
    return [Loaded(**json.loads(part.read_text(encoding="utf-8"))) for part in parts]


def _rows(size: Size, sharding: Sharding, found: dict[str, list[Loaded]]) -> list[Row]:
    """Time, and the memory of the process that took most, against either other way."""
    rows = []
    for other in WAYS[1:]:
        case = size._asdict() | {"sharding": sharding, "other": other}
        for name, of in (("seconds", _seconds), ("peak_memory", _most_memory)):
            rows.append(compared(f"transfer_{name}", case, of(found[OURS]), of(found[other]), None))
    return rows


def _seconds(parts: list[Loaded]) -> float:
    return max(part.seconds for part in parts)


def _most_memory(parts: list[Loaded]) -> float:
    return max(part.memory for part in parts)


def _in_processes(
    action: Callable[[Size, Path, str, str], None],
    size: Size,
    folder: Path,
    sharding: str,
    way: str = "",
) -> None:
    args = (action, size, folder, sharding, way, torch.get_num_threads())
    multiprocessing.spawn(_in_process, args=args, nprocs=size.num_processes)


def _in_process(
    rank: int,
    action: Callable[[Size, Path, str, str], None],
    size: Size,
    folder: Path,
    sharding: str,
    way: str,
    num_threads: int,
) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(max(1, num_threads // size.num_processes))
    os.environ["LOCAL_WORLD_SIZE"] = str(size.num_processes)
    store = dist.FileStore(str(folder / f"store-{sharding}-{way}"), size.num_processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size.num_processes)
    with process_group("cpu"):
        action(size, folder, sharding, way)
    dist.barrier()
    dist.destroy_process_group()


def _prepare(size: Size, folder: Path, sharding: str, way: str) -> None:
    """Writes the artefact, the distributed checkpoint and the whole state dict."""
    model = _model(size, "row_wise")
    for first, rows in _held(model):
        for begin in range(0, len(rows), _PIECE):
            part = rows[begin : begin + _PIECE]
            part.copy_(values(torch.arange(first + begin, first + begin + len(part)), size.width))
    feature = Feature("item", "candidate", table="item")
    numbers = np.arange(size.num_rows - 1)
    save_pretrained(
        folder / "artefact",
        model,
        module="benchmark",
        config={},
        schema=FeatureSchema("benchmark", ("label",), (feature,), (SchemaTable("item"),)),
        vocabularies={"item": _vocabulary(numbers)},
        card=ModelCard("random numbers"),
    )
    state = model.state_dict()
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder / "checkpoint"))
    if dist.get_rank() == 0:
        whole = {name: w for name, w in state.items() if not hasattr(w, "local_shards")}
        (table,) = state.keys() - whole.keys()
        whole[table] = values(torch.arange(size.num_rows), size.width)
        torch.save(whole, folder / "whole.pt")


def _load(size: Size, folder: Path, sharding: str, way: str) -> None:
    """Loads a new model one way, a few times, checks it, and writes what it took."""
    model = _model(size, sharding)  # type: ignore[arg-type]
    vocabulary = _vocabulary(target_numbers(size.num_rows - 1)) if way == OURS else None
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # from now on the most is counted anew
    times = []
    for _ in range(_ROUNDS):
        dist.barrier()
        began = perf_counter()
        opened = _load_once(model, folder, way, vocabulary)
        dist.barrier()
        times.append((perf_counter() - began, opened - began))
    found = Loaded(
        *min(times),
        memory=_memory("VmHWM") - before,
        held_bytes=sum(rows.nbytes for _, rows in _held(model)),
    )
    _check(size, model, way)
    report = folder / f"{sharding}-{way}-{dist.get_rank()}.json"
    report.write_text(json.dumps(found._asdict()), encoding="utf-8")


def _load_once(
    model: DistributedModelParallel, folder: Path, way: str, vocabulary: Vocabulary | None
) -> float:
    """Loads the model; when the source was open."""
    if way == OURS:
        source = load_pretrained(folder / "artefact")
        opened = perf_counter()
        transfer(source, model, TransferPlan({"item": TablePlan("item", vocabulary)}))
        return opened
    opened = perf_counter()
    if way == "torch.load":
        model.load_state_dict(torch.load(folder / "whole.pt", mmap=False, weights_only=True))
    else:
        dcp.load(model.state_dict(), storage_reader=dcp.FileSystemReader(folder / "checkpoint"))
    return opened


def _check(size: Size, model: DistributedModelParallel, way: str) -> None:
    """Compares some of the rows that this process holds with what they should be."""
    source = np.arange(size.num_rows)
    if way == OURS:
        source[1:] = target_numbers(size.num_rows - 1) + 1
    for first, rows in _held(model):
        some = torch.arange(0, len(rows), max(1, len(rows) // _PIECE))
        from_rows = torch.from_numpy(source)[first + some]
        known = from_rows < size.num_rows
        if not torch.equal(rows[some[known]], values(from_rows[known], size.width)):
            raise AssertionError(f"{way}: rows are not what they should be")


def _vocabulary(numbers: NDArray[np.int64]) -> Vocabulary:
    return Vocabulary("item", raw_ids(numbers), np.ones(len(numbers) + 1, dtype=np.int64))


def _model(size: Size, sharding: Sharding) -> DistributedModelParallel:
    torch.manual_seed(0)
    reader = Reader(Case("sequences", *size, batch_size=1, num_steps=1))
    device = torch.device("cpu")
    return shard(reader, device=device, table_optimizer=OPTIMIZER, sharding=sharding)


def _held(model: DistributedModelParallel) -> list[tuple[int, Tensor]]:
    """The rows that this process holds, each with the number of the first."""
    shards = [
        shard
        for weight in model.state_dict().values()
        if hasattr(weight, "local_shards")
        for shard in weight.local_shards()
    ]
    return [(part.metadata.shard_offsets[0], part.tensor.detach()) for part in shards]


def _memory(name: str) -> int:
    """Bytes that this process takes ("VmRSS"), or took at most ("VmHWM")."""
    (line,) = (x for x in _STATUS.read_text().splitlines() if x.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, help="of the table; default: 20 million")
    parser.add_argument("--dim", type=int, default=32, help="its width; default: 32")
    parser.add_argument("--processes", type=int, default=2, help="default: 2")


def main() -> None:
    """Measures, and writes the figures if asked to."""
    options = parse("benchmarks.transfer", __doc__, _add_arguments)
    described = machine([], 0)
    print_machine(described)
    num_rows = options.rows or (200_000 if options.quick else 20_000_000)
    rows = measure(Size(num_rows, options.dim, options.processes))
    if options.json is not None:
        write_json(options.json, described, rows)


if __name__ == "__main__":
    main()
