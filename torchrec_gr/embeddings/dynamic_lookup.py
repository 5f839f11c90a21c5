"""Reads the rows of all tables of a collection, and trains them in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingConfig
from torchrec_gr.embeddings.dynamic_table import DynamicTable
from torchrec_gr.embeddings.id_router import IdRouter
from torchrec_gr.embeddings.table_group import Reading, TableGroup


class DynamicLookup:
    """The tables of a collection, those of one width merged, and what one batch reads of them.

    Args:
        tables: configurations; names differ.
        router: to the processes that share the tables' rows; None where one holds them all.
    """

    def __init__(
        self, tables: Sequence[DynamicEmbeddingConfig], router: IdRouter | None = None
    ) -> None:
        num_processes = 1 if router is None else router.num_processes
        widths = dict.fromkeys(config.embedding_dim for config in tables)
        merged = [[c for c in tables if c.embedding_dim == width] for width in widths]
        self.groups = [TableGroup(configs, num_processes) for configs in merged]
        self.tables = [
            DynamicTable(group, number, router)
            for group in self.groups
            for number in range(len(group.configs))
        ]

    def configs_by_group(self) -> list[list[DynamicEmbeddingConfig]]:
        """The tables' configurations, those of one width together."""
        return [group.configs for group in self.groups]

    def as_modules(self) -> nn.ModuleDict:
        """The tables by name, for a module that holds them."""
        return nn.ModuleDict({table.config.name: table for table in self.tables})

    def __call__(
        self,
        ids: Tensor,
        offsets: Tensor,
        counts: Tensor,
        readings: Sequence[Reading],
        *,
        training: bool,
    ) -> list[Tensor]:
        """The rows of a batch's ids, as it reads them.

        Args:
            ids: [n] int64, table by table in the order of `tables`, those of a table different from
                each other.
            offsets: [tables + 1] int64.
            counts: [n] int64, how often each is in the batch.
            readings: of each group: how its ids' rows are read.
            training: count the ids and give rows to new ones; otherwise, and in tables that are
                frozen, they read zeros and nothing changes.

        Returns:
            Of each group [ids, places or bags, dim] float32. In the backward pass each id's
            gradients are summed, and its row takes one step of its table's optimizer.

        Raises:
            ValueError: the ids need more rows than a table's budget allows.
        """
        rows, first = [], 0
        for group, reading in zip(self.groups, readings, strict=True):
            last = first + len(group.configs)
            bounds = offsets[first : last + 1]
            part = slice(int(bounds[0]), int(bounds[-1]))
            asked = ids[part], bounds - bounds[0]
            tables = self.tables[first:last]
            slots = _assign(group, tables, *asked, counts[part]) if training else group.find(*asked)
            weights = [table.weight for table in tables]
            rows.append(_ReadRows.apply(group, slots, *asked, *reading, *weights))
            first = last
        if training:
            for table in self.tables:
                table.step += not table.is_frozen
        return rows


def _assign(
    group: TableGroup, tables: Sequence[DynamicTable], ids: Tensor, offsets: Tensor, counts: Tensor
) -> Tensor:
    """[n] the slots of ids [n]; each table that is not frozen counts them, at its own next step."""
    steps = [-1 if table.is_frozen else int(table.step) + 1 for table in tables]
    if min(steps) == max(steps) > 0:
        return group.assign(ids, offsets, counts, steps[0])
    slots, num_ids = group.find(ids, offsets), offsets.diff()
    for step in sorted({step for step in steps if step > 0}):
        is_at = torch.tensor([one == step for one in steps])
        those = is_at.repeat_interleave(num_ids)
        bounds = nn.functional.pad((num_ids * is_at).cumsum(0), (1, 0))
        slots[those] = group.assign(ids[those], bounds, counts[those], step)
    return slots


class _ReadRows(torch.autograd.Function):
    """Reads rows; its backward pass trains them in place and hands no gradient on."""

    @staticmethod
    def forward(
        ctx: Any,
        group: TableGroup,
        slots: Tensor,
        ids: Tensor,
        offsets: Tensor,
        index: Tensor | None,
        bags: Tensor | None,
        factors: Tensor | None,
        *weights: Tensor,
    ) -> Tensor:
        """What `TableGroup.gather` gives; `weights` only say which tables are trained."""
        ctx.group, ctx.num_removals = group, group.rows.num_removals
        ctx.save_for_backward(slots, ids, offsets, index, bags, factors)
        return group.gather(slots, Reading(index, bags, factors))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
        """Steps the optimizers of the tables whose weights require gradients."""
        slots, ids, offsets, *reading = ctx.saved_tensors
        group, trained = ctx.group, ctx.needs_input_grad[7:]
        if group.rows.num_removals != ctx.num_removals:
            slots = group.find(ids, offsets)  # a batch in between has evicted some
        group.update(slots, offsets, grads[0], trained, Reading(*reading))
        return (None,) * len(ctx.needs_input_grad)
