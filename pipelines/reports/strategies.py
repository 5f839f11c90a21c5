"""The report's part on transfer strategies: which wins for each model, by how much, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipelines.reports import plots
from pipelines.reports.document import Block, Heading, Paragraph
from pipelines.reports.tables import difference_in_words, strategy_table
from pipelines.results.resampling import Resampled
from pipelines.results.rows import ResultRow
from pipelines.results.summary import (
    Difference,
    VariantSummary,
    Verdict,
    difference,
)

_AGAINST: dict[Verdict, str] = {
    "better": "better than",
    "worse": "worse than",
    "not told apart": "not told apart from",
    "no verdict": "without a verdict against",
}


class Choice(NamedTuple):
    """A model's strategies, the one with the highest AUC at the chosen epochs first.

    Args:
        ranked: by validation AUC, or by test AUC where not all have a validation AUC.
        on_validation: which of the two.
    """

    ranked: tuple[VariantSummary, ...]
    on_validation: bool


def strategy_section(summaries: Sequence[VariantSummary], resampled: Resampled) -> Iterator[Block]:
    """The section that holds every model against itself without transfer.

    Args:
        summaries: every variant.
        resampled: each run's AUC in the same draws of users.

    Returns:
        Its blocks; none where nothing was transferred.
    """
    groups: dict[tuple[str, int | None], list[VariantSummary]] = {}
    for summary in summaries:
        if summary.is_trained:
            groups.setdefault((summary.variant.model, summary.variant.dim), []).append(summary)
    compared = {
        place: sorted(group, key=_is_transferred)
        for place, group in groups.items()
        if any(map(_is_transferred, group))
    }
    if not compared:
        return
    yield Heading(2, "Does pretraining pay?")
    yield from _overall(summaries)
    for (model, dim), group in compared.items():
        yield Heading(3, plots.title_of(model, dim))
        yield Paragraph(" ".join(_statements(group, resampled)))
        yield strategy_table(group)


def choose(group: Sequence[VariantSummary]) -> Choice:
    """Ranks a model's strategies by what may choose among them: the validation AUC."""
    validated = all(row.validation_auc is not None for s in group for row in s.chosen)
    name = "validation_auc" if validated else "auc"
    return Choice(tuple(sorted(group, key=lambda s: -_mean(s, name))), validated)


def leaders(group: Sequence[VariantSummary], epoch: int) -> tuple[VariantSummary, ...]:
    """The strategies all of whose seeds are that far, by test AUC after an epoch, highest first."""
    there = [s for s in group if len(_rows_at(s, epoch)) == len(s.chosen)]
    return tuple(sorted(there, key=lambda s: -s.mean_by_epoch("auc")[epoch]))


def _overall(summaries: Sequence[VariantSummary]) -> Iterator[Block]:
    verdicts = [s.scratch.verdict for s in summaries if s.scratch is not None]
    if verdicts:
        yield Paragraph(
            f"Each model against itself trained from scratch: of {len(verdicts)} ways to use "
            f"pretrained weights, {verdicts.count('better')} are better than none, "
            f"{verdicts.count('worse')} worse; the others are not told apart. Peak against peak: "
            "each run at its chosen epoch, whatever comes after."
        )


def _statements(group: Sequence[VariantSummary], resampled: Resampled) -> Iterator[str]:
    choice = choose(group)
    if len(choice.ranked) < 2:
        yield "One strategy only: there is nothing to hold it against."
        return
    yield from _winner(choice, resampled)
    yield from _highest_on_test(choice)
    yield from _over_epochs(group)


def _winner(choice: Choice, resampled: Resampled) -> Iterator[str]:
    first, second = choice.ranked[:2]
    best = next(s for s in choice.ranked if _is_transferred(s))
    to_next = difference(first.chosen, second.chosen, resampled)
    if choice.on_validation:
        values = (f"{_name(s)} ({_mean(s, 'validation_auc'):.4f})" for s in (first, second))
        yield (
            f"Chosen among {len(choice.ranked)} by validation AUC, which keeps the test set's luck "
            f"out of the choice: {' before '.join(values)}."
        )
    else:
        yield (
            f"Without a validation AUC the choice falls on the highest test AUC, {_name(first)}, "
            f"which is high partly by chance: it is the best of {len(choice.ranked)}."
        )
    if best.scratch is None:
        yield f"On the test set it is {_compared(to_next, second)}; no transfer has no result yet."
        return
    if best.scratch.verdict == "better":
        won = difference_in_words(best.scratch)
        yield f"On the test set {_name(best)} wins over no transfer: {won}."
    else:
        yield f"On the test set {_name(best)} is {_compared(best.scratch)}: no strategy wins."
    if first is best and _is_transferred(second):
        yield f"It is {_compared(to_next, second)}, the next."


def _highest_on_test(choice: Choice) -> Iterator[str]:
    """Says that the highest of several is no measure of what it would reach again."""
    highest = max(choice.ranked, key=lambda s: _mean(s, "auc"))
    if choice.on_validation and highest is not choice.ranked[0]:
        yield (
            f"The highest test AUC is that of {_name(highest)} ({_mean(highest, 'auc'):.4f}), but "
            f"the highest of {len(choice.ranked)} is high partly by chance, so the validation set "
            "makes the choice."
        )


def _over_epochs(group: Sequence[VariantSummary]) -> Iterator[str]:
    """Who led after the first epoch and who at the end, and by how much over seeds."""
    epochs = sorted({row.epoch for s in group for row in s.rows})
    compared = [epoch for epoch in epochs if len(leaders(group, epoch)) > 1]
    for epoch in dict.fromkeys((compared[0], compared[-1]) if compared else ()):
        first, second = leaders(group, epoch)[:2]
        less = difference(_rows_at(first, epoch), _rows_at(second, epoch), {})
        yield (
            f"After epoch {epoch} {_name(first)} leads on the test set with "
            f"{first.mean_by_epoch('auc')[epoch]:.4f}, {_compared(less, second)} by seeds alone."
        )


def _rows_at(summary: VariantSummary, epoch: int) -> list[ResultRow]:
    return [row for row in summary.rows if row.epoch == epoch]


def _compared(of: Difference, other: VariantSummary | None = None) -> str:
    name = "no transfer" if other is None else _name(other)
    return f"{_AGAINST[of.verdict]} {name} ({difference_in_words(of)})"


def _is_transferred(summary: VariantSummary) -> bool:
    return summary.variant.strategy != "none"


def _name(summary: VariantSummary) -> str:
    if not _is_transferred(summary):
        return "no transfer"
    return ", ".join(word for word in (summary.variant.strategy, summary.variant.pretrain) if word)


def _mean(summary: VariantSummary, name: str) -> float:
    spread = summary.spread(name)
    assert spread is not None, "every row has one, or the caller looked"
    return spread.mean
