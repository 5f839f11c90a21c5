"""Everything that a report is made of, read from a comparison's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from pipelines.benchmarking.cost import Cost, read_costs
from pipelines.reports.names import BASELINE_COLOR, COLORS, short_names
from pipelines.results.artifacts import RunInfo, read_run_info
from pipelines.results.resampling import Resampled, resample_runs
from pipelines.results.rows import ResultRow, Variant, read_results
from pipelines.results.summary import VariantSummary, chosen_rows, counterpart, summarize


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a comparison's folder holds, and what is made of it.

    Args:
        path: of the folder.
        info: of `run.json`.
        rows: of `results.json`.
        resampled: each run's AUC in the same draws of users.
        summaries: every variant.
        costs: of `costs.json`; empty where none were measured.
    """

    path: Path
    info: RunInfo
    rows: Sequence[ResultRow]
    resampled: Resampled
    summaries: Sequence[VariantSummary]
    costs: Mapping[str, Cost]

    @classmethod
    def read(cls, path: Path) -> Folder:
        """Reads what is there so far.

        Raises:
            ValueError: a file is damaged, or predictions do not fit the results.
        """
        return cls.of(read_results(path), path)

    @classmethod
    def of(cls, rows: Sequence[ResultRow], path: Path) -> Folder:
        """Of these rows instead of those of the folder's `results.json`."""
        info = read_run_info(path)
        resampled = resample_runs(path, chosen_rows(rows))
        summaries = summarize(rows, resampled, info.baseline_model, info.baseline_strategy)
        return cls(path, info, rows, resampled, summaries, read_costs(path))

    @cached_property
    def names(self) -> dict[Variant, str]:
        """What each variant is called where there is little room."""
        return short_names(self.summaries)

    @property
    def is_benchmark(self) -> bool:
        """Whether costs were measured, which a plain comparison does not do."""
        return bool(self.costs)

    @cached_property
    def names_in_tables(self) -> dict[Variant, str] | None:
        """The same for a benchmark's tables; None where a table has room for all words."""
        return self.names if self.is_benchmark else None

    @cached_property
    def ranked(self) -> list[VariantSummary]:
        """Every variant, the highest test AUC first."""
        return sorted(self.summaries, key=lambda s: -np.mean([row.auc for row in s.chosen]))

    @property
    def in_order(self) -> Sequence[VariantSummary]:
        """Every variant as tables have them: a benchmark's by rank, others as they came."""
        return self.ranked if self.is_benchmark else self.summaries

    @cached_property
    def colors(self) -> dict[Variant, str]:
        """The colours of the variants that a figure has room for: the baseline, the best others."""
        trained = [s for s in self.ranked if s.is_trained]
        others = [s.variant for s in trained if not self.is_baseline(s)]
        baselines = [s.variant for s in trained if self.is_baseline(s)]
        return {
            **dict(zip(others, COLORS, strict=False)),
            **dict.fromkeys(baselines, BASELINE_COLOR),
        }

    def is_baseline(self, summary: VariantSummary) -> bool:
        """Whether the others are compared with it."""
        return summary.is_of(self.info.baseline_model, self.info.baseline_strategy)

    def baseline_of(self, summary: VariantSummary) -> VariantSummary | None:
        """The one that it is compared with."""
        by_variant = {s.variant: s for s in self.summaries}
        model, strategy = self.info.baseline_model, self.info.baseline_strategy
        other = counterpart(summary.variant, by_variant, model, strategy)
        return None if other is None else by_variant[other]

    def cost_of(self, summary: VariantSummary) -> Cost | None:
        """What its model costs, alike for all strategies; None where nobody measured it."""
        model, dim = summary.variant.model, summary.variant.dim
        return self.costs.get(f"{model}.d{dim}" if dim else model)
