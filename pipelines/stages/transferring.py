"""Moves an earlier run's weights into a model of another stage or another day."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from pipelines.stages.run_folder import read_vocabularies
from torchrec_gr.pretrained import has_artefact, load_pretrained
from torchrec_gr.schema.vocabulary import Vocabulary
from torchrec_gr.training.checkpoint import read_weights
from torchrec_gr.training.freeze import freeze
from torchrec_gr.training.source import Source, TableInMemory, WeightsInMemory
from torchrec_gr.training.strategy import Strategy, freezes_tables, moves_dense
from torchrec_gr.training.tables import table_of, table_weights
from torchrec_gr.training.transfer import transfer
from torchrec_gr.training.transfer_plan import SAME_ROWS, TablePlan, TransferPlan
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


@dataclasses.dataclass(frozen=True)
class FirstWeights:
    """Where a ranker's first weights come from, beside its seed.

    Args:
        strategy: how those of a pretraining come in.
        pretrained: the pretraining's run, or an artefact; None with strategy "none".
        earlier: an earlier ranker's run, all of which is taken; instead of `pretrained`.

    Raises:
        ValueError: a strategy that takes weights, and none to take.
    """

    strategy: Strategy = "none"
    pretrained: Path | None = None
    earlier: Path | None = None

    def __post_init__(self) -> None:
        if self.strategy != "none" and self.pretrained is None and self.earlier is None:
            raise ValueError(
                f"strategy {self.strategy!r} needs a pretrained run: name one with --pretrained, "
                "or make one with python -m pipelines.pretrain"
            )


def bring_in(
    model: nn.Module, first: FirstWeights, vocabularies: Mapping[str, Vocabulary]
) -> Transferred:
    """Loads a ranker's first weights by the names of its tables and parameters.

    Args:
        model: not sharded yet.
        first: where they are.
        vocabularies: what the rows of the model's tables stand for.

    Raises:
        ValueError: as `move_weights`.
    """
    if first.earlier is not None:
        return move_weights(model, open_weights(first.earlier), "full", vocabularies)
    if first.pretrained is None or first.strategy == "none":
        return move_weights(model, None, "none", vocabularies)
    return move_weights(model, open_weights(first.pretrained), first.strategy, vocabularies)


def open_weights(run_dir: Path) -> Source:
    """The weights of a run: its artefact, or else its newest checkpoint.

    Raises:
        ValueError: the folder has neither, or what it has is damaged.
    """
    if has_artefact(run_dir):
        return load_pretrained(run_dir)
    weights, vocabularies = read_weights(run_dir), _by_any_name(read_vocabularies(run_dir))
    tables = {
        table: TableInMemory(
            weight, vocabularies[table].row_ids() if table in vocabularies else None
        )
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
        vocabularies: what the rows of the model's tables stand for. Tables without one, such as
            those of a multi-hash table, are taken row by row.

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
    if freezes_tables(strategy):
        freeze(model, [*tables, *dense] if strategy == "frozen" else tables)
    rows = _by_any_name(vocabularies)
    plan = TransferPlan(
        tables={table: TablePlan(table, raw_ids=rows.get(table, SAME_ROWS)) for table in tables},
        dense={name: name for name in dense},
    )
    return Transferred(transfer(source, model, plan), tuple(tables), tuple(dense))


def _by_any_name(vocabularies: Mapping[str, Vocabulary]) -> dict[str, Vocabulary]:
    """By the name of the table, and by the name that it has in an attached module."""
    return {**vocabularies, **{f"pretrained_{name}": v for name, v in vocabularies.items()}}


def _shared_dense(model: nn.Module, source: Source) -> list[str]:
    shapes = source.dense_shapes()
    shared = [name for name, _ in model.named_parameters() if name in shapes]
    if not shared:
        raise ValueError(
            f"no full transfer into {type(model).__name__}: it has no dense parameter of the same "
            f"name as one of {source.name}; it can take the tables: use a 'sparse' strategy"
        )
    return shared
