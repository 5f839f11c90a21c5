"""The report's verdicts: a line a model, better, worse or not told apart, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.reports.costs import median_ms
from pipelines.reports.document import Block, Heading, NamedBullets, Paragraph
from pipelines.reports.folder import Folder
from pipelines.reports.tables import (
    count_in_words,
    difference_in_words,
    ms_in_words,
    seconds_in_words,
)
from pipelines.results.summary import Difference, VariantSummary, Verdict

_WORDS: dict[Verdict, str] = {
    "better": "is better than",
    "not told apart": "is not told apart from",
    "worse": "is worse than",
    "no verdict": "has no verdict, for want of an interval, against",
}
"""Also the order of the lines."""


def verdict_section(folder: Folder) -> Iterator[Block]:
    """The section with a line for each variant; none where no costs were measured."""
    compared = [(s, s.baseline) for s in folder.summaries if s.baseline is not None]
    if not folder.is_benchmark or not compared:
        return
    compared.sort(key=lambda pair: (list(_WORDS).index(pair[1].verdict), -pair[1].value))
    baselines = [s for s in folder.summaries if folder.is_baseline(s)]
    yield Heading(2, "Verdicts")
    yield Paragraph(_terms(folder))
    yield NamedBullets(
        [(folder.names[s.variant], _of_baseline(folder, s)) for s in baselines]
        + [(folder.names[s.variant], _verdict(folder, s, of)) for s, of in compared]
    )


def _terms(folder: Folder) -> str:
    budget = folder.info.budget
    return (
        "Each model trained to its own best epoch, whatever it took."
        if budget is None
        else f"Equal budget: every model that is trained got {budget}, pretraining counted."
    )


def _of_baseline(folder: Folder, summary: VariantSummary) -> str:
    auc, seconds = summary.spread("auc"), summary.spread("train_seconds")
    flops, latency = summary.spread("train_flops"), median_ms(folder.cost_of(summary))
    assert auc is not None, "every row has one"
    assert seconds is not None, "every row has them"
    costs = [f"{seconds_in_words(seconds.mean)} s of training"]
    costs += [f"{count_in_words(flops.mean)} training FLOPs"] if flops else []
    costs += [f"{count_in_words(summary.chosen[-1].parameters)} parameters"]
    costs += [f"p50 {ms_in_words(latency)} ms at 100 candidates"] if latency else []
    return f"is the baseline: AUC {auc.mean:.4f}; {', '.join(costs)}."


def _verdict(folder: Folder, summary: VariantSummary, less: Difference) -> str:
    baseline, auc = folder.baseline_of(summary), summary.spread("auc")
    assert baseline is not None, "there is a difference to it"
    other = baseline.spread("auc")
    assert auc is not None, "every row has one"
    assert other is not None, "every row has one"
    compared = f"{_WORDS[less.verdict]} {folder.names[baseline.variant]}"
    if folder.info.budget is not None and summary.is_trained:
        compared += f" at equal budget ({folder.info.budget})"
    statement = (
        f"{compared}: AUC {auc.mean:.4f} against {other.mean:.4f}, {difference_in_words(less)}"
    )
    costs = list(_ratios(folder, summary, baseline)) if summary.is_trained else []
    return f"{statement}; it costs {', '.join(costs)}." if costs else f"{statement}."


def _ratios(folder: Folder, summary: VariantSummary, baseline: VariantSummary) -> Iterator[str]:
    """What it costs in multiples of what the baseline costs, where both are known."""
    seconds = summary.spread("train_seconds")
    for name, words in (("train_seconds", "training time"), ("train_flops", "training FLOPs")):
        own, other = summary.spread(name), baseline.spread(name)
        if own and other and other.mean > 0:
            absolute = f" ({seconds_in_words(own.mean)} s)" if own == seconds else ""
            yield f"{_times(own.mean / other.mean)} the {words}{absolute}"
    if baseline.chosen[-1].parameters:
        size = summary.chosen[-1].parameters / baseline.chosen[-1].parameters
        yield f"{_times(size)} the parameters"
    own_ms, other_ms = median_ms(folder.cost_of(summary)), median_ms(folder.cost_of(baseline))
    if own_ms and other_ms:
        ratio, median = _times(own_ms / other_ms), ms_in_words(own_ms)
        yield f"{ratio} the latency at 100 candidates (p50 {median} ms)"


def _times(ratio: float) -> str:
    if ratio >= 10:
        return f"{ratio:,.0f}x"
    return f"{ratio:.1f}x" if ratio >= 0.1 else f"{ratio:.2g}x"
