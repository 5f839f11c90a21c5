"""What each run may spend of a budget, pretraining counted, and how wide models may be."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.benchmarking.terms import Terms
from pipelines.benchmarking.width import widest
from pipelines.configuration.benchmark_settings import Budget, BudgetKind
from pipelines.configuration.config import build, read_config
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.pretrain import Pretrained
from pipelines.results.plan import Run
from pipelines.stages.open_log import open_log
from pipelines.stages.rankers import build_ranker
from pipelines.stages.transferring import FirstWeights
from tests.pipelines.clicks import write_clicks
from torchrec_gr.training.limit import Limit
from torchrec_gr.training.process_group import process_group

RUN = Run("gpsd", "sparse-freeze", 8, 0, "all")
PRETRAINED = Pretrained(Path("pretrain"), seconds=20.0, num_examples=100)
COSTS: dict[str, Any] = {"gpsd.d8": SimpleNamespace(train_flops=10.0, pretrain_flops=40.0)}


def terms(kind: BudgetKind | None, value: float = 0.0) -> Terms:
    budget = None if kind is None else Budget(kind, value)
    return Terms(dataclasses.replace(Settings(), budget=budget), costs=COSTS)


def test_without_a_budget_nothing_ends_a_run() -> None:
    for free in (terms(None), terms("parameters", 1e6)):
        assert free.pretraining_limit(RUN) is None
        assert free.ranking_limit(RUN, PRETRAINED) is None


def test_seconds_are_shared_by_pretraining_and_ranking() -> None:
    budget = terms("seconds", 60.0)
    assert budget.pretraining_limit(RUN) == Limit(seconds=30.0)
    assert budget.ranking_limit(RUN, PRETRAINED) == Limit(seconds=40.0)
    assert budget.ranking_limit(RUN, None) == Limit(seconds=60.0)


def test_flops_become_examples() -> None:
    budget = terms("flops", 10_000.0)
    assert budget.pretraining_limit(RUN) == Limit(examples=5_000 / 40)
    assert budget.ranking_limit(RUN, PRETRAINED) == Limit(examples=(10_000 - 100 * 40) / 10)
    assert budget.train_flops(RUN, 600, PRETRAINED) == 600 * 10 + 100 * 40
    assert budget.train_flops(RUN, 600, None) == 600 * 10
    assert Terms(Settings()).train_flops(RUN, 600, None) is None


def test_a_pretraining_that_overran_leaves_a_step_to_the_ranker() -> None:
    late = dataclasses.replace(PRETRAINED, seconds=70.0)
    limit = terms("seconds", 60.0).ranking_limit(RUN, late)
    assert limit is not None
    assert limit.share(seconds=1e-3, num_examples=1) > 1


@pytest.mark.parametrize(("kind", "value"), [("seconds", 0.0), ("flops", -1.0)])
def test_an_empty_budget_is_refused(kind: BudgetKind, value: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Budget(kind, value)


def test_a_model_is_as_wide_as_its_parameters_let_it(tmp_path: Path) -> None:
    settings = build(Settings, read_config(write_clicks(tmp_path, {})))
    with process_group("cpu"):
        log = open_log(settings, tmp_path / "data")

        def count(dim: int) -> int:
            ranker = build_ranker(parse_model("dlrm"), log, settings, dim, 0, FirstWeights())
            return sum(parameter.numel() for parameter in ranker.module.parameters())

        assert widest(log, settings, "dlrm", count(24)) == 24
        assert widest(log, settings, "dlrm", count(24) - 1) == 16
        with pytest.raises(ValueError, match="more than the budget"):
            widest(log, settings, "dlrm", count(8) - 1)
