"""The report of a comparison: report.md, report.html and the terminal's table, from one folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipelines.reports import plots, tables
from pipelines.reports.cold import cold_section
from pipelines.reports.diagnostic import diagnostic_section
from pipelines.reports.document import (
    Block,
    Bullets,
    Code,
    Figure,
    Heading,
    Paragraph,
    to_html,
    to_markdown,
)
from pipelines.reports.strategies import strategy_section
from pipelines.results.artifacts import Curve, RunInfo, read_curves, read_run_info
from pipelines.results.rows import ResultRow, read_results, write_atomically
from pipelines.results.summary import (
    SMALLEST_DIFFERENCE,
    Difference,
    Resampled,
    VariantSummary,
    chosen_rows,
    differences_to,
    resample_runs,
    summarize,
)


def write_report(out_dir: Path) -> Path:
    """Writes `report.html`, `report.md` and `plots/*.svg` from what the folder holds so far.

    Args:
        out_dir: has `results.json` and, where there are any, `run.json`, `predictions/`, `curves/`.

    Returns:
        The path of `report.html`.

    Raises:
        ValueError: a file of the folder is damaged, or predictions do not fit the results.
    """
    info, rows = read_run_info(out_dir), read_results(out_dir)
    resampled = resample_runs(out_dir, chosen_rows(rows))
    summaries = summarize(rows, resampled, info.baseline_model, info.baseline_strategy)
    cold = list(cold_section(rows, info, out_dir))
    blocks = list(_document(summaries, resampled, cold, info, read_curves(out_dir)))
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
        info = read_run_info(out_dir)
        resampled = resample_runs(out_dir, chosen_rows(rows))
        summaries = summarize(rows, resampled, info.baseline_model, info.baseline_strategy)
        table = tables.terminal_table(summaries, info)
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


def _document(
    summaries: Sequence[VariantSummary],
    resampled: Resampled,
    cold: Sequence[Block],
    info: RunInfo,
    curves: Sequence[Curve],
) -> Iterator[Block]:
    yield Heading(1, info.title)
    if summaries:
        yield from _summary(summaries, info)
        yield from _results(summaries, info)
        yield from _against(summaries, resampled, info)
        yield from strategy_section(summaries, resampled)
        yield from cold
        yield from _further_metrics(summaries)
        yield from _epochs(summaries, info)
        yield from diagnostic_section(summaries)
        yield from _section("Quality and cost", plots.auc_by_cost(summaries))
    else:
        yield Paragraph("No results yet.")
    runs = dict.fromkeys(row.run for s in summaries for row in s.rows)
    yield from _section("Training curves", plots.training_curves(curves, runs))
    yield from _what_was_run(info)
    yield from _how_to_read(info)


def _section(title: str, blocks: Sequence[Block]) -> Iterator[Block]:
    if blocks:
        yield Heading(2, title)
        yield from blocks


def _summary(summaries: Sequence[VariantSummary], info: RunInfo) -> Iterator[Block]:
    compared = [(s, s.baseline) for s in summaries if s.baseline is not None and s.is_trained]
    compared.sort(key=lambda pair: -pair[1].value)
    yield Heading(2, "In short")
    yield Paragraph(_headline(summaries, compared, info))
    items = [*_verdicts(compared, info), *_cost(summaries, compared, info)]
    items += _weaknesses(summaries, info)
    if items:
        yield Bullets(items)
    for remark in info.remarks:
        yield Paragraph(remark)


def _headline(
    summaries: Sequence[VariantSummary],
    compared: Sequence[tuple[VariantSummary, Difference]],
    info: RunInfo,
) -> str:
    baseline = tables.baseline_name(info)
    references = _baselines(summaries, info)
    if not references:
        return f"{baseline} has no result yet, so nothing is compared with it."
    reached = "; ".join(
        tables.spread_in_words(s.spread("auc"))
        + (f" at dim {s.variant.dim}" if len(references) > 1 else "")
        for s in references
    )
    ceiling = f" The best possible is {info.bayes_auc:.4f}." if info.bayes_auc is not None else ""
    if not compared:
        return f"{baseline} reaches a test AUC of {reached}; nothing is compared with it.{ceiling}"
    verdicts = [difference.verdict for _, difference in compared]
    counts = ", ".join(
        f"{verdicts.count(verdict)} {words}"
        for verdict, words in (
            ("better", "better"),
            ("worse", "worse"),
            ("not told apart", "not told apart from it"),
            ("no verdict", "without a verdict"),
        )
        if verdict in verdicts
    )
    return (
        f"{baseline} reaches a test AUC of {reached}. "
        f"Of {len(compared)} compared with it: {counts}.{ceiling}"
    )


def _verdicts(
    compared: Sequence[tuple[VariantSummary, Difference]], info: RunInfo
) -> Iterator[str]:
    baseline = tables.baseline_name(info)
    for verdict, words in (
        ("better", f"Better than {baseline}"),
        ("worse", f"Worse than {baseline}"),
        ("not told apart", f"Not told apart from {baseline}"),
        ("no verdict", "No verdict, for want of an interval (it takes two seeds or predictions)"),
    ):
        named = [
            f"{summary.variant} ({tables.difference_in_words(difference)})"
            for summary, difference in compared
            if difference.verdict == verdict
        ]
        if named:
            yield f"{words}: {'; '.join(named)}."


def _cost(
    summaries: Sequence[VariantSummary],
    compared: Sequence[tuple[VariantSummary, Difference]],
    info: RunInfo,
) -> Iterator[str]:
    def seconds(of: Iterable[VariantSummary]) -> str:
        costs = [spread.mean for s in of if (spread := s.spread("train_seconds"))]
        ends = [tables.seconds_in_words(end) for end in (min(costs), max(costs))]
        return f"{' to '.join(dict.fromkeys(ends))} s"

    references = _baselines(summaries, info)
    if references and compared:
        yield (
            f"Training to the chosen epoch took {seconds(references)} for "
            f"{tables.baseline_name(info)} and {seconds(s for s, _ in compared)} for the others, "
            "pretraining counted."
        )


def _weaknesses(summaries: Sequence[VariantSummary], info: RunInfo) -> Iterator[str]:
    """What the statements above lack: seeds, epochs, a validation set."""
    trained = [s for s in summaries if s.is_trained]
    if trained and all(len(s.chosen) == 1 for s in trained):
        yield "One seed only: how far chance in training moves these figures is not known."
    last = {row.run: row.epoch for s in trained for row in sorted(s.rows, key=lambda r: r.epoch)}
    unfinished = [run.name for run, epoch in last.items() if epoch < (info.epochs or 0)]
    if unfinished:
        yield f"Not finished, judged by the epochs so far: {', '.join(unfinished)}."
    if any(row.validation_auc is None for s in trained for row in s.chosen):
        yield "Without a validation AUC a run is judged by its last epoch."


def _results(summaries: Sequence[VariantSummary], info: RunInfo) -> Iterator[Block]:
    yield Heading(2, "Results")
    yield Paragraph(
        "On the test set, each run at the epoch that its validation AUC chose: mean over seeds "
        "± standard deviation. Training seconds run to the chosen epoch."
    )
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
        yield tables.difference_table(compared, tables.baseline_name(info))


def _against(
    summaries: Sequence[VariantSummary], resampled: Resampled, info: RunInfo
) -> Iterator[Block]:
    """The differences to each further model that the others are to be compared with."""
    for other in summaries:
        if other.variant.model in info.against and other.variant.strategy == info.baseline_strategy:
            compared = differences_to(other, summaries, resampled)
            if compared:
                yield tables.difference_table(compared, str(other.variant.model))


def _further_metrics(summaries: Sequence[VariantSummary]) -> Iterator[Block]:
    table = tables.further_metrics_table(summaries)
    if table is not None:
        yield from _section("Further metrics", [table])


def _epochs(summaries: Sequence[VariantSummary], info: RunInfo) -> Iterator[Block]:
    trained = [s for s in summaries if s.is_trained]
    if trained:
        yield Heading(2, "Epoch by epoch")
        yield Paragraph(
            "Test AUC after each epoch, mean over seeds. A fall after the first epoch is the "
            "one-epoch drop: id embeddings overfit once the rows come round again."
        )
        yield tables.epoch_table(trained)
        yield from plots.auc_by_epoch(summaries, info)


def _what_was_run(info: RunInfo) -> Iterator[Block]:
    parts = (
        ("Data", info.data),
        ("Settings", info.settings),
        ("Versions and machine", info.environment),
    )
    if not info.command and not any(values for _, values in parts):
        return
    yield Heading(2, "What was run")
    if info.command:
        yield Code(info.command)
    for title, values in parts:
        if values:
            yield Heading(3, title)
            yield tables.settings_table(values)


def _how_to_read(info: RunInfo) -> Iterator[Block]:
    yield Heading(2, "How to read it")
    yield Bullets(
        [
            "Each run is judged by the test AUC of the epoch with its highest validation AUC, "
            "so models are compared peak against peak and the test set chooses nothing.",
            "Two kinds of chance make the 95% interval: training (Welch's t interval over seeds) "
            "and who is in the test set (its users are drawn anew with replacement, the same draws "
            "for every model, AUC averaged over seeds). The two half-widths are joined as the root "
            "of their squares' sum; where only one is known, it stands alone.",
            "Better or worse is said only if that interval leaves out 0 and the difference is at "
            f"least {SMALLEST_DIFFERENCE} AUC, which is about what three seeds can resolve. All "
            "else is not told apart, which is not to say equal.",
            "Each interval stands for itself: of twenty comparisons of equals, one would leave out "
            "0 by chance.",
            "AUC, GAUC: higher is better; GAUC is AUC within each user, weighted by impressions. "
            "NE (log loss over the entropy of the mean label): lower is better, 1 is predicting "
            "the mean. Calibration: mean prediction over mean label, 1 is right.",
            f"The baseline is {tables.baseline_name(info)}, at the same width where there are "
            "several.",
        ]
    )


def _baselines(summaries: Sequence[VariantSummary], info: RunInfo) -> list[VariantSummary]:
    return [s for s in summaries if s.is_of(info.baseline_model, info.baseline_strategy)]
