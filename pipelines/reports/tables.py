"""A comparison's tables, and how its numbers become words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from pipelines.evaluation import cold_rows, diagnostic
from pipelines.reports.document import EMPTY, Table, without_empty_columns
from pipelines.results.artifacts import RunInfo
from pipelines.results.rows import Variant
from pipelines.results.summary import Difference, Interval, Spread, VariantSummary

_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
Names: TypeAlias = Mapping[Variant, str] | None
"""What each variant is called; None spells out all that tells it from others."""

_IDENTITY = ("model", "strategy", "dim", "pretrained on")


def result_table(summaries: Sequence[VariantSummary], info: RunInfo) -> Table:
    """Everything of the chosen epochs: quality, difference to the baseline, cost."""
    name = baseline_name(info)
    columns = ["seeds", "AUC", f"less {name} [95%]", "verdict", "GAUC", "NE"]
    columns += ["log loss", "calibration", "epoch", "train s", "of it pretraining", "examples/s"]
    columns += ["parameters", "of them in tables"]

    def cells(s: VariantSummary) -> list[str]:
        return [
            str(len(s.chosen)),
            spread_in_words(s.spread("auc")),
            EMPTY if s.baseline is None else difference_in_words(s.baseline),
            _verdict(s, info),
            *(spread_in_words(s.spread(metric)) for metric in ("gauc", "ne", "log_loss")),
            _mean(s, "calibration", 3),
            _epochs(s),
            *_costs(s),
            count_in_words(s.chosen[-1].parameters),
            count_in_words(s.chosen[-1].parameters_embedding),
        ]

    return _table(columns, summaries, cells)


def quality_table(summaries: Sequence[VariantSummary], info: RunInfo, names: Names) -> Table:
    """A benchmark's results at the chosen epochs; costs have a table of their own."""
    columns = ["AUC", f"less {baseline_name(info)} [95%]", "verdict", "GAUC", "NE", "log loss"]
    columns += ["calibration", "epoch", "seeds"]

    def cells(s: VariantSummary) -> list[str]:
        return [
            spread_in_words(s.spread("auc")),
            EMPTY if s.baseline is None else difference_in_words(s.baseline),
            _verdict(s, info),
            *(spread_in_words(s.spread(metric)) for metric in ("gauc", "ne", "log_loss")),
            _mean(s, "calibration", 3),
            _epochs(s),
            str(len(s.chosen)),
        ]

    return _table(columns, summaries, cells, names)


def terminal_table(summaries: Sequence[VariantSummary], info: RunInfo) -> Table:
    """The columns that a terminal has room for."""
    columns = ["AUC", f"less {baseline_name(info)} [95%]", "verdict", "GAUC", "NE"]
    columns += ["epoch", "train s", "pretrain s", "ex/s", "params"]

    def cells(s: VariantSummary) -> list[str]:
        return [
            spread_in_words(s.spread("auc")),
            EMPTY if s.baseline is None else difference_in_words(s.baseline),
            _verdict(s, info),
            _mean(s, "gauc", 4),
            _mean(s, "ne", 4),
            _epochs(s),
            *_costs(s),
            count_in_words(s.chosen[-1].parameters),
        ]

    return _table(columns, summaries, cells)


def difference_table(
    compared: Sequence[tuple[VariantSummary, Difference]], other: str, names: Names = None
) -> Table:
    """Differences of AUC to `other` with the intervals that they are judged by."""
    columns = [f"AUC less {other}", "95% interval", "from seeds alone"]
    columns += ["from test users alone", "verdict"]
    by_variant = {summary.variant: difference for summary, difference in compared}

    def cells(s: VariantSummary) -> list[str]:
        of = by_variant[s.variant]
        intervals = (interval_in_words(i) for i in (of.interval, of.seeds, of.users))
        return [f"{of.value:+.4f}", *intervals, of.verdict]

    return _table(columns, [summary for summary, _ in compared], cells, names)


def group_table(summaries: Sequence[VariantSummary], info: RunInfo, names: Names = None) -> Table:
    """The quality on some of the test rows."""
    columns = ["AUC", f"less {baseline_name(info)} [95%]", "verdict", "NE"]

    def cells(s: VariantSummary) -> list[str]:
        return [
            spread_in_words(s.spread("auc")),
            EMPTY if s.baseline is None else difference_in_words(s.baseline),
            _verdict(s, info),
            spread_in_words(s.spread("ne")),
        ]

    return _table(columns, summaries, cells, names)


def epoch_table(trained: Sequence[VariantSummary], names: Names = None) -> Table:
    """Test AUC after each epoch, mean over seeds, and the epoch each seed is judged by."""
    epochs = sorted({row.epoch for s in trained for row in s.rows})

    def cells(s: VariantSummary) -> list[str]:
        means = s.mean_by_epoch("auc")
        return [f"{means[e]:.4f}" if e in means else EMPTY for e in epochs] + [_epochs(s)]

    return _table([*map(str, epochs), "chosen"], trained, cells, names)


