"""Vanilla DLRM against generative models: several seeds, one split, a side-by-side report.

    python -m pipelines.compare --data synthetic --out runs/demo
    python -m pipelines.compare --data custom --data-dir logs --config mine.yaml --out runs/mine

Writes results.json, report.html and report.md into --out as it goes. Stopped and started again, it
does what is left; more seeds, models or strategies add to what is there.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from pipelines.configuration.command_line import parse, report_errors
from pipelines.configuration.config import to_plain
from pipelines.configuration.model_name import parse_model
from pipelines.configuration.settings import Settings
from pipelines.configuration.variants import differing, lay_over
from pipelines.evaluation.popularity import score_popularity
from pipelines.finetune import EpochResult, finetune
from pipelines.pretrain import Pretrained, pretrain
from pipelines.reports.comparison import format_table, write_report
from pipelines.results.artifacts import (
    Predictions,
    RunInfo,
    append_curve,
    describe_environment,
    read_run_info,
    save_predictions,
    write_run_info,
)
from pipelines.results.plan import LABELS, Run, plan, pretraining_name
from pipelines.results.rows import ResultRow, RunKey, Variant, append_results, read_results
from pipelines.results.summary import chosen_rows
from pipelines.stages.open_log import open_log
from pipelines.stages.pretrainers import readable_splits
from torchrec_gr.data.log_source import TEST, TRAIN, VALIDATION
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.trainer import OnStep

_MAY_GROW = (
    *("models", "strategies", "seeds", "dims", "pretrain_users", "epochs", "data_dir"),
    "against",
    "variants",  # each of which stays what it is
)
"""Settings that may change between two starts of one comparison."""

_CURVE_STEPS = 20
"""Steps that one point of a training curve is the mean of."""


class Comparison:
    """Carries a comparison out in one folder.

    Args:
        log: what all runs read.
        settings: of the comparison.
        out: its folder.
        device: where to train.
    """

    def __init__(
        self, log: PreparedLog, settings: Settings, out: Path, device: torch.device
    ) -> None:
        self._log = log
        self._settings = settings
        self._out = out
        self._device = device
        self._writes = dist.get_rank() == 0

    def run(self, runs: list[Run]) -> None:
        """Does what is left of `runs`, and keeps the report up to date."""
        self._popularity()
        for run in runs:
            if self._epochs_done(run) >= self._settings.epochs:
                continue
            pretrained = self._pretrained(run) if run.pretrain else None
            self._finetune(run, pretrained)

    def _epochs_done(self, run: Run) -> int:
        return sum(row.run == run.key for row in read_results(self._out))

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
                metrics=_further({split: {"auc": auc} for split, auc in aucs.items()}),
            )
        )

    def _pretrained(self, run: Run) -> Pretrained:
        """The pretraining that a run starts from: made once, shared by all that need it."""
        if run.pretrain == LABELS:
            return self._pretrained_on_labels(run)
        assert run.pretrain is not None
        model = parse_model(run.model, self._settings.variants)
        name = pretraining_name(run, model, self._settings)
        return pretrain(
            self._log,
            lay_over(self._settings, model.variant),
            self._out / "pretrain" / name,
            dim=run.dim,
            seed=run.seed,
            users=run.pretrain,
            device=self._device,
            module=model.pretrains,
            on_step=self._curve(name, "pretrain"),
        )

    def _pretrained_on_labels(self, run: Run) -> Pretrained:
        """The model itself after its first epoch, before which no id is overfitted."""
        model = run.model.replace(":", ".")
        run_dir = self._out / "pretrain" / f"pretrain.{LABELS}.{model}.d{run.dim}.s{run.seed}"
        seconds: list[float] = []
        finetune(
            self._log,
            dataclasses.replace(self._settings, epochs=1),
            run_dir,
            model=run.model,
            strategy="none",
            dim=run.dim,
            seed=run.seed,
            device=self._device,
            on_epoch=lambda result: seconds.append(result.seconds),
        )
        return Pretrained(run_dir, seconds[-1])

    def _finetune(self, run: Run, pretrained: Pretrained | None) -> None:
        def record(result: EpochResult) -> None:
            if self._writes:
                self._record(_row(run, result, pretrained))
                self._keep_best(run, result)

        finetune(
            self._log,
            self._settings,
            self._out / "runs" / run.key.name,
            model=run.model,
            strategy=run.strategy,
            dim=run.dim,
            seed=run.seed,
            device=self._device,
            pretrained=pretrained.run_dir if pretrained else None,
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


def _row(run: Run, result: EpochResult, pretrained: Pretrained | None) -> ResultRow:
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
        examples_per_second=result.training.examples_per_second,
        parameters=result.ranker.num_embedding + result.ranker.num_dense,
        parameters_embedding=result.ranker.num_embedding,
        parameters_dense=result.ranker.num_dense,
        frozen=result.ranker.frozen,
        metrics={
            **_further({split: m.to_dict() for split, m in result.metrics.items()}),
            **result.further,
            **result.diagnostic,
            **result.groups,
        },
    )


def _further(metrics: Mapping[str, Mapping[str, object]]) -> dict[str, float]:
    """AUC, NE and log loss of the further test sets: `auc_<name>` of the split `test_<name>`."""
    return {
        f"{name}_{split.removeprefix(f'{TEST}_')}": float(value)  # type: ignore[arg-type]
        for split, values in metrics.items()
        if split.startswith(f"{TEST}_")
        for name, value in values.items()
        if name in ("auc", "ne", "log_loss")
    }


def describe(log: PreparedLog, settings: Settings, command: str) -> RunInfo:
    """What the report says of the comparison besides its numbers."""
    return RunInfo(
        title=f"{log.schema.name}: what beats vanilla DLRM?",
        command=command,
        data={"label": log.schema.labels[0], "splits": ", ".join(log.splits), **log.counts},
        settings=to_plain(settings),
        environment=describe_environment(),
        epochs=settings.epochs,
        baseline_model=(settings.baseline or "dlrm").replace(":", "."),
        against=tuple(model.replace(":", ".") for model in settings.against),
        bayes_auc=log.source.notes.get("bayes_auc"),
        remarks=_what_pretraining_sees(log, settings),
    )


def _what_pretraining_sees(log: PreparedLog, settings: Settings) -> tuple[str, ...]:
    """Why pretraining may help or not: how much it reads, and what it asks beside the label."""
    if log.events is None or log.schema.target is None or settings.strategies == ("none",):
        return ()
    num_events = log.events.select(readable_splits(log, settings.pretrain_users[0]))[1].size
    num_rows = log.num_rows(TRAIN)
    return (
        f"Pretraining predicts the next {log.schema.target} and reads {num_events:,} events; the "
        f"ranker reads {num_rows:,} labelled rows, {num_events / num_rows:.1f} events for each. "
        "It can pay where events are many beside labels and where the label "
        f"({log.schema.labels[0]}) asks what pretraining asks, which item comes next. Where every "
        "item that was shown is an event, the next one says what was shown more than what was "
        "liked.",
    )


def require_same_comparison(out: Path, info: RunInfo) -> None:
    """Refuses to add rows of another log, or of other settings, to those that are there.

    Raises:
        ValueError: names what differs.
    """
    if not read_results(out):
        return
    before, now = read_run_info(out), info
    others = [f"data: {key}" for key in now.data if before.data.get(key) != now.data[key]]
    others += [
        key
        for key, value in now.settings.items()
        if key not in _MAY_GROW and key in before.settings and before.settings[key] != value
    ]
    variants = differing(before.settings.get("variants", {}), now.settings["variants"])
    others += [f"variants.{variant}" for variant in variants]
    if others:
        raise ValueError(
            f"{out} holds a comparison with other settings ({', '.join(others)}): results can "
            "only be added under the same ones. Choose another --out"
        )


def _with_earlier_variants(out: Path, info: RunInfo) -> RunInfo:
    """Keeps the variants that rows are there of, though they are not asked for this time."""
    variants = {**read_run_info(out).settings.get("variants", {}), **info.settings["variants"]}
    return dataclasses.replace(info, settings={**info.settings, "variants": variants})


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options, settings = parse("compare", __doc__, arguments)
    with report_errors(), process_group(settings.device) as device:
        plan(settings, has_histories=True)  # a word that is wrong is found before the log is read
        log = open_log(settings, options.out / "data")
        runs = plan(settings, has_histories=log.schema.target is not None)
        given = sys.argv[1:] if arguments is None else arguments
        writes = dist.get_rank() == 0
        if writes:
            command = f"python -m pipelines.compare {shlex.join(given)}"
            info = describe(log, settings, command)
            require_same_comparison(options.out, info)
            write_run_info(options.out, _with_earlier_variants(options.out, info))
        Comparison(log, settings, options.out, device).run(runs)
        if writes:
            write_report(options.out)
            print(format_table(read_results(options.out), options.out))
            print(f"report: {options.out / 'report.html'}")


if __name__ == "__main__":
    main()
