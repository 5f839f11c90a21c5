"""What a report calls each variant where there is little room, and colours for figures."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.results.rows import Variant
from pipelines.results.summary import VariantSummary

BASELINE_COLOR = "#1c2127"
COLORS = (
    "#0072b2",
    "#d55e00",
    "#00866a",
    "#b0578f",
    "#332288",
    "#b37400",
    "#882255",
    "#2a93c4",
    "#994f00",
    "#117733",
    "#7a7a1f",
    "#6a51a3",
)


def short_names(summaries: Sequence[VariantSummary]) -> dict[Variant, str]:
    """The model, and whatever else it takes to tell the variants apart."""
    variants = [s.variant for s in summaries]
    several_dims = len({v.dim for v in variants if v.dim}) > 1
    several_sources = len({v.pretrain for v in variants if v.pretrain}) > 1
    names = {}
    for variant in variants:
        words = [variant.model]
        words += [variant.strategy] if variant.strategy != "none" else []
        words += [f"dim {variant.dim}"] if variant.dim and several_dims else []
        words += [variant.pretrain] if variant.pretrain and several_sources else []
        names[variant] = ", ".join(words)
    return names if len(set(names.values())) == len(names) else {v: str(v) for v in variants}
