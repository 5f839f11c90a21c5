"""A benchmark's folder made by hand: several models, with everything that a report reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipelines.benchmarking.cost import Cost, write_cost
from pipelines.evaluation.cold_rows import RowFacts, measure_groups
from pipelines.results.artifacts import Predictions, RunInfo, save_predictions, write_run_info
from pipelines.results.rows import ResultRow, append_results
from torchrec_gr.metrics import auc, gauc, log_loss, normalized_entropy
from torchrec_gr.training.evaluation import Predictions as Scored

NUM_ROWS = 4000
GAINS = {
    "dlrm": 0.9,
    "dlrm_dcn": 0.92,
    "din": 1.0,
    "wukong": 0.9,
    "hstu": 1.1,
    "mtgr": 1.15,
    "longer": 0.95,
    "gpsd": 1.02,
    "dlrm+pinfm": 0.97,
    "gbdt": 0.8,
    "popularity": 0.35,
    "item_mean": 0.45,
}
"""Models, and how much of the truth their scores hold."""

UNTRAINED = ("popularity", "item_mean")


def fill(folder: Path, num_seeds: int = 2, models: Sequence[str] = tuple(GAINS)) -> None:
    """Writes a folder as a benchmark of these models leaves it."""
    generator = np.random.default_rng(0)
    facts = RowFacts(
        np.arange(NUM_ROWS),
        (10 ** generator.uniform(-0.3, 4, NUM_ROWS)).astype(np.int64),
        np.minimum(generator.geometric(0.05, NUM_ROWS) - 1, 64),
    )
    facts.save(folder)
    users = generator.integers(0, 600, NUM_ROWS)
    truth = generator.normal(size=NUM_ROWS)
    labels = generator.random(NUM_ROWS) < 1 / (1 + np.exp(-1.5 * truth))
    for place, model in enumerate(models):
        for seed in range(1 if model in UNTRAINED else num_seeds):
            noise = generator.normal(size=NUM_ROWS)
            for epoch in (0,) if model in UNTRAINED else (1, 2):
                scores = (GAINS[model] * truth + (0.8 + 0.05 * epoch) * noise).astype(np.float32)
                row = _row(model, seed, epoch, place, labels, scores, users, facts)
                append_results(folder, [row])
                if epoch < 2:
                    predictions = Predictions(labels, scores, users, facts.source_rows, epoch)
                    save_predictions(folder, row.run, predictions)
    _write_costs(folder)
    _write_search(folder)
    write_run_info(folder, _info())


def _write_costs(folder: Path) -> None:
    for place, model in enumerate(GAINS):
        if model in (*UNTRAINED, "gbdt"):
            continue
        dlrm = 0.4 if model == "dlrm" else 1.0
        cost = Cost(
            train_flops=dlrm * 3.1e6 * (1 + place),
            pretrain_flops=9e6 if model in ("gpsd", "dlrm+pinfm") else None,
            score_flops=dlrm * 1e6 * (1 + place),
            latency_ms={
                n: (dlrm * (0.8 + 0.3 * place + 0.004 * n), 1.1 + 0.5 * place + 0.006 * n)
                for n in (1, 100, 1000)
            },
            peak_memory_bytes=480_000_000 + 30_000_000 * place,
            checkpoint_bytes=4_900_000 + 700_000 * place,
        )
        write_cost(folder, f"{model}.d16", cost)


def _write_search(folder: Path) -> None:
    space = [{"tables": 1.0, "dense": 1.0}, {"tables": 3.0, "dense": 1.0}]
    trials = {
        model: [
            {
                "settings": {"ranking": {"tables": {"lr": 0.03 * point["tables"]}}},
                "validation_auc": 0.74 + 0.001 * (place % 3) - 0.002 * n,
                "seconds": 6.5 + place,
            }
            for n, point in enumerate(space)
        ]
        for place, model in enumerate(GAINS)
        if model not in UNTRAINED
    }
    values = {
        "words": "Every model was tried with the same 2 pairs of factors of its learning rates.",
        "space": space,
        "trials": trials,
        "winners": dict.fromkeys(trials, 0),
    }
    (folder / "search.json").write_text(json.dumps(values))


def _row(
    model: str,
    seed: int,
    epoch: int,
    place: int,
    labels: np.ndarray,
    scores: np.ndarray,
    users: np.ndarray,
    facts: RowFacts,
) -> ResultRow:
    scored = Scored(scores[:, None], labels[:, None], users, facts.source_rows, 0.0)
    within = gauc(labels, scores, users)
    trained = model not in UNTRAINED
    return ResultRow(
        *(model, "none", seed, epoch, auc(labels, scores)),
        train_seconds=(12.0 + 7 * place * (-1.3) ** (place % 2)) % 97 * epoch,
        parameters=1_200_000 + 90_000 * place,
        dim=16 if trained and model != "gbdt" else None,
        validation_auc=auc(labels, scores) - 0.002 if trained else None,
        gauc=within.value,
        gauc_users_counted=within.users_counted,
        gauc_users_left_out=within.users_left_out,
        ne=normalized_entropy(labels, scores),
        log_loss=log_loss(labels, scores),
        calibration=1.0 + 0.01 * place,
        examples_per_second=21000.0 / (1 + place) if trained else None,
        train_flops=(4e11 + 3e11 * place) * epoch if trained else None,
        parameters_embedding=1_100_000,
        parameters_dense=100_000 + 90_000 * place,
        metrics=measure_groups(scored, facts),
    )


def _info() -> RunInfo:
    return RunInfo(
        title="Every model against dlrm: kuairand",
        command="python -m pipelines.benchmark --data kuairand --budget seconds 60 --out runs/b",
        data={"name": "kuairand", "training rows": 131474, "test rows": NUM_ROWS},
        settings={"dims": [16], "seeds": 2, "ranking": {"epochs": 2, "batch_size": 1024}},
        environment={"python": "3.11.9", "torch": "2.13.0", "machine": "x86_64, 2 processors"},
        epochs=2,
        commit="0123456789abcdef0123456789abcdef01234567",
    )
