"""Each process writes what it holds of a model; together they have written all of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from torchrec_gr.pretrained.artefact.model_parts import ModelParts, Part, TableParts
from torchrec_gr.pretrained.artefact.record import (
    DenseEntry,
    Field,
    Rectangle,
    TableEntry,
    TensorEntry,
)
from torchrec_gr.pretrained.artefact.shard_files import LARGEST_FILE, ShardFiles
from torchrec_gr.training.checksum import Checksum
from torchrec_gr.training.source import LONGEST_PIECE


@dataclasses.dataclass(frozen=True)
class WrittenParts:
    """What one process, or all of them, have written.

    Args:
        tables: by table name; no vocabulary yet.
        dense: by name in the state dict.
        files: the checksums of the files, by name.
    """

    tables: Mapping[str, TableEntry]
    dense: Mapping[str, DenseEntry]
    files: Mapping[str, Checksum]


def write_parts(parts: ModelParts, folder: Path) -> WrittenParts:
    """Writes this process's parts of a model's tables; on the first process, the rest as well."""
    rank = dist.get_rank()
    table_files = ShardFiles(folder, f"tables-{rank:04d}")
    tables = {name: _write_table(name, of, table_files) for name, of in parts.tables.items()}
    table_files.flush()
    dense: dict[str, DenseEntry] = {}
    dense_files = ShardFiles(folder, "dense")
    if rank == 0:
        dense = _write_dense(parts, dense_files)
    return WrittenParts(tables, dense, table_files.checksums | dense_files.checksums)


def joined(written: Sequence[WrittenParts]) -> WrittenParts:
    """What all processes have written, as one; a dynamic table's rows one below the other."""
    entries: dict[str, list[TableEntry]] = {}
    for part in written:
        for name, entry in part.tables.items():
            entries.setdefault(name, []).append(entry)
    return WrittenParts(
        tables={name: _joined_table(entries[name]) for name in sorted(entries)},
        dense=written[0].dense,
        files={name: checksum for part in written for name, checksum in part.files.items()},
    )


def _write_table(name: str, table: TableParts, files: ShardFiles) -> TableEntry:
    rectangles: dict[str, list[Rectangle]] = {field: [] for field in table.dtypes}
    for part in table.parts():
        for piece in _cut(part):
            tensor = f"{name}.{part.field}.{piece.first_row}.{piece.first_column}"
            file = files.add(tensor, piece.values.contiguous().cpu())
            num_rows, num_columns = (*piece.values.shape, 1)[:2]
            rectangles[part.field].append(
                Rectangle(file, tensor, piece.first_row, num_rows, piece.first_column, num_columns)
            )
    fields = {
        field: Field(_dtype_name(dtype), table.row_shapes[field], tuple(rectangles[field]))
        for field, dtype in table.dtypes.items()
    }
    return TableEntry(
        parameter=table.parameter,
        num_rows=table.num_rows,
        dim=table.dim,
        is_dynamic=table.is_dynamic,
        vocabulary=None,
        optimizer=table.optimizer,
        left_out=table.left_out,
        fields=fields,
        slots=table.slots,
    )


def _cut(part: Part) -> Iterator[Part]:
    """A part in pieces that a reader takes at once."""
    row_bytes = max(1, part.values[:1].nbytes)
    longest = max(1, min(LONGEST_PIECE, LARGEST_FILE // row_bytes))
    for start in range(0, len(part.values), longest):
        values = part.values[start : start + longest]
        yield part._replace(values=values, first_row=part.first_row + start)


def _write_dense(parts: ModelParts, files: ShardFiles) -> dict[str, DenseEntry]:
    entries = {}
    for name, value in parts.dense.items():
        state = {
            key: _write_tensor(f"optimizer.{name}.{key}", of, files)
            for key, of in parts.dense_state.get(name, {}).items()
        }
        entries[name] = DenseEntry(_write_tensor(name, value, files), state)
    files.flush()
    return entries


def _write_tensor(name: str, value: Tensor, files: ShardFiles) -> TensorEntry:
    # A copy: two names may share one tensor, which safetensors refuses.
    file = files.add(name, value.detach().cpu().clone().contiguous())
    return TensorEntry(file, name, tuple(value.shape), _dtype_name(value.dtype))


def _joined_table(entries: Sequence[TableEntry]) -> TableEntry:
    """Of a table's optimizer only the processes that hold a part of the table know."""
    rectangles: dict[str, list[Rectangle]] = {}
    fields: dict[str, Field] = {}
    first_row = 0
    for entry in entries:
        for name, field in entry.fields.items():
            fields[name] = field
            rectangles.setdefault(name, []).extend(
                dataclasses.replace(part, first_row=part.first_row + first_row)
                for part in field.rectangles
            )
        first_row += entry.num_rows if entry.is_dynamic else 0
    whole = {
        name: dataclasses.replace(
            field, rectangles=tuple(sorted(rectangles[name], key=lambda part: part.first_row))
        )
        for name, field in fields.items()
    }
    return dataclasses.replace(
        entries[0],
        num_rows=first_row if entries[0].is_dynamic else entries[0].num_rows,
        optimizer=next((entry.optimizer for entry in entries if entry.optimizer), None),
        left_out=next((entry.left_out for entry in entries if entry.left_out), None),
        fields=whole,
    )


def _dtype_name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
