"""The optimizers of tables and dense parameters, and their shared learning rate schedule."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from torchrec_gr.training.freeze import freeze, thaw
from torchrec_gr.training.parameter_groups import FOR_GOOD, ParameterGroup, group_of
from torchrec_gr.training.tables import table_of

TableOptimizerName = Literal["rowwise_adagrad", "adagrad", "sgd", "adamw"]

FUSED: dict[str, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}
"""Those that train a table's rows in the backward pass."""


@dataclasses.dataclass(frozen=True)
class TableOptimizer:
    """How the tables are trained.

    Args:
        name: "rowwise_adagrad", "adagrad" and "sgd" are fused into the backward pass and touch only
            the rows that a batch read. "adamw" is dense, as in GPSD's released recipe: each step
            moves and decays every row, so it suits tables of moderate size (fused Adam does not
            exist on CPU).
        lr: the peak that the schedule scales.
        betas, weight_decay: of "adamw" alone.
    """

    name: TableOptimizerName = "rowwise_adagrad"
    lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in get_args(TableOptimizerName):
            raise ValueError(
                f"unknown table optimizer {self.name!r}: expected one of "
                f"{', '.join(get_args(TableOptimizerName))}"
            )
        if self.weight_decay and self.name != "adamw":
            raise ValueError(
                f"weight_decay of tables is for 'adamw', not {self.name!r}: leave it 0"
            )
        _require_rate(self.lr)


@dataclasses.dataclass(frozen=True)
class DenseOptimizer:
    """AdamW over all that is not a table.

    Args:
        lr: the peak that the schedule scales.
        betas, weight_decay: AdamW's; the defaults are GPSD's (released configuration).
        clip_norm: the largest joint norm of the gradients; None leaves them as they are.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        _require_rate(self.lr)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warm-up to the peak, then a cosine down to a floor, for tables and dense alike.

    Args:
        warmup_steps: step k < warmup_steps trains at (k + 1) / warmup_steps of the peak.
        total_steps: of the run: its last step trains at the floor; None keeps the peak.
        floor: the share of the peak that is left.
    """

    warmup_steps: int = 0
    total_steps: int | None = None
    floor: float = 0.1

    def factor(self, step: int, most_steps: int | None = None) -> float:
        """The share of the peak learning rate at which a step trains.

        Args:
            step: counted from 0.
            most_steps: that the run can have; with fewer than `total_steps` the fall is as much
                faster. A rate that keeps its peak keeps it.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.total_steps is None:
            return 1.0
        total = self.total_steps if most_steps is None else min(self.total_steps, most_steps)
        done = (step - self.warmup_steps) / max(1, total - 1 - self.warmup_steps)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _require_rate(lr: float) -> None:
    if not lr > 0:
        raise ValueError(
            f"a peak learning rate must be above 0, got {lr}; freeze a table to keep it"
        )


class ScheduledOptimizer(CombinedOptimizer):
    """All optimizers of a sharded model as one, under a learning rate schedule.

    Args:
        optimizers: each over parameters of its own.
        sharded: the tables that a dense optimizer trains, as the model's state dict holds them.
        schedule: scales every learning rate.
        model: whose parameters they train.
        groups: those that are frozen in the first steps.
    """

    def __init__(
        self,
        optimizers: list[KeyedOptimizer],
        sharded: dict[str, ShardedTensor],
        schedule: Schedule,
        model: DistributedModelParallel,
        groups: Sequence[ParameterGroup],
    ) -> None:
        super().__init__(list(optimizers))
        self._model = model
        self._frozen = {g: False for g in groups if 0 < g.frozen_steps < FOR_GOOD}
        self._sharded = sharded
        self._names = {weight: name for name, weight in self.params.items()}
        self._schedule = schedule
        self._peaks = [(group, float(group["lr"])) for group in self.param_groups]

    def set_step(self, step: int, most_steps: int | None = None) -> None:
        """Sets every learning rate for step `step`, counted from 0; freezes and thaws for it.

        Args:
            step: the step.
            most_steps: see `Schedule.factor`.
        """
        factor = self._schedule.factor(step, most_steps)
        for group, peak in self._peaks:
            group["lr"] = peak * factor  # type: ignore[index]
        for part, was_frozen in self._frozen.items():
            is_frozen = step < part.frozen_steps
            if is_frozen != was_frozen:
                (freeze if is_frozen else thaw)(self._model, part.patterns)
                self._frozen[part] = is_frozen

    def take_over(self, earlier: ScheduledOptimizer) -> None:
        """Goes on with the state of an optimizer of the same parameters, or of some of them.

        The state of a fused table is in its module and needs no taking over; its peak does, since
        the module knows only the rate that the schedule has it train at now.
        """
        peaks = {id(group): peak for group, peak in earlier._peaks}
        self._peaks = [(group, peaks.get(id(group), peak)) for group, peak in self._peaks]
        for weight, state in earlier.state.items():
            for key, value in state.items():
                if weight in self._names and isinstance(value, Tensor):
                    self.state[weight][key].copy_(value)

    def learning_rates(self) -> dict[str, float]:
        """The current rates of tables and of the rest; 0 for tables that are all frozen."""
        rates: dict[str, float] = {}
        for group in self.param_groups:
            for weight in group["params"][:1]:  # none where this process holds no shard
                kind = "dense" if table_of(self._names[weight]) is None else "tables"
                rates[kind] = max(rates.get(kind, 0.0), float(group["lr"]))
        return rates

    def state_dict(self) -> dict[str, Any]:
        """The state by parameter, tensors alone, sharded as the parameters are.

        The learning rates are not in it: they follow from the step.
        """
        whole = super().state_dict()
        for name, weight in self._sharded.items():
            # Of a table of which this process holds no shard, too: each must know of all.
            state = whole["state"].setdefault(name, {})
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = _sharded_like(weight, state.get(key))
        return whole


def fuse_table_optimizer(
    weight: nn.Parameter, optimizer: TableOptimizer, lr_scale: float = 1.0
) -> None:
    """Gives an unsharded table's weight, [rows, dim], its optimizer, if that is a fused one."""
    if optimizer.name in FUSED:
        settings = {"lr": optimizer.lr * lr_scale}
        apply_optimizer_in_backward(FUSED[optimizer.name], [weight], settings)


