"""The results of next-item runs: one file of rows, one table beside the published figures."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelines.recommending.evaluation import CUTOFFS
from pipelines.results.rows import RESULTS_FILE, write_atomically

REPORT_FILE = "report.md"
METRICS = tuple(f"{name}@{k}" for k in CUTOFFS for name in ("hr", "ndcg"))

PUBLISHED: dict[tuple[str, str], tuple[float, ...]] = {
    ("ml-1m", "sasrec"): (0.2853, 0.1603, 0.5474, 0.2185, 0.7528, 0.2498),
    ("ml-1m", "hstu"): (0.3097, 0.1720, 0.5754, 0.2307, 0.7716, 0.2606),
    ("ml-1m", "hstu-large"): (0.3294, 0.1893, 0.5935, 0.2481, 0.7839, 0.2771),
    ("ml-20m", "sasrec"): (0.2889, 0.1621, 0.5503, 0.2199, 0.7661, 0.2527),
    ("ml-20m", "hstu"): (0.3273, 0.1895, 0.5889, 0.2473, 0.7952, 0.2787),
    ("ml-20m", "hstu-large"): (0.3556, 0.2098, 0.6143, 0.2671, 0.8074, 0.2965),
    ("books", "sasrec"): (0.0306, 0.0164, 0.0754, 0.0260, 0.1431, 0.0362),
    ("books", "hstu"): (0.0416, 0.0227, 0.0957, 0.0344, 0.1735, 0.0461),
    ("books", "hstu-large"): (0.0478, 0.0262, 0.1082, 0.0393, 0.1908, 0.0517),
}
"""By data set and model, in the order of METRICS. Source: HSTU, 2402.17152, its public table."""


@dataclasses.dataclass(frozen=True)
class NextItemRow:
    """One evaluation of one run.

    Args:
        model, data: which; `data` as the settings name it.
        published: the data set whose published figures stand beside, None for sizes of one's own.
        seed, epoch: which run, after how many epochs.
        last: whether the run ends with this epoch.
        num_items, num_users: of the catalogue; whose last event was predicted.
        num_dense: parameters that are no table's.
        reads_times: whether the model has a bias over time.
        loss: mean training loss of the epoch.
        minutes: spent in training steps so far.
        metrics: by name, as METRICS.
    """

    model: str
    data: str
    published: str | None
    seed: int
    epoch: int
    last: bool
    num_items: int
    num_users: int
    num_dense: int
    reads_times: bool
    loss: float
    minutes: float
    metrics: dict[str, float]


def read_rows(out: Path) -> list[NextItemRow]:
    """The rows of a folder; none where there is no file yet.

    Raises:
        ValueError: the file is not one of next-item results.
    """
    path = out / RESULTS_FILE
    if not path.exists():
        return []
    try:
        return [NextItemRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} does not hold next-item results ({error}): name another --out"
        ) from error


def write_report(out: Path, rows: Sequence[NextItemRow]) -> str:
    """Writes results.json and report.md, each whole; gives the report."""
    plain = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
    write_atomically(out / RESULTS_FILE, plain.encode())
    report = "\n".join(_report(rows)) + "\n"
    write_atomically(out / REPORT_FILE, report.encode())
    return report


def _report(rows: Sequence[NextItemRow]) -> Iterable[str]:
    yield "# Next item"
    for data in dict.fromkeys(row.data for row in rows):
        of_data = [row for row in rows if row.data == data]
        yield f"\n## {data}\n"
        yield from _facts(of_data)
        yield "\n### After the last epoch\n"
        yield from _final_table([row for row in of_data if row.last])
        yield "\n### By epoch (mean over seeds; nothing was chosen by it)\n"
        yield from _epoch_table(of_data)


def _facts(rows: Sequence[NextItemRow]) -> Iterable[str]:
    first = rows[0]
    reading = ", except by pinrec" if any(row.model == "pinrec" for row in rows) else ""
    yield (
        f"Each of {first.num_users:,} users' held-out event, ranked among the {first.num_items:,} "
        "items of the catalogue without those that the user has seen. Ratings are not read"
        f"{reading}."
    )
    with_times = [row.model for row in rows if row.reads_times]
    if not with_times:
        yield "No model has a bias over time: the log knows only an order, or the model has none."


def _final_table(rows: Sequence[NextItemRow]) -> Iterable[str]:
    yield _line("model", "dense parameters", "minutes", "epochs", "seeds", *METRICS)
    yield _line(*["---"] * (5 + len(METRICS)))
    for model in dict.fromkeys(row.model for row in rows):
        runs = [row for row in rows if row.model == model]
        first = runs[0]
        yield _line(
            model,
            f"{first.num_dense:,}",
            f"{statistics.mean(run.minutes for run in runs):.1f}",
            str(first.epoch),
            str(len(runs)),
            *(_spread([run.metrics[name] for run in runs]) for name in METRICS),
        )
        figures = PUBLISHED.get((first.published or "", model))
        if figures:
            values = (_short(value) for value in figures)
            yield _line(f"{model}, published ({first.published})", "", "", "", "", *values)


def _epoch_table(rows: Sequence[NextItemRow]) -> Iterable[str]:
    yield _line("model", "epoch", "seeds", "training loss", *METRICS)
    yield _line(*["---"] * (4 + len(METRICS)))
    for model, epoch in sorted({(row.model, row.epoch) for row in rows}):
        runs = [row for row in rows if (row.model, row.epoch) == (model, epoch)]
        means = (statistics.mean(run.metrics[name] for run in runs) for name in METRICS)
        loss = statistics.mean(run.loss for run in runs)
        yield _line(model, str(epoch), str(len(runs)), f"{loss:.4f}", *map(_short, means))


def _spread(values: Sequence[float]) -> str:
    mean = _short(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} +- {_short(statistics.stdev(values))}"


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
