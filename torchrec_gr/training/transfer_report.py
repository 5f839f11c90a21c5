"""What a transfer did with every parameter, for people and for programs."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Status = Literal["loaded", "resized", "left"]


@dataclasses.dataclass(frozen=True)
class ParameterTransfer:
    """What became of one parameter of the model.

    Args:
        name: in the state dict.
        status: "loaded"; "resized": loaded, with other rows than the source's table or another
            width; "left" as it was.
        frozen: it does not train now.
        note: what a reader should know beside.
    """

    name: str
    status: Status
    frozen: bool = False
    note: str = ""


@dataclasses.dataclass(frozen=True)
class TableTransfer:
    """How much of a table was found in the source, over all processes.

    Args:
        table: the model's.
        source: the source's.
        rows: of the model's table, now.
        found: rows that took the source's row of their id, or of no id.
        traffic: the share of what the rows were seen for in training that the found rows carry;
            None: nobody counted.
        unknown: rows of ids that the source does not know.
        unknown_got: what these got: "keep" (they are as they were), "mean" or "hash".
        unused: rows of the source whose id the table does not have.
    """

    table: str
    source: str
    rows: int
    found: int
    traffic: float | None
    unknown: int
    unknown_got: str
    unused: int

    @property
    def share(self) -> float:
        """Of the rows, those found."""
        return self.found / self.rows if self.rows else 0.0


@dataclasses.dataclass(frozen=True)
class TransferReport:
    """What a transfer did; `str` gives it as tables to be read.

    Args:
        source: its name.
        parameters: every one of the model.
        tables: those that were transferred.
        unused: tables and tensors of the source that found no place.
    """

    source: str
    parameters: Sequence[ParameterTransfer] = ()
    tables: Sequence[TableTransfer] = ()
    unused: Sequence[str] = ()

    def names(self, *statuses: Status) -> list[str]:
        """Of the parameters of these statuses."""
        return [entry.name for entry in self.parameters if entry.status in statuses]

    def to_json(self) -> str:
        """The same for programs, with each table's `share`."""
        document = dataclasses.asdict(self)
        for entry, table in zip(document["tables"], self.tables, strict=True):
            entry["share"] = table.share
        return json.dumps(document, indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes the JSON; an older file stays whole until the new one is."""
        partial = Path(f"{path}.partial-{os.getpid()}")
        try:
            partial.write_text(self.to_json(), encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def __str__(self) -> str:
        parts = [f"transferred from {self.source}"]
        if self.tables:
            cells = [_TABLE_HEADINGS, *map(_table_cells, self.tables)]
            parts.append(_aligned(cells, numbers=_NUMBERS))
        if self.parameters:
            rows = [
                (entry.status, "frozen" if entry.frozen else "", entry.name, entry.note)
                for entry in self.parameters
            ]
            parts.append(_aligned([("status", "frozen", "parameter", "note"), *rows]))
        parts.append(f"of the source, not used: {', '.join(self.unused) or 'nothing'}")
        return "\n\n".join(parts)


_TABLE_HEADINGS = (
    "table",
    "source",
    "rows",
    "found",
    "of rows",
    "of traffic",
    "unknown",
    "which got",
    "source rows unused",
)
_NUMBERS = (2, 3, 4, 5, 6, 8)
"""The columns of them."""
_GOT = {"keep": "kept as they were", "mean": "the mean row", "hash": "a row by hash"}


def _table_cells(table: TableTransfer) -> tuple[str, ...]:
    return (
        table.table,
        table.source,
        f"{table.rows:,}",
        f"{table.found:,}",
        f"{table.share:.1%}",
        "not counted" if table.traffic is None else f"{table.traffic:.1%}",
        f"{table.unknown:,}",
        _GOT[table.unknown_got] if table.unknown else "",
        f"{table.unused:,}",
    )


def _aligned(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Columns as wide as their widest cell, those of numbers set to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
