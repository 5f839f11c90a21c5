"""Items that come and go: DLRM with a hashed item table, and with dynamic ones, bounded and not.

    python -m benchmarks.unbounded_ids

The log is `synthetic` with items that live a few days, new ones every day. A model goes through it
once in time order: each day is scored before it is trained on. The AUC is that of all days after
the first ten; the AUC of the last three stands beside that of the true probabilities, the ceiling.

All models are the same but for the item table: the ids' hashes modulo the rows of a static table,
or a dynamic table that evicts within a budget of rows, or one without a budget. The static table
has as many rows as fit into all the bytes, map and counts among them, that the budget comes to.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from benchmarks.daily_log import CONTEXT, ITEM, NUM_DAYS, Day, Log, draw_log
from benchmarks.measure import Row, Table, figure, machine, parse, print_machine, write_json
from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingBagConfig, Eviction
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.metrics import auc
from torchrec_gr.models.dlrm import DLRMConfig, build_dlrm
from torchrec_gr.modules.impression_ranker import ImpressionRanker
from torchrec_gr.training.optimizer import (
    DenseOptimizer,
    Schedule,
    TableOptimizer,
    build_optimizer,
)
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard
from torchrec_gr.training.trainer import Trainer

Tables = Sequence[EmbeddingBagConfig] | Sequence[DynamicEmbeddingBagConfig]

STATIC, LRU, LFU, UNLIMITED = "static, hashed", "dynamic, LRU", "dynamic, LFU", "unlimited"

_TABLE_OPTIMIZER = TableOptimizer("rowwise_adagrad", lr=0.2)
_DENSE_OPTIMIZER = DenseOptimizer(lr=1e-3, weight_decay=0.0)
_WIDTH = 16
_ROW_BYTES = 4 * (_WIDTH + 1)  # with row-wise Adagrad's state
_INIT_STD = {name: 0.01 if name == ITEM else 0.1 for name in (ITEM, *CONTEXT)}
_FIRST_SCORED_DAY = 10


class Plan(NamedTuple):
    """What is compared.

    Args:
        log: arguments of `draw_log`, but for the seed.
        max_rows: the budget of the item table.
        batch_size: of training.
        seeds: each draws a log and initial weights. Those of `FULL` were not looked at while its
            settings were chosen, on seeds 0 to 3.
    """

    log: Mapping[str, Any]
    max_rows: int
    batch_size: int
    seeds: Sequence[int]


FULL = Plan(
    {"num_users": 200, "num_items": 30_000, "num_impressions": 1_000_000, "item_lifetime_days": 5},
    max_rows=2_000,
    batch_size=1024,
    seeds=range(5, 10),
)
QUICK = Plan(
    {"num_users": 100, "num_items": 3_000, "num_impressions": 20_000, "item_lifetime_days": 5},
    max_rows=400,
    batch_size=512,
    seeds=range(2),
)


class Outcome(NamedTuple):
    """What going through a log came to.

    Args:
        auc: of all scored days, each scored before it was trained on.
        test_auc: of the test days among them.
        item_rows, item_bytes: of the item table in the end, all that belongs to it.
    """

    auc: float
    test_auc: float
    item_rows: int
    item_bytes: int


def measure(plan: Plan) -> list[Row]:
    """Prints the AUCs of each seed as they come, then their means."""
    print(f"\nAUC from day {_FIRST_SCORED_DAY} on. The log: {dict(plan.log)}")
    names = (STATIC, LRU, LFU, UNLIMITED)
    table = Table({"seed": 4} | dict.fromkeys(names, 14))
    runs: list[dict[str, Outcome]] = []
    ceilings: list[float] = []
    for seed in plan.seeds:
        log = draw_log(seed, **plan.log)
        outcomes = compare(log, plan, seed)
        table.row(f"{seed}", *(f"{outcomes[name].auc:.4f}" for name in names))
        runs.append(outcomes)
        ceilings.append(log.ceiling)
    by_name = {name: [run[name] for run in runs] for name in names}
    return _summarise(by_name, statistics.mean(ceilings), plan)


def compare(log: Log, plan: Plan, seed: int) -> dict[str, Outcome]:
    """What each kind of item table comes to."""
    outcomes = {
        LRU: go_through(log, dynamic_configs(plan.max_rows, "lru"), plan.batch_size, seed),
        LFU: go_through(log, dynamic_configs(plan.max_rows, "lfu"), plan.batch_size, seed),
        UNLIMITED: go_through(log, dynamic_configs(None, "lru"), plan.batch_size, seed),
    }
    num_rows = outcomes[LRU].item_bytes // _ROW_BYTES
    hashed = log.with_ids(ITEM, log.ids[ITEM] % num_rows)  # they are as good as random already
    configs = static_configs(hashed, num_rows)
    return outcomes | {STATIC: go_through(hashed, configs, plan.batch_size, seed)}


def dynamic_configs(max_rows: int | None, eviction: Eviction) -> list[DynamicEmbeddingBagConfig]:
    """Dynamic tables, that of the items with a budget."""
    return [
        DynamicEmbeddingBagConfig(
            name=name,
            embedding_dim=_WIDTH,
            feature_names=[name],
            max_rows=max_rows if name == ITEM else None,
            eviction=eviction,
            init_std=_INIT_STD[name],
        )
        for name in (ITEM, *CONTEXT)
    ]


def static_configs(log: Log, num_rows: int) -> list[EmbeddingBagConfig]:
    """TorchRec's tables, each as large as its feature asks, that of the items as given."""
    bounds = {name: std * math.sqrt(3) for name, std in _INIT_STD.items()}
    return [
        EmbeddingBagConfig(
            name=name,
            embedding_dim=_WIDTH,
            num_embeddings=num_rows if name == ITEM else int(log.ids[name].max()) + 1,
            feature_names=[name],
            init_fn=partial(nn.init.uniform_, a=-bounds[name], b=bounds[name]),
        )
        for name in (ITEM, *CONTEXT)
    ]


