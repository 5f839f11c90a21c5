"""Dynamic collections trained by any number of processes on the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import PoolingType
from torchrec.optim import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.embeddings.dynamic_collections import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
)
from torchrec_gr.embeddings.dynamic_config import (
    DynamicEmbeddingBagConfig,
    DynamicEmbeddingConfig,
)
from torchrec_gr.embeddings.dynamic_sharding import (
    DynamicEmbeddingBagSharder,
    DynamicEmbeddingSharder,
)
from torchrec_gr.embeddings.dynamic_table import DynamicTable, dynamic_tables

NUM_STEPS = 5
FROZEN = ("rows.embeddings.item", "rows.embeddings.city", "bags.embedding_bags.bag_user")
"""All tables of one width, and one of two that are merged."""
KEYS = ["hist", "cand", "user", "city"]


class Both(nn.Module):
    """Both kinds of collection, tables of two widths and other admission."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = DynamicEmbeddingCollection(
            [
                DynamicEmbeddingConfig(
                    name="item", embedding_dim=8, feature_names=["hist", "cand"]
                ),
                DynamicEmbeddingConfig(name="user", embedding_dim=4, feature_names=["user"]),
                DynamicEmbeddingConfig(
                    name="city", embedding_dim=8, feature_names=["city"], admit_after=3
                ),
            ]
        )
        self.bags = DynamicEmbeddingBagCollection(
            [
                DynamicEmbeddingBagConfig(
                    name="bag_item",
                    embedding_dim=4,
                    feature_names=["hist", "cand"],
                    pooling=PoolingType.MEAN,
                ),
                DynamicEmbeddingBagConfig(name="bag_user", embedding_dim=4, feature_names=["user"]),
            ]
        )

    def forward(self, kjt: KeyedJaggedTensor) -> tuple[dict[str, Tensor], Tensor]:
        rows = {name: jt.values() for name, jt in self.rows(kjt).items()}
        return rows, self.bags(kjt).values()


def model(**deduplicate: bool) -> DistributedModelParallel:
    torch.manual_seed(3)
    plain = Both()
    apply_optimizer_in_backward(RowWiseAdagrad, plain.parameters(), {"lr": 0.1})
    sharders = [DynamicEmbeddingSharder(**deduplicate), DynamicEmbeddingBagSharder(**deduplicate)]
    plan = {
        path: construct_module_sharding_plan(
            module,
            {table.config.name: row_wise() for table in module.tables()},
            sharder=sharder,  # type: ignore[arg-type]
            device_type="cpu",
            local_size=dist.get_world_size(),
        )
        for (path, module), sharder in zip(plain.named_children(), sharders, strict=True)
    }
    return DistributedModelParallel(
        plain,
        device=torch.device("cpu"),
        plan=ShardingPlan(plan),
        sharders=sharders,  # type: ignore[arg-type]
    )


def batch(step: int, rank: int, size: int) -> KeyedJaggedTensor:
    """This process's part of a batch of 9 rows, of uneven shares; in step 2 it is all rank 0's."""
    random = torch.Generator().manual_seed(step)
    lengths = torch.randint(4, (len(KEYS), 9), generator=random)
    values = torch.randint(-20, 20, (int(lengths.sum()),), generator=random)
    values[values == 7] = 2**63 - 1
    bounds = (
        [0, 9] + [9] * (size - 1) if step == 2 else [9 * r**2 // size**2 for r in range(size + 1)]
    )
    mine = range(bounds[rank], bounds[rank + 1])
    rows = values.split(lengths.flatten().tolist())
    parts = [rows[key * 9 + row] for key in range(len(KEYS)) for row in mine]
    return KeyedJaggedTensor(
        keys=KEYS,
        values=torch.cat([torch.empty(0, dtype=torch.int64), *parts]),
        lengths=lengths[:, list(mine)].flatten(),
        stride=len(mine),
    )


def train(sharded: nn.Module, first: int = 0, last: int = NUM_STEPS) -> None:
    """Steps whose gradients, summed over the processes, do not depend on their number."""
    rank, size = dist.get_rank(), dist.get_world_size()
    sharded.train()
    for step in range(first, last):
        rows, bags = sharded(batch(step, rank, size))
        # TorchRec divides tables' gradients by the number of processes.
        sum((part**2 + part).sum() * size for part in (*rows.values(), bags)).backward()


def records(sharded: nn.Module) -> dict[str, dict[int, Any]]:
    """What each id has, wherever it is: weight, optimizer state, count, last step."""
    found: dict[str, dict[int, Any]] = {}
    for name, table in dynamic_tables(sharded).items():
        found[name] = {}
        for part in _gathered(table):
            rows = zip(part["ids"], part["weight"], part["optimizer"], part["seen"], strict=True)
            found[name] |= {int(i): (w, o, s.tolist()) for i, w, o, s in rows}
            waiting = zip(part["waiting_ids"], part["waiting_seen"], strict=True)
            found[name] |= {int(i): s.tolist() for i, s in waiting}
    return found


def _gathered(table: DynamicTable) -> list[dict[str, Tensor]]:
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, vars(table.rows()))
    return parts


