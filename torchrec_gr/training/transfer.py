"""Moves pretrained weights into another model, by the five strategies of GPSD."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from torchrec_gr.training.freeze import freeze_tables
from torchrec_gr.training.tables import table_of

Strategy = Literal["none", "full", "sparse", "full-freeze", "sparse-freeze"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclasses.dataclass(frozen=True)
class TransferReport:
    """What a transfer did with the model's parameters, by name.

    Args:
        loaded: set from the pretrained weights.
        left: as the model was initialised.
        frozen: loaded, and kept as they are in training.
        unused: pretrained weights that found no place.
    """

    loaded: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


def transfer(
    model: nn.Module,
    pretrained: Mapping[str, Tensor],
    strategy: Strategy,
    *,
    tables: Mapping[str, str] | None = None,
) -> TransferReport:
    """Loads pretrained weights into a model that is not sharded yet, and freezes what is to freeze.

    "none" leaves the model as it is. "sparse" loads its tables, by table name, from an
    EmbeddingCollection or an EmbeddingBagCollection. "full" loads every dense parameter of the same
    name as well. "-freeze" freezes the loaded tables. A table may have more rows than the
    pretrained one, where its vocabulary was extended: old ids keep their rows, so the first rows
    are loaded.

    Args:
        model: the target.
        pretrained: whole tensors by parameter name, as `read_weights` gives them.
        strategy: one of STRATEGIES.
        tables: which of the model's tables to load, each with the pretrained table's name. Default:
            every table that both have.

    Raises:
        ValueError: an unknown strategy, nothing to load, a table that is missing, or a shape that
            does not fit; the model is then untouched.

    Source: GPSD (arXiv 2506.03699), transfer strategies: none, full, sparse, each with the sparse
    part frozen or not.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: expected one of {', '.join(STRATEGIES)}")
    names = [name for name, _ in model.named_parameters()]
    if strategy == "none":
        return TransferReport(left=tuple(names), unused=tuple(pretrained))
    sources = _table_sources(model, pretrained, tables)
    if strategy.startswith("full"):
        sources |= _dense_sources(model, pretrained)
    parameters = dict(model.named_parameters())
    _require_fit(parameters, pretrained, sources)
    with torch.no_grad():
        for name, source in sources.items():
            parameters[name][: len(pretrained[source])].copy_(pretrained[source])
    frozen = [n for n in sources if table_of(n)] if strategy.endswith("freeze") else []
    freeze_tables(model, [str(table_of(name)) for name in frozen])
    return TransferReport(
        loaded=tuple(sources),
        left=tuple(name for name in names if name not in sources),
        frozen=tuple(frozen),
        unused=tuple(name for name in pretrained if name not in sources.values()),
    )


def _table_sources(
    model: nn.Module, pretrained: Mapping[str, Tensor], tables: Mapping[str, str] | None
) -> dict[str, str]:
    """The model's table weights to load, each with the name of the pretrained one."""
    sources = {table: name for name in pretrained if (table := table_of(name)) is not None}
    targets = {
        table: name for name, _ in model.named_parameters() if (table := table_of(name)) is not None
    }
    if tables is None:
        tables = {table: table for table in targets if table in sources}
    missing = sorted(set(tables) - set(targets))
    missing_sources = sorted(set(tables.values()) - set(sources))
    if not tables or missing or missing_sources:
        raise ValueError(
            f"cannot transfer tables: the model lacks {missing}, the pretrained weights lack "
            f"{missing_sources}; the model's tables are {sorted(targets)}, the pretrained ones "
            f"{sorted(sources)}"
        )
    return {targets[table]: sources[source] for table, source in tables.items()}


def _dense_sources(model: nn.Module, pretrained: Mapping[str, Tensor]) -> dict[str, str]:
    names = [
        name
        for name, _ in model.named_parameters()
        if name in pretrained and table_of(name) is None
    ]
    if not names:
        raise ValueError(
            f"no full transfer into {type(model).__name__}: it has no dense parameter of the same "
            "name as a pretrained one; it can take the tables: use 'sparse' or 'sparse-freeze'"
        )
    return {name: name for name in names}


def _require_fit(
    parameters: Mapping[str, Tensor], pretrained: Mapping[str, Tensor], sources: Mapping[str, str]
) -> None:
    for name, source in sources.items():
        if parameters[name].is_meta:
            raise ValueError(
                f"cannot transfer {source} into {name}, which is on the meta device and holds "
                "nothing yet: build the model's tables on a real device"
            )
        target, value = parameters[name].shape, pretrained[source].shape
        grown = table_of(name) is not None and target[1:] == value[1:] and target[0] >= value[0]
        if target != value and not grown:
            raise ValueError(
                f"cannot transfer {source} of shape {tuple(value)} into {name} of shape "
                f"{tuple(target)}: widths must be equal, and a table may only have gained rows"
            )
