"""The training loop: one epoch at a time, resumable at any step."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torchrec
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from tqdm import tqdm

from torchrec_gr.embeddings.table_report import table_reports, total
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from torchrec_gr.training.evaluation import Predictions, evaluate
from torchrec_gr.training.limit import Limit
from torchrec_gr.training.non_finite import first_non_finite
from torchrec_gr.training.optimizer import ScheduledOptimizer
from torchrec_gr.training.process_group import all_reduce_sum


class Loader(Protocol):
    """What the trainer asks of a loader: one epoch's remaining batches, and an exact position."""

    @property
    def num_steps(self) -> int:
        """Steps of one epoch, alike on every process."""

    def __iter__(self) -> Iterator[Any]: ...

    def seek(self, epoch: int, step: int) -> None:
        """The next iteration begins with this step of this epoch."""

    def state_at(self, epoch: int, step: int) -> dict[str, int | str]:
        """The position, and what it depends on."""

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Takes a position up; ValueError if it does not fit this loader."""


OnStep = Callable[[int, float, float], None]
"""Called after a step with its number, counted from 0, its loss and the dense learning rate."""


class NonFiniteError(RuntimeError):
    """Training ran into a loss or a parameter that is infinite or not a number."""


@dataclasses.dataclass
class EpochProgress:
    """What the epoch in progress has trained, over all processes; kept across restarts.

    Args:
        epoch: counted from 0.
        step: steps trained.
        num_examples: candidates trained on, or requests where there are no candidates.
        loss_sum, num_units: the loss, summed, and the units it is summed over.
        seconds: spent in training steps.
    """

    epoch: int = 0
    step: int = 0
    num_examples: int = 0
    loss_sum: float = 0.0
    num_units: float = 0.0
    seconds: float = 0.0

    @property
    def mean_loss(self) -> float:
        """The mean loss over the epoch's units so far; NaN before the first."""
        return self.loss_sum / self.num_units if self.num_units else math.nan

    @property
    def examples_per_second(self) -> float:
        """Training throughput so far; 0 before the first step."""
        return self.num_examples / self.seconds if self.seconds else 0.0


