"""The report of a comparison: report.md, report.html and the terminal's table, from one folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.reports import plots, tables
from pipelines.reports.cold import cold_section
from pipelines.reports.costs import cost_section
from pipelines.reports.diagnostic import diagnostic_section
from pipelines.reports.document import Block, Figure, Heading, Paragraph, to_markdown
from pipelines.reports.folder import Folder
from pipelines.reports.in_short import in_short
from pipelines.reports.page import to_html
from pipelines.reports.pareto import pareto_section
from pipelines.reports.reading import how_to_read, how_to_reproduce
from pipelines.reports.search import search_section
from pipelines.reports.strata import strata_section
from pipelines.reports.strategies import strategy_section
from pipelines.reports.verdicts import verdict_section
from pipelines.results.artifacts import RunInfo, read_curves
from pipelines.results.rows import ResultRow, write_atomically
from pipelines.results.summary import differences_to, summarize


def write_report(out_dir: Path) -> Path:
    """Writes `report.html`, `report.md` and `plots/*.svg` from what the folder holds so far.

    Args:
        out_dir: has `results.json` and, where there are any, `run.json`, `predictions/`, `curves/`,
            `costs.json` and `search.json`.

    Returns:
        The path of `report.html`.

    Raises:
        ValueError: a file of the folder is damaged, or predictions do not fit the results.
    """
    blocks = list(_document(Folder.read(out_dir)))
    for block in blocks:
        if isinstance(block, Figure):
            write_atomically(out_dir / "plots" / f"{block.name}.svg", block.svg.encode())
    write_atomically(out_dir / "report.md", to_markdown(blocks).encode())
    write_atomically(out_dir / "report.html", to_html(blocks).encode())
    return out_dir / "report.html"


def format_table(rows: Sequence[ResultRow], out_dir: Path | None = None) -> str:
    """The comparison as aligned text for a terminal, one line a variant.

    Args:
        rows: of `results.json`.
        out_dir: where `run.json` and predictions are looked for; without it the baseline is
            vanilla DLRM and the interval is that of seeds alone.

    Returns:
        Lines without a trailing newline.
    """
    if not rows:
        return "no results yet"
    if out_dir is None:
        table = tables.terminal_table(summarize(rows, {}), RunInfo())
    else:
        folder = Folder.of(rows, out_dir)
        table = tables.terminal_table(folder.summaries, folder.info)
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = (
        [
            cell.ljust(width) if column < table.left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    )
    return "\n".join("  ".join(line).rstrip() for line in aligned)


def _document(folder: Folder) -> Iterator[Block]:
    summaries, info = folder.summaries, folder.info
    yield Heading(1, info.title)
    if summaries:
        yield from in_short(folder)
        yield from verdict_section(folder)
        yield from pareto_section(folder)
        yield from _results(folder)
        yield from _against(folder)
        yield from cost_section(folder)
        yield from strategy_section(summaries, folder.resampled)
        yield from strata_section(folder)
        yield from cold_section(folder.rows, info, folder.path, folder.names_in_tables)
        yield from _further_metrics(folder)
        yield from _epochs(folder)
        yield from diagnostic_section(summaries)
        if not folder.is_benchmark:
            yield from _section("Quality and cost", plots.auc_by_cost(summaries))
        yield from search_section(folder.path)
    else:
        yield Paragraph("No results yet.")
    runs = dict.fromkeys(row.run for s in summaries for row in s.rows)
    curves = plots.training_curves(read_curves(folder.path), runs)
    yield from _section("Training curves", curves)
    yield from how_to_reproduce(info)
    yield from how_to_read(info)


def _section(title: str, blocks: Sequence[Block]) -> Iterator[Block]:
    if blocks:
        yield Heading(2, title)
        yield from blocks


def _results(folder: Folder) -> Iterator[Block]:
    summaries, info = folder.in_order, folder.info
    yield Heading(2, "Results")
    yield Paragraph(
        "On the test set, each run at the epoch that its validation AUC chose: mean over seeds "
        "± standard deviation. Training seconds run to the chosen epoch."
    )
    if folder.is_benchmark:
        yield tables.quality_table(summaries, info, folder.names)
    else:
        yield tables.result_table(summaries, info)
    rows = [row for s in summaries for row in s.chosen]
    for reason in dict.fromkeys(row.gauc_refused for row in rows if row.gauc_refused):
        yield Paragraph(f"No GAUC: {reason.rstrip('.')}.")
    for counted, left_out in dict.fromkeys(
        (row.gauc_users_counted, row.gauc_users_left_out) for row in rows if row.gauc is not None
    ):
        if counted is not None and left_out is not None:
            yield Paragraph(
                f"GAUC speaks of {counted:,} users; {left_out:,} with labels of one class are "
                "left out."
            )
    compared = [(s, s.baseline) for s in summaries if s.baseline is not None]
    if compared:
        name = tables.baseline_name(info)
        yield tables.difference_table(compared, name, folder.names_in_tables)


def _against(folder: Folder) -> Iterator[Block]:
    """The differences to each further model that the others are to be compared with."""
    info = folder.info
    for other in folder.summaries:
        if other.variant.model in info.against and other.variant.strategy == info.baseline_strategy:
            compared = differences_to(other, folder.in_order, folder.resampled)
            if compared:
                name = folder.names[other.variant]
                yield tables.difference_table(compared, name, folder.names_in_tables)


def _further_metrics(folder: Folder) -> Iterator[Block]:
    table = tables.further_metrics_table(folder.in_order, folder.names_in_tables)
    if table is not None:
        yield from _section("Further metrics", [table])


def _epochs(folder: Folder) -> Iterator[Block]:
    trained = [s for s in folder.in_order if s.is_trained]
    if trained:
        yield Heading(2, "Epoch by epoch")
        yield Paragraph(
            "Test AUC after each epoch, mean over seeds. A fall after the first epoch is the "
            "one-epoch drop: id embeddings overfit once the rows come round again."
        )
        yield tables.epoch_table(trained, folder.names_in_tables)
        if folder.is_benchmark:
            yield from plots.all_by_epoch(trained, folder.names, folder.colors)
        else:
            yield from plots.auc_by_epoch(folder.summaries, folder.info)
