"""What dynamic tables hold, process by process."""

from __future__ import annotations

import dataclasses

import torch.distributed as dist
from torch import nn

from torchrec_gr.embeddings.dynamic_table import TableReport, dynamic_tables


def table_reports(model: nn.Module) -> dict[str, list[TableReport]]:
    """Of each dynamic table of a model, by path, the reports of all processes in their order.

    All processes must ask together, where there are several.
    """
    mine = {name: table.report() for name, table in dynamic_tables(model).items()}
    if not dist.is_initialized():
        return {name: [report] for name, report in mine.items()}
    parts = [mine] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    return {name: [part[name] for part in parts] for name in mine}


def total(reports: list[TableReport]) -> TableReport:
    """The sums over processes."""
    fields = [field.name for field in dataclasses.fields(TableReport)]
    return TableReport(**{name: sum(getattr(r, name) for r in reports) for name in fields})


def describe(reports: dict[str, list[TableReport]]) -> str:
    """The reports as a table to be read, a line for each table and process."""
    fields = [field.name for field in dataclasses.fields(TableReport)]
    lines = [f"{'table':40} {'process':>8}" + "".join(f"{name:>14}" for name in fields)]
    for table, parts in reports.items():
        for rank, report in enumerate(parts):
            numbers = "".join(f"{getattr(report, name):>14,}" for name in fields)
            lines.append(f"{table:40} {rank:>8}{numbers}")
    return "\n".join(lines)