class Trainer:
    """Trains a sharded model through TorchRec's train pipeline.

    The model's forward takes a batch and returns the loss and an output with `loss_sum` and
    `num_units` (see `modules.step_output.StepOutput`).

    Args:
        model: as `shard` gives it.
        optimizer: as `build_optimizer` gives it.
        loader: the training batches.
        run_dir: for checkpoints and TensorBoard scalars, those of dynamic tables (rows, bytes, ...,
            over all processes) after each epoch; None writes nothing.
        checkpoint_steps: steps between checkpoints, beside the one at each epoch's end; None for
            that one alone.
        full_checkpoint_every: one of so many checkpoints holds dynamic tables in full; those
            between hold the rows that were touched, and build on it. The count goes on when a run
            is resumed.
        bf16: run forward under bfloat16 autocast; weights and tables stay float32.
        name: before the progress bar, which is silent where the output is no terminal.
        on_step: called after each step.
        limit: ends the run inside of an epoch; a schedule that falls reaches its floor there.

    Raises:
        ValueError: `checkpoint_steps` or `full_checkpoint_every` below 1.
    """

    def __init__(
        self,
        model: DistributedModelParallel,
        optimizer: ScheduledOptimizer,
        loader: Loader,
        *,
        run_dir: Path | None = None,
        checkpoint_steps: int | None = None,
        full_checkpoint_every: int = 1,
        bf16: bool = False,
        name: str = "train",
        on_step: OnStep | None = None,
        limit: Limit | None = None,
    ) -> None:
        if checkpoint_steps is not None and checkpoint_steps < 1:
            raise ValueError(f"checkpoint_steps must be at least 1, got {checkpoint_steps}")
        if full_checkpoint_every < 1:
            raise ValueError(
                f"full_checkpoint_every must be at least 1, got {full_checkpoint_every}"
            )
        self.model = model
        self.optimizer = optimizer
        self.loader = loader
        self.progress = EpochProgress()
        self.finished: list[EpochProgress] = []
        self.global_step = 0
        self._run_dir = run_dir
        self._checkpoint_steps = checkpoint_steps
        self._full_checkpoint_every = full_checkpoint_every
        self._bf16 = bf16
        self._name = name
        self._on_step = on_step
        self._limit = limit
        self._first = dist.get_rank() == 0
        self._pipeline = TrainPipelineSparseDist(
            model, optimizer, model.device, custom_model_fwd=self._forward
        )
        self._totals = torch.zeros(3, dtype=torch.float64)

    def resume(self) -> bool:
        """Goes on from the newest checkpoint of the run's folder, if there is one.

        Raises:
            CheckpointError: it cannot be read, or is of another model or optimizer.
            ValueError: the loader reads another log, or with other settings.
        """
        checkpoint = latest_checkpoint(self._run_dir) if self._run_dir else None
        if checkpoint is None:
            return False
        record = load_checkpoint(checkpoint, self.model, self.optimizer)
        self.loader.load_state_dict(record["loader"])
        self.progress = EpochProgress(**record["progress"])
        self.finished = [EpochProgress(**epoch) for epoch in record["finished"]]
        self.global_step = record["global_step"]
        return True

    @property
    def exhausted(self) -> bool:
        """Whether the limit is reached, so that no epoch trains any further."""
        return self._share_spent() >= 1.0

    def train_epoch(self) -> EpochProgress:
        """Trains what is left of the current epoch, or of the limit, and moves on to the next.

        Returns:
            What the whole epoch trained, restarts included.

        Raises:
            NonFiniteError: the loss or a parameter is not finite. The newest checkpoint is good.
            CheckpointError: a checkpoint could not be written. Earlier ones are good.
        """
        progress, num_steps = self.progress, self.loader.num_steps
        self.loader.seek(progress.epoch, progress.step)
        self.model.train()
        self._pipeline.reset()
        batches = iter(self.loader)
        with self._bar(num_steps) as bar, self._scalars() as write:
            while progress.step < num_steps and not self.exhausted:
                self._train_step(batches, write)
                speed = f"{progress.examples_per_second:,.0f} examples/s"
                bar.set_postfix_str(f"loss {progress.mean_loss:.4f}, {speed}", refresh=False)
                bar.update()
                if progress.step < num_steps and self._is_checkpoint_step():
                    self._save()
            for name, reports in table_reports(self.model).items():
                for field, value in vars(total(reports)).items():
                    write(f"tables/{name}/{field}", value)
        self.finished.append(progress)
        self.progress = EpochProgress(epoch=progress.epoch + 1)
        self._save()
        return progress

    def evaluate(self, loader: Loader) -> Predictions:
        """Scores one epoch of a loader's batches with the model as it is now; see `evaluate`."""
        loader.seek(0, 0)
        return evaluate(self.detach(), loader, self.model.device, bf16=self._bf16)

    def detach(self) -> DistributedModelParallel:
        """The model as it is now, to be called outside of the train pipeline until it goes on."""
        self._pipeline.detach()
        return self.model

    def _train_step(self, batches: Iterator[Any], write: Callable[[str, float], None]) -> None:
        progress, start = self.progress, time.perf_counter()
        self.optimizer.set_step(self.global_step, self._expected_steps())
        self._pipeline.progress(batches)
        seconds = self._on_all(time.perf_counter() - start)
        loss_sum, num_units, num_examples = self._totals.tolist()
        progress.step += 1
        progress.loss_sum += loss_sum
        progress.num_units += num_units
        progress.num_examples += int(num_examples)
        progress.seconds += seconds
        rates = self.optimizer.learning_rates()
        if num_units:
            write("loss", loss_sum / num_units)
            if self._on_step is not None:
                self._on_step(self.global_step, loss_sum / num_units, rates.get("dense", 0.0))
        for name, rate in rates.items():
            write(f"lr/{name}", rate)
        write("examples_per_second", num_examples / seconds)
        self.global_step += 1

    def _on_all(self, seconds: float) -> float:
        """The mean over processes where they must agree when to end; else this process's own."""
        if self._limit is None or self._limit.seconds is None or dist.get_world_size() == 1:
            return seconds
        total = torch.tensor(seconds, dtype=torch.float64, device=self.model.device)
        dist.all_reduce(total)
        return total.item() / dist.get_world_size()

    def _share_spent(self) -> float:
        if self._limit is None:
            return 0.0
        epochs = [*self.finished, self.progress]
        return self._limit.share(
            sum(epoch.seconds for epoch in epochs), sum(epoch.num_examples for epoch in epochs)
        )

    def _expected_steps(self) -> int | None:
        """Steps that the limit will have been, by what was spent so far; None without."""
        share = self._share_spent()
        return max(self.global_step, round(self.global_step / share)) if share else None

    def _forward(self, batch: Any) -> tuple[Tensor, Any]:
        """The model's forward; stops the run before any weight moves if the loss is not finite.

        The loss is looked at in every step: on a GPU this costs the launch of backward, no more.
        """
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self._bf16):
            loss, output = self.model(batch)
        self._totals = all_reduce_sum(output.loss_sum, output.num_units, _num_examples(batch))
        if not math.isfinite(self._totals[0].item()):
            raise NonFiniteError(
                f"the loss of step {self.global_step} (epoch {self.progress.epoch}, step "
                f"{self.progress.step}) is {self._totals[0].item()}. {_span(batch)}. "
                f"{_describe(first_non_finite(self.model))}. {self._last_good()}"
            )
        return loss, output

    def _is_checkpoint_step(self) -> bool:
        every = self._checkpoint_steps
        return every is not None and self.global_step % every == 0

    def _save(self) -> None:
        broken = first_non_finite(self.model)
        if broken is not None:
            raise NonFiniteError(
                f"after step {self.global_step - 1} (epoch {self.progress.epoch}): "
                f"{_describe(broken)}; the loss was finite. {self._last_good()}"
            )
        if self._run_dir is None:
            return
        record = {
            "loader": self.loader.state_at(self.progress.epoch, self.progress.step),
            "progress": dataclasses.asdict(self.progress),
            "finished": [dataclasses.asdict(epoch) for epoch in self.finished],
            "global_step": self.global_step,
            "versions": {"torch": torch.__version__, "torchrec": torchrec.__version__},
        }
        save_checkpoint(
            self._run_dir,
            self.global_step,
            self.model,
            self.optimizer,
            record,
            full_every=self._full_checkpoint_every,
        )

    def _last_good(self) -> str:
        checkpoint = latest_checkpoint(self._run_dir) if self._run_dir else None
        kept = f"the newest good checkpoint is {checkpoint}" if checkpoint else "nothing was saved"
        return f"Lower the learning rate or look at these rows; {kept}"

    def _bar(self, num_steps: int) -> tqdm[Any]:
        return tqdm(
            total=num_steps,
            initial=self.progress.step,
            desc=f"{self._name} epoch {self.progress.epoch}",
            disable=not (self._first and sys.stderr.isatty()),
            unit="step",
        )

    @contextmanager
    def _scalars(self) -> Iterator[Callable[[str, float], None]]:
        """Gives a function that writes a scalar of the current step for TensorBoard."""
        if self._run_dir is None or not self._first:
            yield lambda name, value: None
            return
        folder = str(self._run_dir / "tensorboard")
        with SummaryWriter(folder, purge_step=self.global_step) as writer:
            yield lambda name, value: writer.add_scalar(name, value, self.global_step)


