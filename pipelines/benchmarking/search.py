"""Tunes every variant by the same few trials, judged on the validation split alone.

`search.json` keeps each trial as soon as it is done: {"words", "epochs", "seeds", "space":
[{"tables", "dense"}, ...], "trials": {variant: [{"settings", "validation_auc", "seconds"}, ...]},
"winners": {variant: index}}. A variant is named "gpsd", or "gpsd, sparse-freeze" where it starts
from pretrained weights.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines.configuration.config import build, merged, to_plain
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.configuration.variants import lay_over
from pipelines.pretrain import Pretrained
from pipelines.results.plan import Run
from pipelines.results.rows import write_atomically
from pipelines.stages.ranking_run import start_ranking
from pipelines.stages.transferring import FirstWeights
from torchrec_gr.data.log_source import TRAIN, VALIDATION
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.metrics import auc
from torchrec_gr.training.limit import Limit

SEARCH_FILE = "search.json"


@dataclasses.dataclass(frozen=True)
class Trial:
    """What one trial of one variant came to.

    Args:
        settings: that it set, nested and plain.
        validation_auc: by which the winner is chosen.
        seconds: of training.
    """

    settings: Mapping[str, Any]
    validation_auc: float
    seconds: float


Try = Callable[[str, tuple[float, float]], Trial]
"""Carries out the trial of a variant with a pair of factors."""


def tune(
    log: PreparedLog,
    settings: Settings,
    out: Path,
    device: torch.device,
    runs: Sequence[Run],
    pretrained: Callable[[Run], Pretrained],
) -> dict[str, Settings]:
    """Finds each variant's learning rates; trials that `search.json` has are not repeated.

    A trial trains as the variant's runs do, for the epochs that the search gives it, and is judged
    by its best validation AUC. Of several widths the first is searched. With a single trial, or
    without a validation split, the settings stay as they are.

    Args:
        log: the impressions.
        settings: with the search.
        out: the benchmark's folder.
        device: where to train.
        runs: whose rates.
        pretrained: carries out the pretraining that a run starts from, or finds it.

    Returns:
        By `Run.variant_name`, the settings that won.
    """
    if VALIDATION not in log.splits or len(settings.search.trials) == 1:
        return {}
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(run.variant_name, run)

    def train(variant: str, factors: tuple[float, float]) -> Trial:
        changed = _scaled(settings, first[variant].model, factors)
        laid = lay(settings, first[variant].model, changed)
        ends = []
        for seed in range(settings.search.seeds):
            run = dataclasses.replace(first[variant], seed=seed)
            ends.append(_try(log, laid, run, pretrained(run) if run.pretrain else None, device))
        reached, seconds = zip(*ends, strict=True)
        return Trial(changed, sum(reached) / len(reached), sum(seconds))

    best = search(settings, out, list(first), train)
    return {v: lay(settings, first[v].model, trial.settings) for v, trial in best.items()}


def _try(
    log: PreparedLog,
    settings: Settings,
    run: Run,
    pretrained: Pretrained | None,
    device: torch.device,
) -> tuple[float, float]:
    """The best validation AUC after any of the search's epochs, and the seconds of all."""
    epochs = settings.search.epochs
    started = start_ranking(
        log,
        settings,
        None,
        model=run.model,
        dim=run.dim,
        seed=run.seed,
        device=device,
        first=FirstWeights(run.strategy, pretrained.run_dir if pretrained else None),
        limit=Limit(examples=epochs * log.num_rows(TRAIN)),
    )
    held_out = started.to_score(VALIDATION)
    best = seconds = 0.0
    for _ in range(math.ceil(epochs)):
        seconds += started.trainer.train_epoch().seconds
        scored = started.trainer.evaluate(held_out)
        best = max(best, auc(scored.labels[:, 0], scored.logits[:, 0]))
        if started.trainer.exhausted:
            break
    return best, seconds


def search(
    settings: Settings, out: Path, variants: Sequence[str], attempt: Try
) -> dict[str, Trial]:
    """Carries out the trials that are not there yet, and keeps them.

    Args:
        settings: with the search.
        out: the benchmark's folder.
        variants: whose.
        attempt: carries one out.

    Returns:
        By variant, the trial with the highest validation AUC, the earliest of equals.
    """
    best = {}
    for variant in variants:
        trials = read_trials(out, settings).get(variant, [])
        for factors in settings.search.trials[len(trials) :]:
            trials.append(attempt(variant, factors))
            if dist.get_rank() == 0:
                print(
                    f"search: {variant}, factors {factors[0]:g} and {factors[1]:g}: validation AUC "
                    f"{trials[-1].validation_auc:.4f}, {trials[-1].seconds:.0f} s",
                    flush=True,
                )
                _write(out, settings, {**read_trials(out, settings), variant: trials})
        best[variant] = max(trials, key=lambda trial: trial.validation_auc)
    return best


def lay(settings: Settings, model: str, values: Mapping[str, Any]) -> Settings:
    """The settings with these in their place for a model, in its variant where it has one."""
    variant = parse_model(model, settings.variants).variant
    if variant is None:
        return build(Settings, values, base=settings)
    own = merged(settings.variants[variant], values)
    return dataclasses.replace(settings, variants={**settings.variants, variant: own})


def read_trials(out: Path, settings: Settings) -> dict[str, list[Trial]]:
    """The trials of every variant so far.

    Raises:
        ValueError: the file is damaged, or of another search.
    """
    path = out / SEARCH_FILE
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        same = all(values[name] == value for name, value in _terms(settings).items())
        trials = {
            variant: [Trial(**trial) for trial in of_variant]
            for variant, of_variant in values["trials"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and search again") from error
    if not same:
        raise ValueError(f"{path} is of a search with other trials: choose another --out")
    return trials


def _write(out: Path, settings: Settings, trials: Mapping[str, Sequence[Trial]]) -> None:
    winners = {
        model: max(range(len(of_model)), key=lambda i: of_model[i].validation_auc)
        for model, of_model in trials.items()
        if of_model
    }
    values = {
        "words": (
            f"Every variant was tried with the same {len(settings.search.trials)} pairs of "
            "factors of the learning rates of its tables and of its dense parts, for "
            f"{settings.search.epochs:g} epochs of the training rows; the highest AUC on the "
            "validation split after an epoch or at the end, mean over seeds "
            f"({settings.search.seeds}), won. No test row had a say."
        ),
        **_terms(settings),
        "trials": {m: [dataclasses.asdict(t) for t in of] for m, of in trials.items()},
        "winners": winners,
    }
    write_atomically(out / SEARCH_FILE, f"{json.dumps(to_plain(values), indent=1)}\n".encode())


def _terms(settings: Settings) -> dict[str, Any]:
    """What all trials of a file have in common."""
    search = settings.search
    space = [{"tables": tables, "dense": dense} for tables, dense in search.trials]
    return {"space": space, "epochs": search.epochs, "seeds": search.seeds}


def _scaled(settings: Settings, model: str, factors: tuple[float, float]) -> dict[str, Any]:
    """The rates of a model's stage times the factors."""
    name = parse_model(model, settings.variants)
    stage = getattr(lay_over(settings, name.variant), name.stage)
    rates = zip(("tables", "dense"), (stage.tables.lr, stage.dense.lr), factors, strict=True)
    return {name.stage: {part: {"lr": rate * factor} for part, rate, factor in rates}}