def build_optimizer(
    model: DistributedModelParallel,
    tables: TableOptimizer,
    dense: DenseOptimizer,
    schedule: Schedule,
    groups: Sequence[ParameterGroup] = (),
) -> ScheduledOptimizer:
    """Joins the optimizers that `shard` fused into the tables with AdamW over the rest.

    What is frozen for good has no optimizer.

    Args:
        model: sharded with the same `tables` and `groups`.
        tables, dense: the optimizers.
        schedule: of both.
        groups: parameters with a learning rate of their own, or that are frozen at first.

    Raises:
        ValueError: groups that name nothing, or a parameter twice.
    """
    unfused = dict(in_backward_optimizer_filter(model.named_parameters()))
    scales = {name: group.lr_scale for name, group in _groups(model, groups).items()}
    shards = {name: weight for name, weight in unfused.items() if table_of(name) is not None}
    replicated = {
        name: weight
        for name, weight in unfused.items()
        if table_of(name) is None and weight.requires_grad
    }
    optimizers: list[KeyedOptimizer] = [model.fused_optimizer]
    if shards:
        optimizers.append(_adamw(shards, tables, scales))
    if replicated:
        optimizer = _adamw(replicated, dense, scales)
        if dense.clip_norm is not None:
            optimizer = GradientClippingOptimizer(optimizer, GradientClipping.NORM, dense.clip_norm)
        optimizers.append(optimizer)
    return ScheduledOptimizer(optimizers, _dense_tables(model), schedule, model, groups)


def _groups(
    model: DistributedModelParallel, groups: Sequence[ParameterGroup]
) -> Mapping[str, ParameterGroup]:
    """By the names of the state dict, which has all tables on every process."""
    return group_of(list(model.state_dict()), groups) if groups else {}


def _adamw(
    parameters: dict[str, Tensor],
    config: TableOptimizer | DenseOptimizer,
    scales: Mapping[str, float],
) -> KeyedOptimizer:
    """AdamW over parameters by name; at a learning rate times its scale for those that have one."""
    by_rate: dict[float, list[Tensor]] = {}
    for name, weight in parameters.items():
        by_rate.setdefault(config.lr * scales.get(name, 1.0), []).append(weight)
    adamw = KeyedOptimizerWrapper(
        parameters,
        lambda _: torch.optim.AdamW(
            [{"params": weights, "lr": rate} for rate, weights in by_rate.items()],
            betas=config.betas,
            weight_decay=config.weight_decay,
        ),
    )
    _start_state(adamw)
    return adamw


def _start_state(adamw: KeyedOptimizerWrapper) -> None:
    """Allocates AdamW's lazy state, which a checkpoint is loaded into, and moves no weight."""
    rates = [group["lr"] for group in adamw.param_groups]
    for group in adamw.param_groups:
        group["lr"] = 0.0  # type: ignore[index]
    adamw.init_state()
    for group, rate in zip(adamw.param_groups, rates, strict=True):
        group["lr"] = rate  # type: ignore[index]
    for state in adamw.state.values():
        state["step"].zero_()
    adamw.zero_grad()


def _dense_tables(model: DistributedModelParallel) -> dict[str, ShardedTensor]:
    """The tables that no fused optimizer trains, on whichever process they are."""
    tables = {
        table
        for module in model.plan.plan.values()
        for table, placed in module.items()
        if placed.compute_kernel == EmbeddingComputeKernel.DENSE.value
    }
    return {name: value for name, value in model.state_dict().items() if table_of(name) in tables}


def _sharded_like(weight: ShardedTensor, local: Tensor | None) -> ShardedTensor:
    """A tensor sharded as `weight` is, with this process's part; None where it has none."""
    shards = [Shard(local, place.metadata) for place in weight.local_shards() if local is not None]
    return ShardedTensor._init_from_local_shards_and_global_metadata(
        shards, weight.metadata(), process_group=weight._process_group
    )
