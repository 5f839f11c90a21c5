"""Where optimizers keep the state that a transfer takes along."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from torchrec_gr.embeddings.dynamic_table import DynamicTable
from torchrec_gr.embeddings.row_optimizer import applied_optimizer
from torchrec_gr.training.source import Source, SourceTable
from torchrec_gr.training.transfer_plan import TablePlan
from torchrec_gr.training.transfer_targets import StaticTable, static_table, whole_shape

States = Mapping[str, Mapping[str, Tensor]]
"""Of a `ScheduledOptimizer`: by parameter, then by the state's name."""

_ROW_STATE = ".momentum1"


def table_state(
    target: StaticTable, source: SourceTable, plan: TablePlan, states: States
) -> StaticTable:
    """Where the state of a fused optimizer's rows lies.

    Raises:
        ValueError: source and target are not trained by the same optimizer that keeps one.
    """
    if not target.held:
        return target  # the processes that hold the table check
    kept = states.get(target.name, {})
    found = [state for name, state in kept.items() if name.endswith(_ROW_STATE)]
    own = None
    if found:
        own = "rowwise_adagrad" if len(whole_shape(found[0])) == 1 else "adagrad"
    _require_same(target.name, own, source, plan)
    if own == "adagrad" and target.shape[1] != source.dim:
        raise ValueError(
            f"{target.name}: Adagrad's state has the source's width of {source.dim}, not "
            f"{target.shape[1]}: leave optimizer_state out"
        )
    state = static_table(target.name, found[0])
    if {held.first for held in state.held} != {held.first for held in target.held}:
        raise ValueError(
            f"{target.name}: the state's rows do not lie where the table's do: leave "
            "optimizer_state out"
        )
    return state


def require_dynamic_state(
    name: str, target: DynamicTable, source: SourceTable, plan: TablePlan
) -> None:
    """Lets a dynamic table keep the source's state.

    Raises:
        ValueError: source and target are not trained by the same optimizer that keeps one.
    """
    optimizer = target.optimizer or applied_optimizer(target.weight)
    own = None if optimizer is None or optimizer.name == "sgd" else optimizer.name
    _require_same(name, own, source, plan)
    if own == "adagrad" and target.config.embedding_dim != source.dim:
        raise ValueError(
            f"{name}: Adagrad's state has the source's width of {source.dim}, not "
            f"{target.config.embedding_dim}: leave optimizer_state out"
        )


def dense_state(name: str, source: Source, of: str, states: States) -> list[tuple[Tensor, Tensor]]:
    """AdamW's state of a parameter, each tensor with the source's that goes there.

    Raises:
        ValueError: either keeps none.
    """
    given, own = source.dense_state(of), states.get(name)
    if not given or not own or given.keys() != own.keys():
        raise ValueError(
            f"dense_optimizer_state of {name}: the model's optimizer keeps "
            f"{sorted(own or ()) or 'none'}, {source.name} {sorted(given or ()) or 'none'} of "
            f"{of}: leave dense_optimizer_state out"
        )
    return [(own[key], given[key]) for key in own]


def _require_same(name: str, own: str | None, source: SourceTable, plan: TablePlan) -> None:
    if own is None or source.optimizer != own:
        raise ValueError(
            f"optimizer_state of {name}: {plan.source!r} of the source has the state of "
            f"{source.optimizer or 'no optimizer'}, the model's table is trained by "
            f"{own or 'one that keeps none, or by none'}: leave optimizer_state out, or train it "
            "by the source's optimizer"
        )
