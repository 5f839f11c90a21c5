"""What a checkpoint holds, by name: all that is trained, and the random state."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel

from torchrec_gr.training.checkpoint_reader import CheckpointReader
from torchrec_gr.training.checkpoint_record import CheckpointError
from torchrec_gr.training.optimizer import ScheduledOptimizer
from torchrec_gr.training.together import on_all

MODEL = "model."
_RANDOM = "random."


def trained_entries(
    model: DistributedModelParallel, optimizer: ScheduledOptimizer
) -> dict[str, Tensor]:
    """Every tensor to keep, by one flat name; they share the memory of what is trained."""
    state = {f"{MODEL}{name}": value for name, value in model.state_dict().items()}
    for name, values in optimizer.state_dict()["state"].items():
        state.update({f"optimizer.{name}.{key}": value for key, value in values.items()})
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name} is a {type(value).__name__}: a checkpoint holds tensors")
    return state


def is_of(entry: str, parts: Collection[str]) -> bool:
    """Whether an entry is a parameter of some parts of the model, or its optimizer's state.

    Args:
        entry: "model.<name>" or "optimizer.<name>.<key>", or the start of a table's entries.
        parts: names of modules and parameters.
    """
    _, _, name = entry.partition(".")
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def random_entries() -> dict[str, Tensor]:
    """This process's generators' states, by names of its own."""
    rank = dist.get_rank()
    state = {f"{_RANDOM}{rank}.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state[f"{_RANDOM}{rank}.cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(state: Mapping[str, Tensor]) -> None:
    """Sets this process's generators to what `random_entries` gave."""
    for key, value in state.items():
        if key.endswith(".cpu"):
            torch.set_rng_state(value)
        else:
            torch.cuda.set_rng_state(value)


def require_same(
    reader: CheckpointReader, state: Mapping[str, Tensor], row_names: Set[str]
) -> None:
    """Checks names and shapes over all processes, each of which may hold some of the entries.

    Args:
        row_names: of entries that may have any number of rows.

    Raises:
        CheckpointError: some differ; all are named.
    """
    own = {name: _shape(name, value.size(), row_names) for name, value in state.items()}
    parts = on_all(lambda: own, f"cannot compare {reader.path}")
    # What an increment removed has no part in the state.
    removed = dict.fromkeys(row_names - state.keys(), "[any]")
    expected = removed | {name: shape for part in parts for name, shape in part.items()}
    found = {
        name: _shape(name, entry.size, row_names)
        for name, entry in reader.tensors().items()
        if not name.startswith(_RANDOM)
    }
    faults = [f"it lacks {name}" for name in sorted(expected.keys() - found.keys())]
    faults += [
        f"it holds {name}, which is unknown" for name in sorted(found.keys() - expected.keys())
    ]
    faults += [
        f"{name} is of shape {found[name]}, expected {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if faults:
        raise CheckpointError(
            f"checkpoint {reader.path} is not of this model and optimizer: {'; '.join(faults)}. "
            "Build both as they were when it was written, or start in another folder"
        )


def _shape(name: str, size: Sequence[int], row_names: Set[str]) -> str:
    sizes = [str(length) for length in size]
    return f"[{', '.join(['any', *sizes[1:]] if name in row_names else sizes)}]"