def strategy_table(group: Sequence[VariantSummary]) -> Table:
    """One model's strategies: the peak, what it is worth against none, every epoch, the cost."""
    epochs = sorted({row.epoch for s in group for row in s.rows})
    columns = ["strategy", "pretrained on", "seeds", "AUC", "less none [95%]", "verdict"]
    columns += ["validation AUC", "chosen epoch", *(f"after {epoch}" for epoch in epochs)]
    columns += ["train s", "of it pretraining"]

    def cells(s: VariantSummary) -> Iterator[str]:
        means = s.mean_by_epoch("auc")
        yield s.variant.strategy
        yield s.variant.pretrain or EMPTY
        yield str(len(s.chosen))
        yield spread_in_words(s.spread("auc"))
        yield EMPTY if s.scratch is None else difference_in_words(s.scratch)
        yield EMPTY if s.scratch is None else s.scratch.verdict
        yield _mean(s, "validation_auc", 4)
        yield _epochs(s)
        yield from (f"{means[e]:.4f}" if e in means else EMPTY for e in epochs)
        yield from _costs(s)[:2]

    rows = [list(cells(s)) for s in group]
    return without_empty_columns(Table(columns, rows, left=2))


def further_metrics_table(summaries: Sequence[VariantSummary], names: Names = None) -> Table | None:
    """Metrics that no field of a row and no section of its own has; None where there are none."""
    found = dict.fromkeys(name for s in summaries for row in s.chosen for name in row.metrics)
    metrics = [name for name in found if name not in diagnostic.METRICS | cold_rows.METRICS]
    if not metrics:
        return None
    return _table(
        metrics,
        summaries,
        lambda s: [spread_in_words(s.spread(name)) for name in metrics],
    )


def settings_table(values: Mapping[str, Any]) -> Table:
    """Nested settings, one dotted name a row."""
    return Table(("name", "value"), list(flat_settings(values)), left=2)


def flat_settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and values in words."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat_settings(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(map(str, value)) or EMPTY
        else:
            yield f"{prefix}{name}", EMPTY if value is None else str(value)


def baseline_name(info: RunInfo) -> str:
    """The baseline in words: a strategy of none goes without saying."""
    strategy = "" if info.baseline_strategy == "none" else f", {info.baseline_strategy}"
    return f"{info.baseline_model}{strategy}"


def spread_in_words(spread: Spread | None) -> str:
    """Mean ± standard deviation."""
    if spread is None:
        return EMPTY
    deviation = "" if spread.deviation is None else f" ± {spread.deviation:.4f}"
    return f"{spread.mean:.4f}{deviation}"


def difference_in_words(difference: Difference) -> str:
    """The difference with the interval that it is judged by."""
    interval = difference.interval
    words = "" if interval is None else f" [{interval_in_words(interval)}]"
    return f"{difference.value:+.4f}{words}"


def interval_in_words(interval: Interval | None) -> str:
    """Both ends, signed."""
    return EMPTY if interval is None else f"{interval.low:+.4f} to {interval.high:+.4f}"


def seconds_in_words(seconds: float) -> str:
    """Seconds to the precision that says something."""
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:,.0f}"


def ms_in_words(milliseconds: float) -> str:
    """Milliseconds to the precision that says something."""
    digits = 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:,.{digits}f}"


def count_in_words(number: float | None) -> str:
    """A large number in three digits and a unit."""
    if number is None:
        return EMPTY
    for size, unit in _UNITS:
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


def _table(
    columns: Sequence[str],
    summaries: Sequence[VariantSummary],
    cells: Callable[[VariantSummary], list[str]],
    names: Names = None,
) -> Table:
    """A row a variant, its name or all that it is first; what no row has is left out."""

    def first(s: VariantSummary) -> list[str]:
        words = s.variant if names is None else (names[s.variant],)
        return [EMPTY if word is None else str(word) for word in words]

    identity = _IDENTITY if names is None else _IDENTITY[:1]
    rows = [[*first(s), *cells(s)] for s in summaries]
    return without_empty_columns(Table([*identity, *columns], rows, left=len(identity)))


def _verdict(summary: VariantSummary, info: RunInfo) -> str:
    if summary.is_of(info.baseline_model, info.baseline_strategy):
        return "baseline"
    return EMPTY if summary.baseline is None else summary.baseline.verdict


def _mean(summary: VariantSummary, name: str, digits: int) -> str:
    spread = summary.spread(name)
    return EMPTY if spread is None else f"{spread.mean:.{digits}f}"


def _epochs(summary: VariantSummary) -> str:
    """The epoch each seed is judged by, once where they agree."""
    if not summary.is_trained:
        return EMPTY
    epochs = [row.epoch for row in summary.chosen]
    return str(epochs[0]) if len(set(epochs)) == 1 else ", ".join(map(str, epochs))


def _costs(summary: VariantSummary) -> list[str]:
    """Training seconds, those of pretraining, examples a second: nothing for what is untrained."""
    if not summary.is_trained:
        return [EMPTY] * 3
    total, pretraining = summary.spread("train_seconds"), summary.spread("pretrain_seconds")
    speed = summary.spread("examples_per_second")
    return [
        EMPTY if total is None else seconds_in_words(total.mean),
        EMPTY
        if pretraining is None or not pretraining.mean
        else seconds_in_words(pretraining.mean),
        EMPTY if speed is None else f"{speed.mean:,.0f}",
    ]
