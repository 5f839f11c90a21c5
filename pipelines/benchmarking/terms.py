"""What each model of a comparison runs under: its settings, its limits, what its steps cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.benchmarking.cost import Cost
from pipelines.configuration.settings import Settings
from pipelines.pretrain import Pretrained
from pipelines.results.plan import Run
from torchrec_gr.training.limit import Limit


@dataclasses.dataclass(frozen=True)
class Terms:
    """What each model runs under.

    Args:
        settings: of the comparison.
        tuned: by `Run.variant_name`, settings of its own.
        costs: by `cost_name`, what a model's steps cost; needed for a budget of FLOPs.
    """

    settings: Settings
    tuned: Mapping[str, Settings] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, Cost] = dataclasses.field(default_factory=dict)

    def settings_of(self, run: Run) -> Settings:
        """The settings that a run's ranker trains under, to be laid over by its variant's."""
        return self.tuned.get(run.variant_name, self.settings)

    def pretraining_limit(self, run: Run) -> Limit | None:
        """What pretraining may take of the budget, before a run's ranker."""
        budget = self.settings.budget
        if budget is None or budget.kind == "parameters":
            return None
        most = budget.value * budget.pretraining_share
        if budget.kind == "seconds":
            return Limit(seconds=most)
        return Limit(examples=most / _pretrain_flops(self.costs[cost_name(run)]))

    def ranking_limit(self, run: Run, pretrained: Pretrained | None) -> Limit | None:
        """What is left of the budget for a run's ranker."""
        budget = self.settings.budget
        if budget is None or budget.kind == "parameters":
            return None
        if budget.kind == "seconds":
            spent = pretrained.seconds if pretrained else 0.0
            return Limit(seconds=max(budget.value - spent, _LEAST * budget.value))
        left = budget.value - (self.pretrain_flops(run, pretrained) or 0.0)
        cost = _train_flops(self.costs[cost_name(run)])
        return Limit(examples=max(left, _LEAST * budget.value) / cost)

    def pretrain_flops(self, run: Run, pretrained: Pretrained | None) -> float | None:
        """FLOPs that a run's pretraining took; None where nobody counted them."""
        cost = self.costs.get(cost_name(run))
        if pretrained is None or cost is None:
            return None
        return pretrained.num_examples * _pretrain_flops(cost)

    def train_flops(
        self, run: Run, num_examples: int, pretrained: Pretrained | None
    ) -> float | None:
        """FLOPs that a run took after so many examples, pretraining counted."""
        cost = self.costs.get(cost_name(run))
        if cost is None:
            return None
        return num_examples * _train_flops(cost) + (self.pretrain_flops(run, pretrained) or 0.0)


_LEAST = 1e-9
"""Of the budget: a limit must be above 0 where pretraining overran its share by a step."""


def _train_flops(cost: Cost) -> float:
    assert cost.train_flops is not None, "networks have them"
    return cost.train_flops


def _pretrain_flops(cost: Cost) -> float:
    """Of a sequence; of an example where a model pretrains itself on labels."""
    return cost.pretrain_flops or _train_flops(cost)


def cost_name(run: Run) -> str:
    """Under which name what a run's model costs is kept: alike for all strategies and seeds."""
    return f"{run.model.replace(':', '.')}.d{run.dim}"