def _describe(parameter: str | None) -> str:
    if parameter is None:
        return "All parameters are finite: the batch's own values brought it about"
    return f"The first parameter that is not finite is {parameter}"


def _num_examples(batch: Any) -> Tensor:
    """0-dim: this process's candidates that count, or requests where there are no candidates."""
    if isinstance(batch, RequestBatch):
        candidates = batch.num_candidates.sum()
        return torch.where(candidates > 0, candidates, (batch.num_history() > 0).sum())
    return (batch.weights > 0).sum()


def _span(batch: Any) -> str:
    """Which rows of the log a step read, over all processes; whose histories in pretraining."""
    rows, users = batch.source_rows, batch.user_ids
    if not isinstance(batch, RequestBatch):
        rows, users = rows[batch.weights > 0], users[batch.weights > 0]
    for what, ids in (("rows of the log", rows), ("histories of users", users)):
        none = torch.full((2,), torch.iinfo(torch.int64).max, device=ids.device)
        bounds = torch.stack([ids.min(), -ids.max()]) if len(ids) else none
        dist.all_reduce(bounds, dist.ReduceOp.MIN)
        first, last = int(bounds[0]), -int(bounds[1])
        if first <= last:
            return f"Its batch read {what} {first}..{last}"
    return "Its batch was empty"
