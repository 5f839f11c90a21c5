"""What a comparison runs: all models under all strategies, and what each is pretrained by."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Final, Literal, get_args

from pipelines.configuration.config import to_plain
from pipelines.configuration.model_name import ModelName, parse_model
from pipelines.configuration.settings import PretrainUsers, Settings
from pipelines.configuration.variants import lay_over
from pipelines.results.rows import RunKey, Variant
from pipelines.stages.pretrainers import pretraining_settings
from torchrec_gr.schema.feature_schema import nearest_valid
from torchrec_gr.training.strategy import STRATEGIES, Strategy, moves_dense

PretrainedOn = Literal["all", "training", "labels"]

LABELS: Final = "labels"
"""What a model pretrains itself on where no user has a history."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One ranker to train.

    Args:
        model: as `parse_model` takes it.
        strategy: how pretrained weights come in.
        dim: width of tables and transformer.
        seed: of weights and order, in both stages.
        pretrain: whose histories pretraining reads, or LABELS; None without pretraining.
    """

    model: str
    strategy: Strategy
    dim: int
    seed: int
    pretrain: PretrainedOn | None

    @property
    def variant_name(self) -> str:
        """Its model, and its strategy where it starts from pretrained weights."""
        return self.model if self.strategy == "none" else f"{self.model}, {self.strategy}"

    @property
    def key(self) -> RunKey:
        """Its name in the results."""
        words = f"{self.pretrain} users" if self.pretrain in get_args(PretrainUsers) else None
        model = self.model.replace(":", ".")
        variant = Variant(model, self.strategy, self.dim, words or self.pretrain)
        return RunKey(variant, self.seed)


def plan(settings: Settings, *, has_histories: bool) -> list[Run]:
    """Every run that the settings ask for, a seed at a time, the baseline first.

    A model without a transformer or a module takes tables alone that were pretrained on histories:
    "full" and "frozen" are no strategies of its. Where the log has no histories, a model pretrains
    itself, one epoch on labels.

    Raises:
        ValueError: an unknown model, variant or strategy, or a module where there are no histories
            to read.
    """
    for model, strategies in settings.strategies_of.items():
        for strategy in strategies:
            if strategy not in STRATEGIES:
                raise ValueError(
                    nearest_valid(f"strategy in strategies_of.{model}", strategy, STRATEGIES)
                )
    sources: tuple[PretrainedOn, ...] = settings.pretrain_users if has_histories else (LABELS,)
    models = [settings.baseline] if settings.baseline else []
    models += [m for m in settings.models if not (settings.baseline and m == "dlrm")]
    names = {model: parse_model(model, settings.variants) for model in models}
    for model, name in names.items():
        if name.module is not None and not has_histories:
            raise ValueError(f"model {model!r} reads histories: this log has none")
    return [
        Run(model, strategy, dim, seed, pretrain)
        for seed in range(settings.seeds)
        for dim in settings.dims
        for model, name in names.items()
        for strategy in settings.strategies_of.get(model, settings.strategies)
        for pretrain in (sources if strategy != "none" else (None,))
        if name.has_transferable_dense or pretrain == LABELS or not moves_dense(strategy)
    ]


def pretraining_name(run: Run, model: ModelName, settings: Settings) -> str:
    """The folder of the pretraining that a run starts from.

    Variants whose pretraining is the same share it; another one has a folder of its own, named by a
    digest of its settings.
    """
    stage = "pretrain" if model.pretrains == "gpsd" else model.pretrains
    name = f"{stage}.{run.pretrain}.d{run.dim}.s{run.seed}"
    own = pretraining_settings(model.pretrains, lay_over(settings, model.variant))
    if own == pretraining_settings(model.pretrains, settings):
        return name
    digest = hashlib.sha256(json.dumps(to_plain(own), sort_keys=True).encode()).hexdigest()
    return f"{name}.{digest[:8]}"
