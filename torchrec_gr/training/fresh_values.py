"""First values for weights that were built on the meta device, which holds shapes alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn

from torchrec_gr.training.tables import table_collections


@contextmanager
def fresh_values(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Gives a model's weights on the meta device values; its tables' as its body shards them.

    What is not a table starts from its module's `reset_parameters`, alike on all processes. A
    table's shards start from their table's `init_fn`, each process drawing its own. All follows
    from the state of torch's random generator on the first process, so a seeded run repeats.
    Other weights, and the generator of a model without a weight on meta, are left alone.

    Args:
        model: not sharded yet.
        device: where to train.

    Raises:
        ValueError: a module holds weights on meta and has no `reset_parameters`.
    """
    if not any(weight.is_meta for weight in (*model.parameters(), *model.buffers())):
        yield
        return
    seed = torch.randint(2**62, ()).to(device)
    dist.broadcast(seed, src=0)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(seed))
        _initialise_dense(model, device)
        torch.manual_seed(int(seed) + 1 + dist.get_rank())
        yield


@torch.no_grad()
def _initialise_dense(model: nn.Module, device: torch.device) -> None:
    tables = {part for table in table_collections(model).values() for part in table.modules()}
    made: dict[nn.Parameter, nn.Parameter] = {}  # a weight that two modules share stays one
    for path, module in model.named_modules():
        weights = [*module._parameters.values(), *module._buffers.values()]
        if module in tables or not any(w is not None and w.is_meta for w in weights):
            continue
        if not callable(reset := getattr(module, "reset_parameters", None)):
            raise ValueError(
                f"{path or 'the model'} ({type(module).__name__}) holds weights on the meta device "
                "and has no reset_parameters() to give them values: add one, or build it on a "
                "real device"
            )
        for name, weight in module._parameters.items():
            if weight is not None and weight.is_meta:
                if weight not in made:
                    empty = torch.empty_like(weight, device=device)
                    made[weight] = nn.Parameter(empty, requires_grad=weight.requires_grad)
                module._parameters[name] = made[weight]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device=device)
        reset()
