"""Tunes every model by the same few trials, judged on the validation split alone.

`search.json` keeps each trial as soon as it is done: {"words", "share", "seeds", "space":
[{"tables", "dense"}, ...], "trials": {model: [{"settings", "validation_auc", "seconds"}, ...]},
"winners": {model: index}}.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines.configuration.config import build, merged, to_plain
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.configuration.variants import lay_over
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
    """What one trial of one model came to.

    Args:
        settings: that it set, nested and plain.
        validation_auc: by which the winner is chosen.
        seconds: of training.
    """

    settings: Mapping[str, Any]
    validation_auc: float
    seconds: float


Try = Callable[[str, tuple[float, float]], Trial]
"""Carries out the trial of a model with a pair of factors."""


def tune(
    log: PreparedLog, settings: Settings, out: Path, device: torch.device, models: Sequence[str]
) -> dict[str, Settings]:
    """Finds each model's learning rates; trials that `search.json` has are not repeated.

    Every model trains from scratch on the same share of one epoch and is scored on the validation
    split. With a single trial, or without a validation split, the settings stay as they are.

    Args:
        log: the impressions.
        settings: with the search.
        out: the benchmark's folder.
        device: where to train.
        models: names as `parse_model` takes them.

    Returns:
        By model, the settings that it won with.
    """
    if VALIDATION not in log.splits or len(settings.search.trials) == 1:
        return {}

    def train(model: str, factors: tuple[float, float]) -> Trial:
        changed = _scaled(settings, model, factors)
        ends = [
            _try(log, lay(settings, model, changed), model, seed, device)
            for seed in range(settings.search.seeds)
        ]
        reached, seconds = zip(*ends, strict=True)
        return Trial(changed, sum(reached) / len(reached), sum(seconds))

    best = search(settings, out, models, train)
    return {model: lay(settings, model, trial.settings) for model, trial in best.items()}


def _try(
    log: PreparedLog, settings: Settings, model: str, seed: int, device: torch.device
) -> tuple[float, float]:
    """The validation AUC after the search's share of an epoch, and the seconds that it took."""
    run = start_ranking(
        log,
        settings,
        None,
        model=model,
        dim=settings.dims[0],
        seed=seed,
        device=device,
        first=FirstWeights(),
        limit=Limit(examples=settings.search.share * log.num_rows(TRAIN)),
    )
    progress = run.trainer.train_epoch()
    scored = run.trainer.evaluate(run.to_score(VALIDATION))
    return auc(scored.labels[:, 0], scored.logits[:, 0]), progress.seconds


def search(settings: Settings, out: Path, models: Sequence[str], attempt: Try) -> dict[str, Trial]:
    """Carries out the trials that are not there yet, and keeps them.

    Args:
        settings: with the search.
        out: the benchmark's folder.
        models: whose.
        attempt: carries one out.

    Returns:
        By model, the trial with the highest validation AUC, the earliest of equals.
    """
    best = {}
    for model in models:
        trials = read_trials(out, settings).get(model, [])
        for factors in settings.search.trials[len(trials) :]:
            trials.append(attempt(model, factors))
            if dist.get_rank() == 0:
                print(
                    f"search: {model}, factors {factors[0]:g} and {factors[1]:g}: validation AUC "
                    f"{trials[-1].validation_auc:.4f}, {trials[-1].seconds:.0f} s",
                    flush=True,
                )
                _write(out, settings, {**read_trials(out, settings), model: trials})
        best[model] = max(trials, key=lambda trial: trial.validation_auc)
    return best


def lay(settings: Settings, model: str, values: Mapping[str, Any]) -> Settings:
    """The settings with these in their place for a model, in its variant where it has one."""
    variant = parse_model(model, settings.variants).variant
    if variant is None:
        return build(Settings, values, base=settings)
    own = merged(settings.variants[variant], values)
    return dataclasses.replace(settings, variants={**settings.variants, variant: own})


def read_trials(out: Path, settings: Settings) -> dict[str, list[Trial]]:
    """The trials of every model so far.

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
            model: [Trial(**trial) for trial in of_model]
            for model, of_model in values["trials"].items()
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
            f"Every model was tried with the same {len(settings.search.trials)} pairs of factors "
            "of the learning rates of its tables and of its dense parts, from scratch, on "
            f"{settings.search.share:.0%} of one epoch of the training rows; the highest AUC on "
            f"the validation split, mean over {settings.search.seeds} seeds, won. The test rows "
            "were not read."
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
    return {"space": space, "share": search.share, "seeds": search.seeds}


def _scaled(settings: Settings, model: str, factors: tuple[float, float]) -> dict[str, Any]:
    """The rates of a model's stage times the factors."""
    name = parse_model(model, settings.variants)
    stage = getattr(lay_over(settings, name.variant), name.stage)
    rates = zip(("tables", "dense"), (stage.tables.lr, stage.dense.lr), factors, strict=True)
    return {name.stage: {part: {"lr": rate * factor} for part, rate, factor in rates}}
