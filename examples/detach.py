"""Takes a sequence module off a model again, before and after the model was sharded.

python -m examples.detach
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torchrec.models.dlrm import DLRM

from examples.attach_own_model import MY_ITEMS, ClickModel, made_up_batch, pretrained_artefact
from pipelines.configuration.command_line import report_errors
from torchrec_gr import attach_pretrained, detach_pretrained
from torchrec_gr.training.optimizer import TableOptimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard

WHAT: dict[str, Any] = {
    "features": {"item_id": "clicked", "cluster": None, "action": None},
    "candidate": {"item_id": "item"},
    "vocabularies": {"item_id": MY_ITEMS},
}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(arguments)
    with report_errors(), process_group("cpu") as device, TemporaryDirectory() as folder:
        run(pretrained_artefact(Path(folder)), device)


def run(pretrained: Path, device: torch.device) -> None:
    """Attaches and takes off, twice."""
    torch.manual_seed(0)
    dense, ids, _ = made_up_batch(seed=0)
    model = DLRM(
        ClickModel().bags,
        dense.shape[1],
        dense_arch_layer_sizes=[16, 8],
        over_arch_layer_sizes=[32, 1],
    )
    checkpoint, before = model.state_dict(), model(dense, ids)

    attach_pretrained(model, pretrained, **WHAT)
    new = [name for name in model.state_dict() if name not in checkpoint]
    print(f"attached: {type(model).__name__} has {len(new)} parameters more, such as {new[0]}")
    model.load_state_dict(checkpoint)  # from before: it loads all the same
    detach_pretrained(model)
    print(
        f"taken off: {type(model).__name__} has {len(model.state_dict()) - len(checkpoint)} "
        f"more, predictions bit-equal: {torch.equal(model(dense, ids), before)}"
    )

    sharded = shard(model, device=device, table_optimizer=TableOptimizer())
    attached = attach_pretrained(sharded, pretrained, **WHAT)
    print(f"attached to the sharded model: {sorted(attached.plan.plan)}")
    sharded = detach_pretrained(attached)
    print(
        f"taken off: {sorted(sharded.plan.plan)}, predictions bit-equal: "
        f"{torch.equal(sharded(dense, ids), before)}"
    )


if __name__ == "__main__":
    main()
