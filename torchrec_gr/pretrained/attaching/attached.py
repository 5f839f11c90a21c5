"""A model with a sequence module in it: the class that its own is exchanged for."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torchrec.distributed.model_parallel import get_unwrapped_module
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.pretrained.attaching.entry import ReadIds
from torchrec_gr.pretrained.attaching.impression_encoder import ImpressionEncoder
from torchrec_gr.pretrained.attaching.widened_linear import Carrier
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.training.strategy import Strategy
from torchrec_gr.training.transfer_report import TransferReport

CHILD = "pretrained"
"""The sequence module's name in the model that it is attached to."""


@dataclasses.dataclass
class Junction:
    """How a sequence module is joined to a model.

    Args:
        read_ids: gets the ids off the forward's arguments.
        carrier: takes the vectors to the widened Linear.
        linear: path in the attached model of the widened Linear; None: there is none.
        hook: is called with the vectors, [B, D].
        strategy: which weights came from the artefact, and how they train.
        tables: names of those that came with the module.
        loaded: those of the weights that are no tables, by name in the attached model.
        tuning: how a PinFM module is read and trained; None of other kinds.
        report: what the transfer did.
    """

    read_ids: ReadIds
    carrier: Carrier
    linear: str | None
    hook: Callable[[Tensor], None] | None
    strategy: Strategy
    tables: tuple[str, ...]
    loaded: tuple[str, ...] = ()
    tuning: PinFMTuning | None = None
    report: TransferReport | None = None


class Attached(nn.Module):
    """What an attached model has beside its own class: `attached_class` makes one of both."""

    pretrained: ImpressionEncoder
    junction: Junction

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Lets a state dict from before the attachment load: it leaves the attachment as it is."""
        added = added_entries(self, prefix)
        if not any(name in state_dict for name in added):
            state_dict.update(added)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def added_entries(model: Attached, prefix: str = "") -> dict[str, Any]:
    """What the attachment added to the model's state dict."""
    entries = model.pretrained.state_dict(prefix=f"{prefix}{CHILD}.")
    if model.junction.linear is not None:
        name = f"{model.junction.linear}.widening"
        entries.update(model.get_submodule(name).state_dict(prefix=f"{prefix}{name}."))
    return entries


def attached_class(own: type[nn.Module]) -> type[Attached]:
    """A class of models whose forward computes the vectors first, then is their own."""

    @functools.wraps(own.forward)  # TorchRec's train pipelines read its signature
    def forward(self: Attached, *args: Any, **kwargs: Any) -> Any:
        junction = self.junction
        kjt = junction.read_ids(*args, **kwargs)
        _require_keys(self, kjt)
        vectors = self.pretrained(kjt)
        junction.carrier.vector = vectors
        try:
            if junction.hook is not None:
                junction.hook(vectors)
            return own.forward(self, *args, **kwargs)
        finally:
            junction.carrier.vector = None

    members = {"forward": forward, "__doc__": f"{own.__name__} with a sequence module."}
    return cast("type[Attached]", type(f"Attached{own.__name__}", (Attached, own), members))


def find_attached(model: nn.Module) -> tuple[str, Attached]:
    """The part of a model that a sequence module is attached to, and its path.

    Raises:
        ValueError: there is none.
    """
    for path, module in get_unwrapped_module(model).named_modules():
        if isinstance(module, Attached):
            return path, module
    raise ValueError(
        f"no pretrained module is attached to this {type(model).__name__}: attach one with "
        "attach_pretrained"
    )


def own_class(model: Attached) -> type[nn.Module]:
    """The class that it had before."""
    return type(model).__mro__[2]


def _require_keys(model: Attached, kjt: object) -> None:
    if isinstance(kjt, KeyedJaggedTensor):  # a proxy while a train pipeline looks at the model
        keys = model.pretrained.body.keys
        missing = [key for key in keys if key not in kjt.keys()]  # noqa: SIM118
        if missing:
            raise ValueError(
                f"the batch has no keys {missing}, which the pretrained module reads: it has "
                f"{kjt.keys()}"
            )