def go_through(log: Log, tables: Tables, batch_size: int, seed: int) -> Outcome:
    """Trains a DLRM day by day, each scored before it is trained on."""
    torch.manual_seed(seed)
    dlrm = build_dlrm(tables, log.dense.shape[1], DLRMConfig())
    torch.manual_seed(seed)  # the same dense part, whatever the tables drew
    for layer in dlrm.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    model = shard(
        ImpressionRanker(dlrm), device=torch.device("cpu"), table_optimizer=_TABLE_OPTIMIZER
    )
    optimizer = build_optimizer(model, _TABLE_OPTIMIZER, _DENSE_OPTIMIZER, Schedule())
    days = [Day(log, number, batch_size) for number in range(NUM_DAYS)]
    trainer = Trainer(model, optimizer, days[0])
    scored = []
    for number, day in enumerate(days):
        if number >= _FIRST_SCORED_DAY:
            scored.append(trainer.evaluate(day))
        trainer.loader = day
        trainer.train_epoch()
    labels, logits, rows = (
        np.concatenate([getattr(scores, field) for scores in scored]).squeeze()
        for field in ("labels", "logits", "source_rows")
    )
    test = log.day.numpy()[rows] >= log.first_test_day
    aucs = auc(labels, logits), auc(labels[test], logits[test])
    return Outcome(*aucs, *_item_table(model, tables))


def _item_table(model: nn.Module, tables: Tables) -> tuple[int, int]:
    """Its rows and bytes."""
    if isinstance(tables[0], EmbeddingBagConfig):
        num_rows = tables[0].num_embeddings
        return num_rows, num_rows * _ROW_BYTES
    items = next(table for table in dynamic_tables(model).values() if table.config.name == ITEM)
    report = items.report()
    return report.rows, report.bytes


def _summarise(outcomes: Mapping[str, Sequence[Outcome]], ceiling: float, plan: Plan) -> list[Row]:
    """Means over the seeds, and the differences' own noise: seeds are compared one by one."""
    table = Table(
        {"item table": 14, "rows": 7, "MB": 7, "AUC": 7, "above static": 18, "last 3 days": 11}
    )
    rows = []
    for name, runs in outcomes.items():
        gains = [run.auc - static.auc for run, static in zip(runs, outcomes[STATIC], strict=True)]
        gain, error = statistics.mean(gains), _standard_error(gains)
        mean_auc = statistics.mean(run.auc for run in runs)
        test_auc = statistics.mean(run.test_auc for run in runs)
        table.row(
            name,
            f"{runs[-1].item_rows:,}",
            f"{runs[-1].item_bytes / 1e6:.2f}",
            f"{mean_auc:.4f}",
            f"{gain:+.4f} +- {error:.4f}",
            f"{test_auc:.4f}",
        )
        case = {"item_table": name, "max_rows": plan.max_rows, "seeds": len(runs), **plan.log}
        rows += [
            figure("unbounded_ids_auc", case, mean_auc),
            figure("unbounded_ids_test_auc", case, test_auc),
            figure("unbounded_ids_bytes", case, runs[-1].item_bytes),
            figure("unbounded_ids_auc_gain", case, gain),
            figure("unbounded_ids_auc_gain_standard_error", case, error),
        ]
    table.row("ceiling", "", "", "", "", f"{ceiling:.4f}")
    print("above static: the mean over seeds, each its own log, +- its standard error")
    return [*rows, figure("unbounded_ids_test_ceiling", dict(plan.log), ceiling)]


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


if __name__ == "__main__":
    options = parse("benchmarks.unbounded_ids", __doc__)
    measured_on = machine((), 0.0)
    print_machine(measured_on)
    with process_group("cpu"):
        measured = measure(QUICK if options.quick else FULL)
    if options.json:
        write_json(options.json, measured_on, measured)
