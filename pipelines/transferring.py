"""Moves an earlier run's weights into a model of another stage or another day."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from pipelines.run_folder import read_vocabularies
from torchrec_gr.pretrained import has_artefact, load_pretrained
from torchrec_gr.schema.vocabulary import Vocabulary
from torchrec_gr.training.checkpoint import read_weights
from torchrec_gr.training.freeze import freeze
from torchrec_gr.training.source import Source, TableInMemory, WeightsInMemory
from torchrec_gr.training.strategy import Strategy, moves_dense
from torchrec_gr.training.tables import table_of, table_weights
from torchrec_gr.training.transfer import transfer
from torchrec_gr.training.transfer_plan import TablePlan, TransferPlan
from torchrec_gr.training.transfer_report import TransferReport


@dataclasses.dataclass(frozen=True)
class Transferred:
    """What came from an earlier run.

    Args:
        report: of every parameter.
        tables: the tables that did, by name.
        dense: the dense parameters that did, by name.
    """

    report: TransferReport
    tables: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()


def open_weights(run_dir: Path) -> Source:
    """The weights of a run: its artefact, or else its newest checkpoint.

    Raises:
        ValueError: the folder has neither, or what it has is damaged.
    """
    if has_artefact(run_dir):
        return load_pretrained(run_dir)
    weights, vocabularies = read_weights(run_dir), read_vocabularies(run_dir)
    tables = {
        table: TableInMemory(weight, ids=vocabularies[table].row_ids())
        for name, weight in weights.items()
        if (table := table_of(name)) is not None
    }
    dense = {name: weight for name, weight in weights.items() if table_of(name) is None}
    return WeightsInMemory(str(run_dir), tables, dense)


def move_weights(
    model: nn.Module,
    source: Source | None,
    strategy: Strategy,
    vocabularies: Mapping[str, Vocabulary],
) -> Transferred:
    """Loads what a strategy takes of a source into a model that is not sharded yet.

    What the strategy freezes for good is frozen.

    Args:
        model: the target.
        source: the weights; None for "none".
        strategy: how they come in.
        vocabularies: what the rows of the model's tables stand for.

    Raises:
        ValueError: the model has no table in common with the source or, where the strategy takes
            the dense part, no dense parameter.
    """
    if source is None or strategy == "none":
        return Transferred(transfer(WeightsInMemory("nothing", {}), model, TransferPlan({})))
    tables = [table for table in table_weights(model) if table in source.tables]
    if not tables:
        raise ValueError(
            f"no transfer from {source.name}: its tables are {sorted(source.tables)}, those of "
            f"{type(model).__name__} {sorted(table_weights(model))}"
        )
    dense = _shared_dense(model, source) if moves_dense(strategy) else []
    if strategy.endswith("-freeze"):
        freeze(model, tables)
    plan = TransferPlan(
        tables={table: TablePlan(table, raw_ids=vocabularies[table]) for table in tables},
        dense={name: name for name in dense},
    )
    return Transferred(transfer(source, model, plan), tuple(tables), tuple(dense))


def _shared_dense(model: nn.Module, source: Source) -> list[str]:
    shapes = source.dense_shapes()
    shared = [name for name, _ in model.named_parameters() if name in shapes]
    if not shared:
        raise ValueError(
            f"no full transfer into {type(model).__name__}: it has no dense parameter of the same "
            f"name as one of {source.name}; it can take the tables: use a 'sparse' strategy"
        )
    return shared
