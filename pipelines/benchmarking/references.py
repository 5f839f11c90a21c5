"""What is scored without a network beside popularity: mean labels, gradient-boosted trees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipelines.baselines.boosted_trees import TreeSettings, require_lightgbm, train_trees
from pipelines.baselines.means import require_ids, score_means
from pipelines.baselines.scored import Scored
from pipelines.benchmarking.cost import read_costs, write_cost
from pipelines.benchmarking.measuring_trees import measure_trees
from pipelines.benchmarking.search import Trial, search
from pipelines.configuration.benchmark_settings import Reference
from pipelines.configuration.settings import Settings
from pipelines.evaluation.split_metrics import measure, of_further_test_sets
from pipelines.results.artifacts import Predictions, save_predictions
from pipelines.results.rows import ResultRow, RunKey, Variant, append_results, read_results
from torchrec_gr.data.log_source import TEST, VALIDATION
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.metrics import auc

TREES: Reference = "gbdt"


def score_references(log: PreparedLog, settings: Settings, out: Path) -> None:
    """Scores what is not scored yet, and keeps rows and predictions as models do.

    Trees are tuned by the search's trials, as models are, and train under every seed; a budget of
    seconds ends them; their costs are measured where they are not known yet. Call it in one
    process.

    Args:
        log: the impressions.
        settings: of the benchmark.
        out: its folder.

    Raises:
        ValueError: one that `missing_for` names.
    """
    done = {row.run for row in read_results(out)}
    for name in settings.references:
        keys = [RunKey(Variant(name, "none", None, None), seed) for seed in _seeds(name, settings)]
        for key in keys:
            if key not in done:
                _keep(log, settings, out, key, _score(log, settings, out, name, key.seed))
    if TREES in settings.references and TREES not in read_costs(out):
        print(f"measuring what {TREES} costs", flush=True)
        write_cost(out, TREES, measure_trees(settings, out / "data", _tuned(log, settings, out)))


def missing_for(log: PreparedLog, name: Reference) -> str | None:
    """What is missing to score one: a package, items or users; None: nothing is."""
    try:
        if name == "gbdt":
            require_lightgbm()
        else:
            require_ids(log, name)
    except ValueError as error:
        return str(error)
    return None


def _seeds(name: Reference, settings: Settings) -> range:
    return range(settings.seeds if name == TREES else 1)


def _score(log: PreparedLog, settings: Settings, out: Path, name: Reference, seed: int) -> Scored:
    as_of = settings.history_as_of
    if name == "gbdt":
        budget = settings.budget
        seconds = budget.value if budget is not None and budget.kind == "seconds" else None
        trees = _tuned(log, settings, out)
        return train_trees(log, trees, seed, as_of, max_seconds=seconds).score_splits()
    return score_means(log, name, as_of)


def _tuned(log: PreparedLog, settings: Settings, out: Path) -> TreeSettings:
    """The trees' settings that win the search on the validation split."""
    if VALIDATION not in log.splits or len(settings.search.trials) == 1:
        return TreeSettings()

    def attempt(_: str, factors: tuple[float, float]) -> Trial:
        tried = _scaled(TreeSettings(), factors)
        share, as_of = min(1.0, settings.search.epochs), settings.history_as_of
        ends = [
            train_trees(log, tried, seed, as_of, rows_share=share)
            for seed in range(settings.search.seeds)
        ]
        judged = [trees.score_split(VALIDATION) for trees in ends]
        aucs = [auc(validation.labels[:, 0], validation.logits[:, 0]) for validation in judged]
        seconds = sum(trees.seconds for trees in ends)
        return Trial({TREES: dataclasses.asdict(tried)}, sum(aucs) / len(aucs), seconds)

    return TreeSettings(**search(settings, out, [TREES], attempt)[TREES].settings[TREES])


def _scaled(trees: TreeSettings, factors: tuple[float, float]) -> TreeSettings:
    """The learning rate times the first factor, the number of leaves times the second."""
    return dataclasses.replace(
        trees,
        learning_rate=trees.learning_rate * factors[0],
        num_leaves=max(2, round(trees.num_leaves * factors[1])),
    )


def _keep(log: PreparedLog, settings: Settings, out: Path, key: RunKey, scored: Scored) -> None:
    measured = {s: measure(log, p, settings.history_as_of) for s, p in scored.predictions.items()}
    validation = measured.get(VALIDATION)
    row = ResultRow(
        model=key.variant.model,
        strategy=key.variant.strategy,
        seed=key.seed,
        epoch=1 if key.variant.model == TREES else 0,
        validation_auc=validation.auc if validation else None,
        **dataclasses.asdict(measured[TEST]),
        train_seconds=scored.seconds,
        examples_per_second=scored.num_examples / scored.seconds,
        parameters=scored.num_parameters,
        metrics=of_further_test_sets({split: m.headline() for split, m in measured.items()}),
    )
    test = scored.predictions[TEST]
    users = log.raw_users[test.user_ids] if log.num_users else None
    save_predictions(
        out,
        key,
        Predictions(test.labels[:, 0], test.logits[:, 0], users, test.source_rows, row.epoch),
    )
    append_results(out, [row])
    print(f"{key.name}: test AUC {row.auc:.4f}, {scored.seconds:.0f} s", flush=True)
