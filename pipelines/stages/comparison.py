"""Carries out the runs of a comparison in one folder: pretraining, fine-tuning, rows, report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from pipelines.benchmarking.terms import Terms
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.variants import lay_over
from pipelines.evaluation.popularity import score_popularity
from pipelines.evaluation.split_metrics import of_further_test_sets
from pipelines.finetune import EpochResult, finetune
from pipelines.pretrain import Pretrained, pretrain
from pipelines.reports.comparison import write_report
from pipelines.results.artifacts import Predictions, append_curve, save_predictions
from pipelines.results.plan import LABELS, Run, pretraining_name
from pipelines.results.rows import ResultRow, RunKey, Variant, append_results, read_results
from pipelines.results.summary import chosen_rows
from torchrec_gr.data.log_source import TEST, VALIDATION
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.training.trainer import OnStep

_CURVE_STEPS = 20
"""Steps that one point of a training curve is the mean of."""


class Comparison:
    """Carries a comparison out in one folder.

    Args:
        log: what all runs read.
        terms: what each model runs under.
        out: its folder.
        device: where to train.
    """

    def __init__(self, log: PreparedLog, terms: Terms, out: Path, device: torch.device) -> None:
        self._log = log
        self._terms = terms
        self._out = out
        self._device = device
        self._writes = dist.get_rank() == 0

    def run(self, runs: list[Run]) -> None:
        """Does what is left of `runs`, and keeps the report up to date."""
        self._popularity()
        for run in runs:
            if self._is_done(run):
                continue
            pretrained = self.pretrained(run) if run.pretrain else None
            self._finetune(run, pretrained)

    def _is_done(self, run: Run) -> bool:
        rows = [row for row in read_results(self._out) if row.run == run.key]
        exhausted = any(row.metrics.get("budget_spent") == 1.0 for row in rows)
        return exhausted or len(rows) >= self._terms.settings.epochs

    def _popularity(self) -> None:
        """Adds a row for the score that asks for no model at all."""
        if self._log.schema.item is None:
            return
        key = RunKey(Variant("popularity", "none", None, None), 0)
        splits = [split for split in self._log.splits if split.startswith((TEST, VALIDATION))]
        if not self._writes or any(row.run == key for row in read_results(self._out)):
            return
        aucs = {split: score_popularity(self._log, split) for split in splits}
        self._record(
            ResultRow(
                model="popularity",
                strategy="none",
                seed=0,
                epoch=0,
                auc=aucs[TEST],
                validation_auc=aucs.get(VALIDATION),
                train_seconds=0.0,
                parameters=0,
                gauc_refused="popularity is no model of a user",
                metrics=of_further_test_sets({split: {"auc": auc} for split, auc in aucs.items()}),
            )
        )

    def pretrained(self, run: Run) -> Pretrained:
        """The pretraining that a run starts from: made once, shared by all that need it."""
        if run.pretrain == LABELS:
            return self._pretrained_on_labels(run)
        assert run.pretrain is not None
        settings = self._terms.settings
        model = parse_model(run.model, settings.variants)
        name = pretraining_name(run, model, settings)
        return pretrain(
            self._log,
            lay_over(settings, model.variant),
            self._out / "pretrain" / name,
            dim=run.dim,
            seed=run.seed,
            users=run.pretrain,
            device=self._device,
            module=model.pretrains,
            limit=self._terms.pretraining_limit(run),
            on_step=self._curve(name, "pretrain"),
        )

    def _pretrained_on_labels(self, run: Run) -> Pretrained:
        """The model itself after its first epoch, before which no id is overfitted."""
        scratch = dataclasses.replace(run, strategy="none", pretrain=None)
        model = run.model.replace(":", ".")
        run_dir = self._out / "pretrain" / f"pretrain.{LABELS}.{model}.d{run.dim}.s{run.seed}"
        ends: list[EpochResult] = []
        finetune(
            self._log,
            dataclasses.replace(self._terms.settings_of(scratch), epochs=1),
            run_dir,
            model=run.model,
            strategy="none",
            dim=run.dim,
            seed=run.seed,
            device=self._device,
            limit=self._terms.pretraining_limit(run),
            on_epoch=ends.append,
        )
        return Pretrained(run_dir, ends[-1].seconds, ends[-1].num_examples)

    def _finetune(self, run: Run, pretrained: Pretrained | None) -> None:
        def record(result: EpochResult) -> None:
            if self._writes:
                self._record(_row(run, result, pretrained, self._terms))
                self._keep_best(run, result)

        finetune(
            self._log,
            self._terms.settings_of(run),
            self._out / "runs" / run.key.name,
            model=run.model,
            strategy=run.strategy,
            dim=run.dim,
            seed=run.seed,
            device=self._device,
            pretrained=pretrained.run_dir if pretrained else None,
            limit=self._terms.ranking_limit(run, pretrained),
            on_epoch=record,
            on_step=self._curve(run.key.name, "train"),
        )
        if self._writes:
            write_report(self._out)

    def _record(self, row: ResultRow) -> None:
        append_results(self._out, [row])
        print(
            f"{row.run.name}: epoch {row.epoch}, test AUC {row.auc:.4f}"
            + (f", validation {row.validation_auc:.4f}" if row.validation_auc else ""),
            flush=True,
        )

    def _keep_best(self, run: Run, result: EpochResult) -> None:
        """Keeps the test scores of the epoch that is chosen so far."""
        if chosen_rows(read_results(self._out))[run.key].epoch != result.epoch:
            return
        result.test_rows.save(self._out)
        scored = result.predictions[TEST]
        users = self._log.raw_users[scored.user_ids] if self._log.num_users else None
        save_predictions(
            self._out,
            run.key,
            Predictions(
                scored.labels[:, 0], scored.logits[:, 0], users, scored.source_rows, result.epoch
            ),
        )

    def _curve(self, name: str, stage: str) -> OnStep:
        """Writes the mean loss of every few steps."""
        losses: list[float] = []

        def on_step(step: int, loss: float, lr: float) -> None:
            losses.append(loss)
            if self._writes and (step + 1) % _CURVE_STEPS == 0:
                mean = float(np.mean(losses))
                append_curve(self._out, name, step=step + 1, loss=mean, lr=lr, stage=stage)
                losses.clear()

        return on_step


def _row(run: Run, result: EpochResult, pretrained: Pretrained | None, terms: Terms) -> ResultRow:
    test = result.metrics[TEST]
    validation = result.metrics.get(VALIDATION)
    variant = run.key.variant
    before = pretrained.seconds if pretrained else 0.0
    return ResultRow(
        model=variant.model,
        strategy=variant.strategy,
        dim=variant.dim,
        pretrain=variant.pretrain,
        seed=run.seed,
        epoch=result.epoch,
        validation_auc=validation.auc if validation else None,
        **dataclasses.asdict(test),
        train_seconds=before + result.seconds,
        pretrain_seconds=before,
        train_flops=terms.train_flops(run, result.num_examples, pretrained),
        pretrain_flops=terms.pretrain_flops(run, pretrained),
        examples_per_second=result.training.examples_per_second,
        parameters=result.ranker.num_embedding + result.ranker.num_dense,
        parameters_embedding=result.ranker.num_embedding,
        parameters_dense=result.ranker.num_dense,
        frozen=result.ranker.frozen,
        metrics={
            **of_further_test_sets({split: m.headline() for split, m in result.metrics.items()}),
            **result.further,
            **result.diagnostic,
            **result.groups,
            **_of_limit(result, terms),
        },
    )


def _of_limit(result: EpochResult, terms: Terms) -> dict[str, float]:
    """How far training came, where a budget may end it inside of an epoch."""
    if terms.settings.budget is None:
        return {}
    return {"epochs_trained": result.epochs_trained, "budget_spent": float(result.exhausted)}
