"""Where a sequence module enters a CTR model: the module whose forward gets the ids."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import nn
from torchrec.distributed.types import ShardedModule
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.models.dlrm import DLRM
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.pretrained.attaching.widened_linear import linear_at, plain_linears
from torchrec_gr.training.tables import Collection

ReadIds: TypeAlias = "Callable[..., KeyedJaggedTensor]"
"""Gets the arguments of a forward and gives its ids."""

_OVER_ARCH: Mapping[type[nn.Module], str] = {
    DLRM: "over_arch.model.0._mlp.0._linear",
    SimpleDeepFMNN: "over_arch.model.0",
}
"""The first Linear of the over arch of TorchRec's models."""


@dataclasses.dataclass(frozen=True)
class Argument:
    """Reads a forward's ids off one of its arguments.

    Args:
        name, position: of the argument.
        attribute: of it that holds the ids; None: it is the ids.
    """

    name: str
    position: int
    attribute: str | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> KeyedJaggedTensor:
        """The ids."""
        value = kwargs[self.name] if self.name in kwargs else args[self.position]
        return value if self.attribute is None else getattr(value, self.attribute)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A module whose forward gets the ids of a batch.

    Args:
        path: of it in the model.
        module: it.
        read_ids: how it gets them.
    """

    path: str
    module: nn.Module
    read_ids: ReadIds

    def full_name(self, name: str) -> str:
        """The name in the model of a parameter of the module."""
        return f"{self.path}.{name}" if self.path else name


def find_entry(model: nn.Module, kjt: ReadIds | None) -> Entry:
    """TorchRec's DLRM or SimpleDeepFMNN in the model; else the outermost module that qualifies.

    Args:
        model: without wrappers that parallelise it.
        kjt: reads the ids off the arguments of the model's own forward, which is then the entry.

    Raises:
        ValueError: there is none, or there are several.
    """
    if kjt is not None:
        return Entry("", model, kjt)
    found = [
        Entry(path, module, argument)
        for path, module in model.named_modules()
        if _holds_tables(module) and (argument := _ids_argument(module)) is not None
    ]
    of_torchrec = [e for e in found if isinstance(e.module, tuple(_OVER_ARCH))]
    if len(of_torchrec) > 1:
        raise ValueError(
            f"{type(model).__name__} holds {len(of_torchrec)} models, "
            f"{[e.path for e in of_torchrec]}: attach to one of them, before it is put into the "
            "other"
        )
    direct = [e for e in found if isinstance(e.read_ids, Argument) and not e.read_ids.attribute]
    for entry in [*of_torchrec, *direct, *found]:
        return entry
    raise ValueError(
        f"no module of {type(model).__name__} that holds an embedding collection has a forward "
        "with a parameter sparse_features (a KeyedJaggedTensor) or batch (with .sparse_features): "
        "give kjt=, which is called with the arguments of the model's forward and returns its "
        "KeyedJaggedTensor"
    )


def find_linear(model: nn.Module, entry: Entry, widen: str | None) -> nn.Linear:
    """The Linear to widen.

    Args:
        model: `widen` is a path in it.
        entry: where the ids come in.
        widen: None: the first of the over arch, of TorchRec's models.

    Raises:
        ValueError: none is known, none has that path, or it lies outside the entry.
    """
    if widen is None:
        for known, path in _OVER_ARCH.items():
            if isinstance(entry.module, known):
                return linear_at(entry.module, path)
        linears = [entry.full_name(path) for path in plain_linears(entry.module)]
        raise ValueError(
            f"{type(entry.module).__name__} is not one of TorchRec's models: name the Linear that "
            f"shall read the vector in widen=, one of {linears}, or give hook=, which is called "
            "with the vector before each forward"
        )
    linear = linear_at(model, widen)
    if all(part is not linear for part in entry.module.modules()):
        raise ValueError(
            f"widen={widen!r} lies outside {entry.path!r}, whose forward gets the ids: name a "
            "Linear inside it, or give kjt=, so that the whole model's forward is read"
        )
    return linear


def _holds_tables(module: nn.Module) -> bool:
    tables = (Collection, ShardedModule)
    parts = list(module.modules())
    return not isinstance(module, tables) and any(isinstance(part, tables) for part in parts)


def _ids_argument(module: nn.Module) -> Argument | None:
    names = list(inspect.signature(module.forward).parameters)
    if "sparse_features" in names:
        return Argument("sparse_features", names.index("sparse_features"))
    if "batch" in names:
        return Argument("batch", names.index("batch"), "sparse_features")
    return None
