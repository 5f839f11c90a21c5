"""What int8 and int4 tables cost a trained ranker: error of the rows, AUC on the test set, memory.

    python -m pipelines.quantised --run runs/finetune --out quantised.json
    python -m pipelines.quantised --run runs/demo/runs/dlrm.none.d32.s0 --out quantised.json

Takes a finished run of finetune, or one in a comparison's folder `runs`, and the log that it read.
Runs on the CPU, in one process.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from pipelines.configuration.command_line import report_errors
from pipelines.results.artifacts import describe_environment
from pipelines.results.rows import write_atomically
from pipelines.stages.reading import Reading
from pipelines.stages.trained_run import TrainedRun, open_run
from torchrec_gr.data.log_source import TEST
from torchrec_gr.embeddings.quantised import quantise
from torchrec_gr.metrics import auc, paired_bootstrap
from torchrec_gr.training.evaluation import Predictions, evaluate
from torchrec_gr.training.process_group import process_group

BITS = (8, 4)

_ROWS_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True)
class Measured:
    """A ranker with its tables in one form.

    Args:
        tables: "float", "int8" or "int4".
        error: of all rows: the norm of what is lost over the norm of what there was.
        auc: on the test set.
        difference, low, high: of the AUC to that with float tables, and its 95% interval from
            resampling the test set's users.
        bytes: of the tables.
        error_by_table: of each table's rows.
    """

    tables: str
    error: float
    auc: float
    difference: float
    low: float
    high: float
    bytes: int
    error_by_table: dict[str, float]


class Lost(NamedTuple):
    """Squared norms of a table: of what its rows lost, and of what they were."""

    lost: float
    there: float

    @property
    def error(self) -> float:
        """The relative error; 0 of a table of zeros."""
        return math.sqrt(self.lost / self.there) if self.there else 0.0


def measure(run: TrainedRun) -> list[Measured]:
    """Scores the test set with the tables in float, int8 and int4.

    Raises:
        ValueError: tables that cannot be quantised, such as of a width that does not fit.
    """
    exact = run.ranker()
    right = _score(run, exact.module, exact.reading)
    users = run.log.raw_users[right.user_ids] if run.log.num_users else None
    labels, logits = right.labels[:, 0], right.logits[:, 0]
    at = auc(labels, logits)
    measured: list[Measured] = []
    for bits in BITS:
        module, report = quantise(run.ranker().module, bits)
        if not measured:
            measured.append(Measured("float", 0.0, at, 0.0, 0.0, 0.0, report.bytes_before, {}))
        scores = _score(run, module, exact.reading).logits[:, 0]
        tables = dict(lost_rows(exact.module, module))
        whole = Lost(*map(sum, zip(*tables.values(), strict=True)))
        value, low, high, _ = paired_bootstrap(labels, scores, logits, users)
        errors = {name: table.error for name, table in tables.items()}
        measured.append(
            Measured(
                f"int{bits}", whole.error, at + value, value, low, high, report.bytes_after, errors
            )
        )
    return measured


def lost_rows(exact: nn.Module, quantised: nn.Module) -> Iterator[tuple[str, Lost]]:
    """What each table's rows lost, as they are looked up.

    Args:
        exact: a model of float tables.
        quantised: the same model, quantised.
    """
    for path, collection in exact.named_modules():
        if isinstance(collection, EmbeddingBagCollection):
            tables: Sequence[Any] = collection.embedding_bag_configs()
        elif isinstance(collection, EmbeddingCollection):
            tables = collection.embedding_configs()
        else:
            continue
        keys = [key for table in tables for key in table.feature_names]
        for table in tables:
            lost = there = 0.0
            for rows in torch.arange(table.num_embeddings).split(_ROWS_AT_ONCE):
                kjt = _one_key(keys, table.feature_names[0], rows)
                before = _looked_up(collection, kjt, table.feature_names[0])
                after = _looked_up(quantised.get_submodule(path), kjt, table.feature_names[0])
                lost += float((after - before).double().square().sum())
                there += float(before.double().square().sum())
            yield table.name, Lost(lost, there)


def _one_key(keys: Sequence[str], key: str, rows: Tensor) -> KeyedJaggedTensor:
    """One value a row of the batch in one key, none in the others."""
    lengths = [torch.full_like(rows, int(name == key)) for name in keys]
    return KeyedJaggedTensor(list(keys), rows, lengths=torch.cat(lengths).int())


@torch.no_grad()
def _looked_up(collection: nn.Module, kjt: KeyedJaggedTensor, key: str) -> Tensor:
    found = collection(kjt)[key]
    return found.values() if isinstance(found, JaggedTensor) else found


def _score(run: TrainedRun, module: nn.Module, reading: Reading) -> Predictions:
    loader = reading.to_score(run.log, TEST, run.settings.history_as_of)
    return evaluate(module, loader, torch.device("cpu"))


def format_measured(measured: Sequence[Measured]) -> str:
    """The table for a terminal."""
    before = measured[0].bytes
    lines = [
        f"{'tables':<8}{'error':>9}{'AUC':>9}{'less float [95%]':>32}{'bytes':>16}{'share':>8}"
    ]
    for one in measured:
        interval = f"{one.difference:+.5f} [{one.low:+.5f} to {one.high:+.5f}]"
        lines.append(
            f"{one.tables:<8}{one.error:>9.5f}{one.auc:>9.5f}"
            f"{interval if one.error_by_table else '-':>32}"
            f"{one.bytes:>16,}{one.bytes / before:>8.1%}"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.quantised",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="of a ranker")
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="the log's files (default: where they were)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON to write")
    options = parser.parse_args(arguments)
    with report_errors(), process_group("cpu"):
        measured = measure(open_run(options.run, options.data_dir))
        written = {
            "run": str(options.run),
            "environment": describe_environment(),
            "rows": [dataclasses.asdict(one) for one in measured],
        }
        write_atomically(options.out, f"{json.dumps(written, indent=1)}\n".encode())
        print(format_measured(measured))


if __name__ == "__main__":
    main()
