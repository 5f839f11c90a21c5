"""The report's one-epoch diagnostic: tables of NE by id frequency, and what they say in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.evaluation.diagnostic import BUCKETS
from pipelines.reports import plots
from pipelines.reports.document import (
    EMPTY,
    Block,
    Bullets,
    Heading,
    Paragraph,
    Table,
    without_empty_columns,
)
from pipelines.reports.tables import interval_in_words
from pipelines.results.diagnostic_summary import (
    SMALLEST_RISE,
    Course,
    Effect,
    Estimate,
    FrozenTables,
    course,
    effect,
    frozen_tables,
    measured,
    overfitting,
)
from pipelines.results.summary import VariantSummary

_BY_EPOCH = (
    ("train NE", "train_ne"),
    ("train, rarely", "train_ne_rarely"),
    ("train, often", "train_ne_often"),
    ("test NE", "ne"),
    ("test, never", "ne_never"),
    ("test, rarely", "ne_rarely"),
    ("test, often", "ne_often"),
)
_EFFECTS: tuple[tuple[Effect, str], ...] = (
    ("stops it", "Stop it"),
    ("flat but worse", "Flat, but never as low as without transfer at its best"),
    ("lessens it", "Lessen it without stopping it"),
    ("deepens it", "Deepen it"),
    ("not told", "Not told apart from no transfer"),
    ("no verdict", "No verdict, for want of an interval (it takes two seeds)"),
)
_FEW_TABLES = 6
"""As many are named one by one."""


def diagnostic_section(summaries: Sequence[VariantSummary]) -> Iterator[Block]:
    """The section on the one-epoch drop, a part for each model and width.

    Args:
        summaries: every variant.

    Returns:
        Its blocks; none where no run has the training NE of two epochs.
    """
    groups: dict[tuple[str, int | None], list[VariantSummary]] = {}
    for summary in sorted(summaries, key=lambda s: s.variant.strategy != "none"):
        groups.setdefault((summary.variant.model, summary.variant.dim), []).append(summary)
    followed = {place: found for place, group in groups.items() if (found := measured(group))}
    if not followed:
        return
    yield Heading(2, "The one-epoch drop")
    for (model, dim), group in followed.items():
        courses = [course(summary) for summary in group]
        yield Heading(3, plots.title_of(model, dim))
        yield Paragraph(" ".join(_statements(model, courses)))
        yield from _effects(courses)
        yield _course_table(courses)
        yield _epoch_table(group)
        yield Paragraph(_shares(group[0]))
        yield from plots.ne_by_epoch(group)
    yield Heading(3, "How to read the diagnostic")
    yield Bullets(_HOW_TO_READ)


_HOW_TO_READ = (
    "NE is log loss over the entropy of the mean label. Training NE is that of the same rows of "
    "the training split after each epoch, scored as the test rows are.",
    "Never, rarely, often: how many training rows have the rarest of a row's ids, among features "
    "of more than 1,000 ids, the user's and the item's alike. Rarely is at most the median over "
    "the training rows. Each bucket's loss is over the entropy of the whole split's mean label, so "
    "that the buckets add up to the split: compare a bucket with itself at another epoch, not with "
    "another bucket.",
    "The best epoch is each seed's with the lowest validation NE. It is not the lowest test NE, "
    "from which any last epoch would seem a rise. The drop happens if the test NE rises from there "
    "to the last epoch and the training NE falls over the same epochs, both by at least "
    f"{SMALLEST_RISE} and with 95% intervals over seeds that leave out 0.",
    "Id overfitting takes two signs. Rare ids: the gap between test and training NE widens more on "
    "rows of rarely seen ids than on rows of often seen ones; a network that learned rows by heart "
    "without their ids would widen it on both alike. Frozen tables: with the transferred tables "
    "frozen the rise is under half of that of the same transfer with tables that train (of no "
    "transfer, where that did not run). Either can fail, and is then said to. Tables that were not "
    "transferred train on under a frozen strategy: a drop that stays may be theirs.",
    "A strategy stops the drop if no drop of its own is certain, and its rise is under a tenth of "
    "that without transfer, or under half with an interval that reaches 0; not if its test NE at "
    "the best epoch is above that without transfer. It lessens the drop if the two rises are told "
    "apart.",
    "A best epoch that is the last has shown no drop yet: a later one is not ruled out. Where "
    "tables were pretrained on the labels themselves, that epoch comes before those that are "
    "counted.",
    "To decay more slowly is not to win: strategies win or lose at their peaks, further up.",
)


def _statements(model: str, courses: Sequence[Course]) -> Iterator[str]:
    scratch = next((c for c in courses if c.variant.strategy == "none"), None)
    if scratch is None:
        yield f"{model} did not run without transfer: there is no drop to hold the others against."
        return
    yield from _drop_in_words(model, scratch)
    if scratch.drop == "yes":
        yield from _overfitting_in_words(scratch, frozen_tables(courses))


def _drop_in_words(model: str, scratch: Course) -> Iterator[str]:
    chosen = "test NE, for want of a validation split" if scratch.chose_on_test else "validation NE"
    rise, fall = _in_words(scratch.rise), _in_words(scratch.fall, -1.0)
    moves = (
        f"from its best epoch ({_epochs(scratch)}, by {chosen}) to epoch {scratch.last} the test "
        f"NE moves by {rise} and the training NE by {fall}"
    )
    match scratch.drop:
        case "yes":
            yield f"The one-epoch drop happens to {model} without transfer: {moves}."
        case "no" if scratch.rise.is_above:
            yield (
                f"The test NE of {model} without transfer rises, but not as overfitting would have "
                f"it: {moves}."
            )
        case "no":
            yield f"The one-epoch drop does not happen to {model} without transfer: {moves}."
        case "not told":
            yield (
                f"Whether the one-epoch drop happens to {model} without transfer cannot be told: "
                f"{moves}."
            )
        case "no verdict":
            yield (
                f"Whether the one-epoch drop happens to {model} takes two seeds to say. In the one "
                f"seed {moves}."
            )


def _overfitting_in_words(scratch: Course, tables: FrozenTables | None) -> Iterator[str]:
    match overfitting(scratch, tables):
        case "yes":
            yield "Id overfitting is what happens: both signs are there."
        case "likely":
            yield (
                "Id overfitting is likely what happens: the sign of rare ids is there; frozen "
                "tables neither confirm nor refute it."
            )
        case "of other tables":
            yield (
                "Ids overfit, but not those of the frozen tables: the sign of rare ids is there, "
                "and the drop stays with these tables frozen. What overfits are the ids of tables "
                "that train on."
            )
        case "in part":
            yield (
                "It is the tables that overfit, but rarely seen ids no more than often seen ones: "
                "id overfitting is shown in part."
            )
        case "no":
            yield (
                "Id overfitting is not what happens: the sign of rare ids is not there, and the "
                "drop stays with the tables frozen."
            )
        case "not shown":
            yield (
                "That it is id overfitting is not shown: the sign of rare ids is not there, nor do "
                "frozen tables say so."
            )
    if scratch.rare_gap is not None:
        yield (
            "Rare ids: the gap between test and training NE widens by "
            f"{_in_words(scratch.rare_gap)} more on rows of rarely seen ids than on those of often "
            "seen ones."
        )
    if tables is not None:
        frozen, trained = tables.frozen, tables.trained
        yield (
            f"Frozen tables: {_name(frozen)}, which froze {_tables_in_words(frozen.frozen)}, "
            f"has a rise of {_in_words(frozen.rise)}, "
            f"{frozen.rise.mean / trained.rise.mean:.0%} of the {trained.rise.mean:+.4f} of "
            f"{_name(trained)}."
        )


def _effects(courses: Sequence[Course]) -> Iterator[Block]:
    """Which strategies stop the drop, where there is one."""
    scratch = next((c for c in courses if c.variant.strategy == "none"), None)
    transferred = [c for c in courses if c.variant.strategy != "none"]
    if scratch is None or scratch.drop != "yes" or not transferred:
        return
    found = [(c, effect(c, scratch)) for c in sorted(transferred, key=lambda c: c.rise.mean)]
    lines = []
    for verdict, words in _EFFECTS:
        named = [
            f"{_name(c)} ({_in_words(c.rise)}, {c.rise.mean / scratch.rise.mean:.0%} of the rise "
            f"without transfer{', its best epoch the last' if set(c.best) == {c.last} else ''})"
            for c, of in found
            if of == verdict
        ]
        if named:
            lines.append(f"{words}: {'; '.join(named)}.")
    if not any(of == "stops it" for _, of in found):
        lines.append("No strategy stops it.")
    yield Bullets(lines)


def _course_table(courses: Sequence[Course]) -> Table:
    """From the best epoch to the last, a row a strategy."""
    columns = [
        "strategy",
        "pretrained on",
        "seeds",
        "best epoch",
        "test NE there",
        "rise to the end",
    ]
    columns += ["95% interval", "training NE falls by", "rare ids' gap more", "drop"]
    rows = [
        [
            c.variant.strategy,
            c.variant.pretrain or EMPTY,
            str(len(c.best)),
            _epochs(c),
            f"{c.lowest.mean:.4f}",
            f"{c.rise.mean:+.4f}",
            interval_in_words(c.rise.interval),
            f"{c.fall.mean:+.4f}",
            EMPTY if c.rare_gap is None else f"{c.rare_gap.mean:+.4f}",
            c.drop,
        ]
        for c in courses
    ]
    return without_empty_columns(Table(columns, rows, left=2))


def _epoch_table(summaries: Sequence[VariantSummary]) -> Table:
    """NE after each epoch, mean over seeds, by split and by how often the id was seen."""
    columns = ["strategy", "pretrained on", "epoch", *(title for title, _ in _BY_EPOCH)]
    rows = []
    for s in summaries:
        means = [s.mean_by_epoch(name) for _, name in _BY_EPOCH]
        for epoch in s.mean_by_epoch("train_ne"):
            values = [f"{of[epoch]:.4f}" if epoch in of else EMPTY for of in means]
            rows.append([s.variant.strategy, s.variant.pretrain or EMPTY, str(epoch), *values])
    return without_empty_columns(Table(columns, rows, left=2))


def _shares(summary: VariantSummary) -> str:
    """What the buckets are and how much of a split is in each."""

    def share(name: str) -> str | None:
        of = summary.spread(name)
        return None if of is None else f"{of.mean:.0%}"

    border = summary.spread("rarely_up_to")
    rarely = "" if border is None else f" Rarely is 1 to {border.mean:,.0f} times."
    splits = []
    for split, prefix in (("training", "train_"), ("test", "")):
        known = [(bucket, share(f"{prefix}share_{bucket}")) for bucket in BUCKETS]
        words = [f"{of} {bucket}" for bucket, of in known if of is not None]
        if words:
            splits.append(f"{', '.join(words)} in the {split} rows")
    seen = f" Ids seen: {'; '.join(splits)}." if splits else ""
    return f"NE after each epoch, mean over seeds.{seen}{rarely}"


def _name(of: Course) -> str:
    return ", ".join(word for word in (of.variant.strategy, of.variant.pretrain) if word)


def _epochs(of: Course) -> str:
    """The best epoch of each seed, once where they agree."""
    return str(of.best[0]) if len(set(of.best)) == 1 else ", ".join(map(str, of.best))


def _tables_in_words(names: Sequence[str]) -> str:
    if len(names) <= _FEW_TABLES:
        return ", ".join(names) or "none"
    return f"{len(names)} tables ({', '.join(names[:_FEW_TABLES])}, ...)"


def _in_words(estimate: Estimate, sign: float = 1.0) -> str:
    """The mean with its interval; `sign` -1 turns both round."""
    interval = estimate.interval
    if interval is None:
        return f"{sign * estimate.mean:+.4f}"
    ends = sorted(sign * end for end in interval)
    return f"{sign * estimate.mean:+.4f} [{ends[0]:+.4f} to {ends[1]:+.4f}]"
