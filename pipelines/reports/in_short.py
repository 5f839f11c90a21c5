"""The first lines of a report: what came out, at what cost, and what the statements lack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pipelines.reports import tables
from pipelines.reports.document import Block, Bullets, Heading, Paragraph
from pipelines.reports.folder import Folder
from pipelines.results.artifacts import RunInfo
from pipelines.results.summary import Difference, VariantSummary


def in_short(folder: Folder) -> Iterator[Block]:
    """The section that stands above all others; with costs, the verdicts have lines of their own.

    Args:
        folder: with one summary or more.

    Returns:
        Its blocks.
    """
    summaries, info = folder.summaries, folder.info
    compared = [(s, s.baseline) for s in summaries if s.baseline is not None and s.is_trained]
    compared.sort(key=lambda pair: -pair[1].value)
    yield Heading(2, "In short")
    yield Paragraph(_headline(folder, compared))
    items = [] if folder.is_benchmark else [*_verdicts(compared, info), *_cost(folder, compared)]
    items += _weaknesses(summaries, info)
    if items:
        yield Bullets(items)
    for remark in info.remarks:
        yield Paragraph(remark)


def _headline(folder: Folder, compared: Sequence[tuple[VariantSummary, Difference]]) -> str:
    info, baseline = folder.info, tables.baseline_name(folder.info)
    references = [s for s in folder.summaries if folder.is_baseline(s)]
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


def _cost(folder: Folder, compared: Sequence[tuple[VariantSummary, Difference]]) -> Iterator[str]:
    def seconds(of: Iterable[VariantSummary]) -> str:
        costs = [spread.mean for s in of if (spread := s.spread("train_seconds"))]
        ends = [tables.seconds_in_words(end) for end in (min(costs), max(costs))]
        return f"{' to '.join(dict.fromkeys(ends))} s"

    references = [s for s in folder.summaries if folder.is_baseline(s)]
    if references and compared:
        yield (
            f"Training to the chosen epoch took {seconds(references)} for "
            f"{tables.baseline_name(folder.info)} and {seconds(s for s, _ in compared)} for the "
            "others, pretraining counted."
        )


def _weaknesses(summaries: Sequence[VariantSummary], info: RunInfo) -> Iterator[str]:
    """What the statements above lack: seeds, epochs, a validation set."""
    trained = [s for s in summaries if s.is_trained]
    if trained and all(len(s.chosen) == 1 for s in trained):
        yield "One seed only: how far chance in training moves these figures is not known."
    networks = [s for s in trained if s.variant.dim is not None]  # trees have no epochs
    last = {row.run: row.epoch for s in networks for row in sorted(s.rows, key=lambda r: r.epoch)}
    unfinished = [run.name for run, epoch in last.items() if epoch < (info.epochs or 0)]
    if unfinished and info.budget is None:
        yield f"Not finished, judged by the epochs so far: {', '.join(unfinished)}."
    if any(row.validation_auc is None for s in trained for row in s.chosen):
        yield "Without a validation AUC a run is judged by its last epoch."
