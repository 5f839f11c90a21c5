"""Takes an attached sequence module off again."""

from __future__ import annotations

from typing import TypeVar, cast

from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from torchrec_gr.pretrained.attaching.attached import CHILD, Attached, find_attached, own_class
from torchrec_gr.pretrained.attaching.rewrap import rewrap, unwrapped
from torchrec_gr.pretrained.attaching.widened_linear import unwiden
from torchrec_gr.training.freeze import frozen_for_good

Model = TypeVar("Model", bound=nn.Module)


def detach_pretrained(model: Model) -> Model:
    """Takes the module that `attach_pretrained` attached off a model.

    The model's class, its Linear and its state dict are then what they were before; its own
    parameters keep what they have learned.

    Args:
        model: attached, sharded or not.

    Returns:
        The model; wrapped anew, if it is a DistributedModelParallel.

    Raises:
        ValueError: no module is attached to it, or it is in use by a pipeline.
    """
    path, attached = find_attached(unwrapped(model))
    take_off(attached)
    if not isinstance(model, DistributedModelParallel):
        return model
    gone = f"{path}.{CHILD}." if path else f"{CHILD}."
    plan = {of: placed for of, placed in model.plan.plan.items() if not of.startswith(gone)}
    frozen = {name for name in frozen_for_good(model) if not name.startswith(gone)}
    return cast("Model", rewrap(model, plan, frozen))


def take_off(model: Attached) -> None:
    """Undoes what joined a sequence module to an unwrapped model."""
    if model.junction.linear is not None:
        unwiden(model.get_submodule(model.junction.linear))  # type: ignore[arg-type]
    module: nn.Module = model
    del model.pretrained, model.junction
    module.__class__ = own_class(model)