def probe(sharded: nn.Module) -> list[Tensor]:
    """What evaluation reads of some ids, known and unknown."""
    sharded.eval()
    ids = torch.arange(-25, 25)
    kjt = KeyedJaggedTensor(
        keys=KEYS, values=ids.repeat(len(KEYS)), lengths=torch.ones(len(KEYS) * 50).long()
    )
    with torch.no_grad():
        rows, bags = sharded(kjt)
    return [*(rows[name] for name in KEYS), bags]


def num_exchanged_bytes(sharded: nn.Module) -> int:
    """What this process has sent."""
    return sum(getattr(module, "num_exchanged_bytes", 0) for module in sharded.modules())


def results() -> dict[str, Any]:
    """Of this number of processes."""
    sharded, unshared = model(), model(deduplicate_requests=False)
    train(sharded)
    train(unshared)
    held: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(
        held, sum(table.report().rows for table in dynamic_tables(sharded).values())
    )
    found = {
        "bytes": [num_exchanged_bytes(sharded), num_exchanged_bytes(unshared)],
        "records": records(sharded),
        "not deduplicated": records(unshared),
        "probe": probe(sharded),
        "held": held,
    }
    loaded = model()
    loaded.load_state_dict(sharded.state_dict())
    found["loaded"] = records(loaded)
    by_sender = model(deduplicate_owned=False)
    train(by_sender)
    found["counts by sender"] = {
        name: {i: value if isinstance(value, list) else value[2][:1] for i, value in ids.items()}
        for name, ids in records(by_sender).items()
    }
    return found | _frozen_results()


def _frozen_results() -> dict[str, Any]:
    """With tables that are frozen in steps 3 and 4 of 6. No table's rows bear on another's."""
    sharded, skipping, through = model(), model(), model()
    train(sharded, 0, 3)
    _freeze(sharded, True)
    before, sent = records(sharded), num_exchanged_bytes(sharded)
    train(sharded, 3, 5)
    sent = num_exchanged_bytes(sharded) - sent
    frozen = records(sharded)
    _freeze(sharded, False)
    train(sharded, 5, 6)
    train(skipping, 0, 3)
    train(skipping, 5, 6)
    train(through, 0, 3)
    sent_through = num_exchanged_bytes(through)
    train(through, 3, 6)
    return {
        "before": before,
        "frozen": frozen,
        "thawed": records(sharded),
        "skipping": records(skipping),
        "through": records(through),
        "frozen bytes": [sent, num_exchanged_bytes(through) - sent_through],
    }


def _freeze(sharded: nn.Module, frozen: bool) -> None:
    for name, table in dynamic_tables(sharded).items():
        if name in FROZEN:
            table.weight.requires_grad_(not frozen)


def results_of(world_size: int, work_dir: Path) -> dict[str, Any]:
    """`results` of so many processes."""
    multiprocessing.spawn(_run, args=(world_size, work_dir), nprocs=world_size)
    return torch.load(work_dir / f"{world_size}.pt", weights_only=False)


def _run(rank: int, world_size: int, work_dir: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(work_dir / f"store{world_size}"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    found = results()
    if rank == 0:
        torch.save(found, work_dir / f"{world_size}.pt")
    dist.barrier()
    dist.destroy_process_group()
