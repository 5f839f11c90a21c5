r"""Trains a ranker on the impressions of a log, from scratch or from a pretrained run.

    python -m pipelines.finetune --data kuairand-pure --data-dir DIR --model gpsd \
        --strategy sparse-freeze --pretrained runs/pretrain --out runs/finetune
    python -m pipelines.finetune --data kuairand-pure --data-dir DIR --model dlrm+pinfm \
        --strategy full-slow --pretrained runs/pinfm --out runs/dlrm-pinfm
    python -m pipelines.finetune --data custom --config later-day.yaml --model gpsd \
        --from runs/finetune --out runs/later-day

Stopped and started again with the same --out, it goes on where it was. `--from` goes on from an
earlier run with another log: ids that are new get rows, old ones keep theirs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from pipelines.configuration.command_line import parse, report_errors
from pipelines.configuration.settings import Settings
from pipelines.evaluation.cold_rows import RowFacts, measure_groups
from pipelines.evaluation.diagnostic import Diagnostic
from pipelines.evaluation.split_metrics import SplitMetrics, measure, measure_further_labels
from pipelines.results.rows import write_atomically
from pipelines.stages.open_log import open_log
from pipelines.stages.rankers import RankerBuilder, build_ranker
from pipelines.stages.ranking_run import RankerFacts, RankingRun, start_ranking
from pipelines.stages.run_folder import read_vocabularies
from pipelines.stages.transferring import FirstWeights
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.log_source import TEST, TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.training.evaluation import Predictions
from torchrec_gr.training.limit import Limit
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.strategy import Strategy
from torchrec_gr.training.trainer import EpochProgress, OnStep
from torchrec_gr.training.transfer_report import TransferReport

_ROWS_AT_ONCE = 4096
"""Rows of a batch that is read, not scored."""


@dataclasses.dataclass(frozen=True)
class EpochResult:
    """What one epoch of a ranker came to.

    Args:
        epoch: 1 for the first; the last may be a part of one, where a limit ended it.
        training: what it trained.
        seconds: of training up to its end, this stage alone.
        num_examples: trained on up to its end.
        epochs_trained: passes over the training rows up to its end.
        exhausted: whether the limit ended the run here.
        metrics: by split.
        further: of the test split, by the labels after the first; see `measure_further_labels`.
        predictions: of every split.
        diagnostic: of rows by how often their ids were seen in training; see `Diagnostic`.
        groups: of test rows with a cold item or without a history; see `measure_groups`.
        test_rows: what tells them apart.
        ranker: whose epoch it is.
    """

    epoch: int
    training: EpochProgress
    seconds: float
    num_examples: int
    epochs_trained: float
    exhausted: bool
    metrics: dict[str, SplitMetrics]
    further: dict[str, float]
    predictions: dict[str, Predictions]
    diagnostic: dict[str, float]
    groups: dict[str, float]
    test_rows: RowFacts
    ranker: RankerFacts


def finetune(
    log: PreparedLog,
    settings: Settings,
    run_dir: Path,
    *,
    model: str,
    strategy: Strategy,
    dim: int,
    seed: int,
    device: torch.device,
    pretrained: Path | None = None,
    start: Path | None = None,
    limit: Limit | None = None,
    build: RankerBuilder = build_ranker,
    on_epoch: Callable[[EpochResult], None],
    on_step: OnStep | None = None,
    on_transfer: Callable[[TransferReport], None] | None = None,
) -> None:
    """Trains a ranker and evaluates it after each epoch, or finishes what was begun in `run_dir`.

    Args:
        log: the impressions.
        settings: of the ranker's stage and sizes.
        run_dir: for checkpoints, schema and vocabularies.
        model: as `parse_model` takes it; its variant is laid over the settings.
        strategy: how the pretrained weights come in.
        dim: width of the tables.
        seed: of initial weights and order.
        device: where to train.
        pretrained: the pretraining run; None with strategy "none".
        start: an earlier ranker's run to start from, instead of `pretrained`.
        limit: ends training, maybe inside of an epoch; see `Trainer`.
        build: makes the ranker that `model` names.
        on_epoch: called after each epoch; again for the last one when a run is taken up.
        on_step: called after each step with its number, loss and learning rate.
        on_transfer: called with what came from earlier weights, on the first process.
    """
    run = start_ranking(
        log,
        settings,
        run_dir,
        model=model,
        dim=dim,
        seed=seed,
        device=device,
        first=FirstWeights(strategy, pretrained, start),
        limit=limit,
        build=build,
        on_step=on_step,
        on_transfer=on_transfer,
    )
    evaluation, trainer = _Evaluation(run), run.trainer
    trainer.resume()
    while True:
        if trainer.finished:
            on_epoch(evaluation.after_epoch())
        if len(trainer.finished) >= settings.epochs or trainer.exhausted:
            return
        trainer.train_epoch()


class _Evaluation:
    """Measures a ranker between epochs."""

    def __init__(self, run: RankingRun) -> None:
        self._run = run
        # Made once: a loader keeps what it has decoded.
        self._held_out = {split: run.to_score(split) for split in run.log.splits if split != TRAIN}
        self._diagnostic = Diagnostic(run.log, run.to_score)
        as_of = run.settings.history_as_of
        requests = RequestLoader(run.log, TEST, batch_size=_ROWS_AT_ONCE, history_as_of=as_of)
        self._test_rows = RowFacts.of(run.log, requests)

    def after_epoch(self) -> EpochResult:
        """Of the epoch that was trained last."""
        run, trainer = self._run, self._run.trainer
        scored = {split: trainer.evaluate(loader) for split, loader in self._held_out.items()}
        finished = trainer.finished
        return EpochResult(
            epoch=len(finished),
            training=finished[-1],
            seconds=sum(epoch.seconds for epoch in finished),
            num_examples=sum(epoch.num_examples for epoch in finished),
            epochs_trained=sum(epoch.step for epoch in finished) / trainer.loader.num_steps,
            exhausted=trainer.exhausted,
            metrics={
                split: measure(run.log, predictions, run.settings.history_as_of)
                for split, predictions in scored.items()
            },
            further=measure_further_labels(run.log, scored[TEST]),
            predictions=scored,
            diagnostic=self._diagnostic.measure(trainer.evaluate, scored),
            groups=measure_groups(scored[TEST], self._test_rows),
            test_rows=self._test_rows,
            ranker=run.facts,
        )


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options, settings = parse("finetune", __doc__, arguments)

    def show(result: EpochResult) -> None:
        if dist.get_rank() != 0:
            return
        shown = ", ".join(
            f"{split} AUC {measured.auc:.4f} NE {measured.ne:.4f}"
            for split, measured in result.metrics.items()
        )
        print(f"epoch {result.epoch}: {shown}, {result.training.seconds:.0f} s", flush=True)
        metrics = {split: measured.to_dict() for split, measured in result.metrics.items()}
        written = {"epoch": result.epoch, "seconds": result.seconds, "metrics": metrics}
        path = options.out / "metrics" / f"epoch_{result.epoch}.json"
        write_atomically(path, json.dumps(written, indent=1).encode())

    with report_errors(), process_group(settings.device) as device:
        previous = read_vocabularies(options.start) if options.start else None
        log = open_log(settings, options.out / "data", previous)
        finetune(
            log,
            settings,
            options.out,
            model=options.model,
            strategy=options.strategy,
            dim=settings.dims[0],
            seed=options.seed,
            device=device,
            pretrained=options.pretrained,
            start=options.start,
            on_epoch=show,
            on_transfer=lambda report: print(report, flush=True),
        )


if __name__ == "__main__":
    main()
