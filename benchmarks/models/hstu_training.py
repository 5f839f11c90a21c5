"""Training steps of HSTU on drawn histories, its attention jagged or padded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.measure import Row, Table, best_milliseconds, compared, figure, largest_difference
from benchmarks.models.padded_hstu import padded
from torchrec_gr.models.hstu import HSTURecommender
from torchrec_gr.models.hstu_config import HSTUConfig
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema
from torchrec_gr.schema.feature_schema import Table as ItemTable
from torchrec_gr.sequences.request_batch import NO_TIME, RequestBatch, negative_key
from torchrec_gr.training.optimizer import DenseOptimizer, Schedule, TableOptimizer, build_optimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard

ITEM = "history_item"
NUM_ITEMS = 3417
_SCHEMA = FeatureSchema(
    name="histories",
    labels=("label",),
    features=(Feature(ITEM, "history", column="item", table="item"),),
    tables=(ItemTable("item"),),
    user="user_id",
    time="time",
    target=ITEM,
)
_TABLES = TableOptimizer("rowwise_adagrad", lr=0.01)
_TOLERANCE = 1e-4


class Case(NamedTuple):
    """A batch, and the model that it trains.

    Args:
        num_rows: histories, of lengths that are spread evenly from 1 to `max_history`.
        max_history: events.
        num_negatives: drawn for the batch, shared by all of its positions.
        dim, num_layers, num_heads: of the model.
        dropout: of the tokens and in the layers.
    """

    num_rows: int
    max_history: int
    num_negatives: int = 128
    dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.2

    @property
    def name(self) -> str:
        """Of the row."""
        return f"training_{self.max_history}"

    @property
    def config(self) -> HSTUConfig:
        """Of the model."""
        trunk = TrunkConfig(
            "hstu_research",
            self.dim,
            self.num_layers,
            self.num_heads,
            dropout=self.dropout,
            bias="position",
            max_seq_len=self.max_history + 1,
        )
        return HSTUConfig(trunk, self.max_history, None, input_dropout=self.dropout)


def measure_training(cases: Sequence[Case], seconds: float) -> list[Row]:
    """A training step of the same weights, jagged and padded."""
    print("\na training step of HSTU, against the same model with padded attention")
    columns = {"history": 7, "rows": 5, "tokens": 7, "ms": 8, "padded, ms": 8}
    table = Table(columns | {"tokens/s": 9, "padded /s": 9, "ratio": 6})
    with process_group("cpu"):
        return [row for case in cases for row in _measure(case, seconds, table)]


def _measure(case: Case, seconds: float, table: Table) -> list[Row]:
    batch = draw_batch(case)
    models = build_models(case)
    results = [gradients(model, batch) for model in models.values()]
    difference = largest_difference(*results)
    if not difference <= _TOLERANCE:
        raise RuntimeError(f"results differ by {difference:.1e}: {case}")
    steps = {way: training_step(model, batch) for way, model in models.items()}
    for step in steps.values():
        step()
    ms = best_milliseconds(steps, seconds)
    num_tokens = len(batch.history_times)
    a_second = {way: 1000 * num_tokens / of_step for way, of_step in ms.items()}
    described = case._asdict() | {"num_tokens": num_tokens, "padded": "attention alone"}
    row = compared(case.name, described, ms["jagged"], ms["padded"], difference)
    table.row(
        f"{case.max_history}",
        f"{case.num_rows}",
        f"{num_tokens}",
        *(f"{value:.1f}" for value in ms.values()),
        *(f"{value:.0f}" for value in a_second.values()),
        f"{row['ratio']:.2f}",
    )
    return [row] + [
        figure(f"{case.name}_tokens_per_second", case._asdict() | {"by": way}, value)
        for way, value in a_second.items()
    ]


def build_models(case: Case) -> Mapping[str, HSTURecommender]:
    """Both ways, of the same weights."""
    torch.manual_seed(0)
    model = HSTURecommender(case.config, _SCHEMA, {"item": NUM_ITEMS})
    return {"jagged": model, "padded": padded(model)}


def draw_batch(case: Case) -> RequestBatch:
    """Random items in histories of every length."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.linspace(1, case.max_history, case.num_rows).round().long()
    lengths = lengths[torch.randperm(case.num_rows, generator=draw)]
    counts = torch.stack([lengths, torch.zeros_like(lengths)])
    counts[1, 0] = case.num_negatives
    items = torch.randint(1, NUM_ITEMS, (int(counts.sum()),), generator=draw)
    none, num_events = torch.empty(0, dtype=torch.int64), int(lengths.sum())
    return RequestBatch(
        ids=KeyedJaggedTensor([ITEM, negative_key(ITEM)], items, lengths=counts.flatten()),
        contextual=[],
        history=[ITEM],
        candidates=[],
        negatives=[negative_key(ITEM)],
        num_candidates=torch.zeros_like(lengths),
        history_times=torch.full((num_events,), NO_TIME),
        candidate_times=none,
        num_static=torch.zeros_like(lengths),
        user_ids=torch.arange(case.num_rows),
        source_rows=none,
    )


def gradients(model: HSTURecommender, batch: RequestBatch) -> list[Tensor]:
    """The loss, and its gradients of all weights and of the table."""
    torch.manual_seed(0)  # of dropout
    loss, _ = model(batch)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def training_step(model: HSTURecommender, batch: RequestBatch) -> Callable[[], float]:
    """Forward, backward and update of a model that is sharded for it: gives the loss."""
    sharded = shard(model, device=torch.device("cpu"), table_optimizer=_TABLES)
    optimizer = build_optimizer(sharded, _TABLES, DenseOptimizer(), Schedule())

    def step() -> float:
        optimizer.zero_grad()
        loss, _ = sharded(batch)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
