"""How wide a model may be within a number of parameters."""

from __future__ import annotations

from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.configuration.variants import lay_over
from pipelines.stages.open_log import as_read
from pipelines.stages.rankers import build_ranker
from pipelines.stages.ranking_run import RankerFacts
from pipelines.stages.transferring import FirstWeights
from torchrec_gr.data.prepared_log import PreparedLog

_STEP, _MOST = 8, 128
"""Widths that are tried, in multiples that any number of heads up to eight divides."""


def widest(log: PreparedLog, settings: Settings, model: str, num_parameters: float) -> int:
    """The widest tables that a model can have with so many parameters, tables and dense together.

    Args:
        log: whose vocabularies decide the tables' rows.
        settings: that the model runs under.
        model: as `parse_model` takes it.
        num_parameters: at most.

    Raises:
        ValueError: not even the narrowest fits.
    """
    low, high = 0, _MOST // _STEP
    while low < high:
        middle = (low + high + 1) // 2
        if _count(log, settings, model, middle * _STEP) <= num_parameters:
            low = middle
        else:
            high = middle - 1
    if low == 0:
        raise ValueError(
            f"model {model!r} has {_count(log, settings, model, _STEP):,} parameters at width "
            f"{_STEP}, more than the budget of {num_parameters:,.0f}: raise the budget, or leave "
            "the model out"
        )
    return low * _STEP


def _count(log: PreparedLog, settings: Settings, model: str, dim: int) -> int:
    name = parse_model(model, settings.variants)
    settings = lay_over(settings, name.variant)
    ranker = build_ranker(name, as_read(log, settings), settings, dim, 0, FirstWeights())
    facts = RankerFacts.of(ranker.module)
    return facts.num_embedding + facts.num_dense
