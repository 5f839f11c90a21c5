"""How the rows of a dynamic table are trained, as an optimizer applied in backward says it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torchrec
from torch import nn

_NAMES: dict[type[torch.optim.Optimizer], str] = {
    torch.optim.SGD: "sgd",
    torchrec.optim.SGD: "sgd",
    torch.optim.Adagrad: "adagrad",
    torchrec.optim.Adagrad: "adagrad",
    torchrec.optim.RowWiseAdagrad: "rowwise_adagrad",
}
_EPS = 1e-8
"""fbgemm's, for static tables under the same optimizers."""


@dataclasses.dataclass(frozen=True)
class RowOptimizer:
    """What is done to a row that a batch has read.

    Args:
        name: "sgd", "adagrad" or "rowwise_adagrad", the last two as TorchRec's fused ones.
        group: holds the learning rate as "lr", which may change from step to step.
        eps: added to the root of Adagrad's state.
    """

    name: str
    group: dict[str, Any]
    eps: float = _EPS

    @property
    def lr(self) -> float:
        """The learning rate as it is now."""
        return float(self.group["lr"])

    def state_shape(self, num_rows: int, dim: int) -> tuple[int, ...]:
        """The shape of the state of so many rows."""
        if self.name == "rowwise_adagrad":
            return (num_rows,)
        return (num_rows, dim if self.name == "adagrad" else 0)


def applied_optimizer(weight: nn.Parameter) -> RowOptimizer | None:
    """The optimizer that `apply_optimizer_in_backward` gave a table's weight; None: it has none.

    Raises:
        ValueError: one that dynamic tables do not have, or settings of it that they do not know.
    """
    classes = getattr(weight, "_optimizer_classes", None)
    if not classes:
        return None
    (kind,), (settings,) = classes, weight._optimizer_kwargs  # type: ignore[attr-defined]
    if kind not in _NAMES:
        raise ValueError(
            f"a dynamic table cannot be trained by {kind.__name__}: expected one of "
            f"{sorted({f'{k.__module__}.{k.__name__}' for k in _NAMES})}, which touch only the "
            "rows of a batch"
        )
    unknown = {key: value for key, value in settings.items() if key not in ("lr", "eps") and value}
    if unknown:
        raise ValueError(
            f"a dynamic table's {kind.__name__} takes lr and eps, not {sorted(unknown)}: leave out"
        )
    (own,) = weight._in_backward_optimizers  # type: ignore[attr-defined]
    return RowOptimizer(_NAMES[kind], own.param_groups[0], float(settings.get("eps", _EPS)))
