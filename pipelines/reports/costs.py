"""The report's part on cost: training, scoring, memory and size of every model."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.benchmarking.cost import Cost
from pipelines.reports.document import (
    EMPTY,
    Block,
    Heading,
    Paragraph,
    Table,
    without_empty_columns,
)
from pipelines.reports.folder import Folder
from pipelines.reports.tables import count_in_words, ms_in_words, seconds_in_words
from pipelines.results.summary import VariantSummary

_COLUMNS = (
    "model",
    "train s",
    "of it pretraining",
    "examples/s",
    "train FLOPs",
    "FLOPs an example",
    "ms at 1 (p99)",
    "ms at 100 (p99)",
    "ms at 1,000 (p99)",
    "peak memory",
    "parameters in tables",
    "dense parameters",
    "checkpoint",
)
_CANDIDATES = (1, 100, 1000)


def cost_section(folder: Folder) -> Iterator[Block]:
    """The section with what each variant costs; none where no costs were measured."""
    if not folder.is_benchmark:
        return
    yield Heading(2, "Cost")
    yield Paragraph(
        "Training seconds and FLOPs run to the chosen epoch, pretraining counted, mean over seeds. "
        "FLOPs an example are of one training example, forward and backward. Milliseconds are "
        "those of one request with 1, 100 and 1,000 candidates: the median and, in brackets, the "
        "99th percentile. Peak memory is what training takes beyond what the process held "
        "before; a checkpoint has the optimizer's state too."
    )
    rows = [
        [folder.names[s.variant], *_training(s), *_scoring(folder.cost_of(s)), *_size(folder, s)]
        for s in folder.ranked
    ]
    yield without_empty_columns(Table(_COLUMNS, rows))


def median_ms(cost: Cost | None, num_candidates: int = 100) -> float | None:
    """The median latency of scoring that many candidates, where it was measured."""
    latency = None if cost is None else cost.latency_ms.get(num_candidates)
    return None if latency is None else latency[0]


def _training(summary: VariantSummary) -> list[str]:
    seconds, pretraining = summary.spread("train_seconds"), summary.spread("pretrain_seconds")
    speed, flops = summary.spread("examples_per_second"), summary.spread("train_flops")
    return [
        seconds_in_words(seconds.mean) if seconds and seconds.mean else EMPTY,
        seconds_in_words(pretraining.mean) if pretraining and pretraining.mean else EMPTY,
        f"{speed.mean:,.0f}" if speed else EMPTY,
        count_in_words(flops.mean) if flops else EMPTY,
    ]


def _scoring(cost: Cost | None) -> list[str]:
    if cost is None:
        return [EMPTY] * (1 + len(_CANDIDATES))
    cells = [EMPTY if cost.train_flops is None else count_in_words(cost.train_flops)]
    for number in _CANDIDATES:
        latency = cost.latency_ms.get(number)
        cells.append(EMPTY if latency is None else "{} ({})".format(*map(ms_in_words, latency)))
    return cells


def _size(folder: Folder, summary: VariantSummary) -> list[str]:
    cost, row = folder.cost_of(summary), summary.chosen[-1]
    return [
        EMPTY if cost is None else f"{count_in_words(cost.peak_memory_bytes)}B",
        count_in_words(row.parameters_embedding),
        count_in_words(row.parameters_dense),
        EMPTY if cost is None else f"{count_in_words(cost.checkpoint_bytes)}B",
    ]
