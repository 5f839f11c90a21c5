"""What an artefact says of itself: its record, `artefact.json`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from torchrec_gr.embeddings.multi_hash_config import HashSlots
from torchrec_gr.training.checksum import Checksum
from torchrec_gr.training.sealed_json import read_sealed, write_sealed

RECORD, SCHEMA, README = "artefact.json", "schema.yaml", "README.md"
FORMAT, OLDEST_FORMAT = 2, 1
"""Of the folder. A later format still has `format` and the checksum where this one has them; format
1 had no multi-hash tables."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class PretrainedError(ValueError):
    """An artefact that could not be written or read."""


@dataclasses.dataclass(frozen=True)
class Rectangle:
    """A part of a table that one tensor of a file holds.

    Args:
        file: its name.
        tensor: its name in the file: [num_rows, num_columns], or [num_rows] of a field that has a
            number for each row.
        first_row, first_column: where it begins in the table.
        num_rows, num_columns: its size.
    """

    file: str
    tensor: str
    first_row: int
    num_rows: int
    first_column: int
    num_columns: int


@dataclasses.dataclass(frozen=True)
class Field:
    """What a table keeps for each row: its weight, id, ...

    Args:
        dtype: as torch names it.
        row_shape: (width,); () of a number.
        rectangles: cover every row once.
    """

    dtype: str
    row_shape: tuple[int, ...]
    rectangles: tuple[Rectangle, ...]

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Field:
        """From JSON."""
        rectangles = tuple(Rectangle(**of) for of in values["rectangles"])
        return cls(str(values["dtype"]), tuple(values["row_shape"]), rectangles)


@dataclasses.dataclass(frozen=True)
class TableEntry:
    """A table of the artefact.

    Args:
        parameter: its name in the state dict of the model that was saved.
        num_rows, dim: its size.
        is_dynamic: it carries its own ids.
        vocabulary: the file of its vocabulary; None of a dynamic table, and of a sub-table of a
            multi-hash one.
        optimizer: whose state is kept: "rowwise_adagrad" or "adagrad".
        left_out: what optimizer state was not kept, in words.
        fields: "weight"; "optimizer" where a state is kept; of a dynamic table "ids" and "seen".
        slots: of a multi-hash table's sub-table, what its rows are.
    """

    parameter: str
    num_rows: int
    dim: int
    is_dynamic: bool
    vocabulary: str | None
    optimizer: str | None
    left_out: str | None
    fields: Mapping[str, Field]
    slots: HashSlots | None = None

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> TableEntry:
        """From JSON."""
        fields = {name: Field.from_plain(of) for name, of in values["fields"].items()}
        slots = None if values.get("slots") is None else HashSlots(**values["slots"])
        return cls(**{**values, "fields": fields, "slots": slots})


@dataclasses.dataclass(frozen=True)
class TensorEntry:
    """A tensor that one file holds whole.

    Args:
        file: its name.
        tensor: its name in the file.
        shape, dtype: of it.
    """

    file: str
    tensor: str
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> TensorEntry:
        """From JSON."""
        return cls(**{**values, "shape": tuple(values["shape"])})


@dataclasses.dataclass(frozen=True)
class DenseEntry:
    """A tensor of the model that is no table.

    Args:
        value: where it is.
        state: of AdamW, by its names; empty where none is kept.
    """

    value: TensorEntry
    state: Mapping[str, TensorEntry]

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> DenseEntry:
        """From JSON."""
        state = {name: TensorEntry.from_plain(of) for name, of in values["state"].items()}
        return cls(TensorEntry.from_plain(values["value"]), state)


@dataclasses.dataclass(frozen=True)
class ArtefactRecord:
    """Written last, beside an artefact's files.

    Args:
        module: the kind of module.
        config: its configuration, as plain values.
        card: the model card, as plain values.
        versions: of torchrec_gr, torch and torchrec, by name.
        tables: by table name.
        dense: by the name in the model's state dict.
        files: the checksum of every file but the record, by name.
    """

    module: str
    config: Mapping[str, Any]
    card: Mapping[str, Any]
    versions: Mapping[str, str]
    tables: Mapping[str, TableEntry]
    dense: Mapping[str, DenseEntry]
    files: Mapping[str, Checksum]

    def write(self, folder: Path) -> None:
        """Puts it on disk."""
        write_sealed(folder / RECORD, {"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> ArtefactRecord:
        """Reads it, and no other file.

        Raises:
            PretrainedError: it was cut or altered, is of a later format, or names what cannot be.
        """
        file = folder / RECORD
        try:
            fields, _ = read_sealed(file)
        except (OSError, ValueError) as error:
            raise PretrainedError(
                f"cannot read {file}: {error}. Put back a good copy, or save it again"
            ) from error
        _require_format(file, fields)
        try:
            record = cls._from_plain(fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PretrainedError(
                f"{file} is no record of an artefact ({type(error).__name__}: {error}): expected "
                "what save_pretrained writes; save it again"
            ) from error
        faults = sorted(set(record._faults()))
        if faults:
            raise PretrainedError(
                f"{file} contradicts itself: {'; '.join(faults)}. Do not use it; save it again"
            )
        return record

    @classmethod
    def _from_plain(cls, fields: Mapping[str, Any]) -> ArtefactRecord:
        return cls(
            module=str(fields["module"]),
            config=dict(fields["config"]),
            card=dict(fields["card"]),
            versions=dict(fields["versions"]),
            tables={name: TableEntry.from_plain(of) for name, of in fields["tables"].items()},
            dense={name: DenseEntry.from_plain(of) for name, of in fields["dense"].items()},
            files={name: Checksum(**of) for name, of in fields["files"].items()},
        )

    def _faults(self) -> Iterator[str]:
        """What a record that was altered by hand, checksum and all, may have wrong."""
        for name in self.files:
            if not _FILE_NAME.fullmatch(name) or name == RECORD:
                yield f"{name!r} is no name of a file in the folder"
        for name in (SCHEMA, README):
            if name not in self.files:
                yield f"it lists no {name}"
        for name, table in self.tables.items():
            yield from (f"table {name!r}: {fault}" for fault in self._table_faults(table))
        for name, entry in self.dense.items():
            for tensor in (entry.value, *entry.state.values()):
                if tensor.file not in self.files:
                    yield f"{name}: it lists no file {tensor.file!r}"
                if not isinstance(getattr(torch, tensor.dtype, None), torch.dtype):
                    yield f"{name}: no dtype {tensor.dtype!r}"

    def _table_faults(self, table: TableEntry) -> Iterator[str]:
        if table.slots is not None:
            if table.slots.num_embeddings != table.num_rows or table.vocabulary is not None:
                yield f"its rows are not the slots of {table.slots}"
        elif not table.is_dynamic and table.vocabulary not in self.files:
            yield "it has no vocabulary, so nobody knows what its rows stand for"
        needed = {"weight"} | ({"ids", "seen"} if table.is_dynamic else set())
        needed |= {"optimizer"} if table.optimizer else set()
        if needed != set(table.fields):
            yield f"it has the fields {sorted(table.fields)}, expected {sorted(needed)}"
        for name, field in table.fields.items():
            width = field.row_shape[0] if field.row_shape else 1
            if name == "weight" and field.row_shape != (table.dim,):
                yield f"its rows are of shape {field.row_shape}, expected {(table.dim,)}"
            if not isinstance(getattr(torch, field.dtype, None), torch.dtype):
                yield f"no dtype {field.dtype!r}"
            covered = 0
            for part in field.rectangles:
                if part.file not in self.files:
                    yield f"it lists no file {part.file!r}"
                first, last = part.first_row, part.first_row + part.num_rows
                left, right = part.first_column, part.first_column + part.num_columns
                if not (0 <= first < last <= table.num_rows and 0 <= left < right <= width):
                    yield f"{name}: {part.tensor} does not lie in it"
                covered += part.num_rows * part.num_columns
            if covered != table.num_rows * width:
                yield f"{name}: {covered} numbers are kept, expected {table.num_rows * width}"


def _require_format(file: Path, fields: Mapping[str, Any]) -> None:
    found = fields.get("format")
    if type(found) is not int or found < OLDEST_FORMAT:
        raise PretrainedError(f"{file} is of format {found!r}, expected {FORMAT}: save it again")
    if found > FORMAT:
        versions = fields.get("versions")
        writer = versions.get("torchrec_gr", "unknown") if isinstance(versions, dict) else "unknown"
        raise PretrainedError(
            f"{file} is of format {found}, written by torchrec_gr {writer}; this torchrec_gr reads "
            f"up to format {FORMAT}: upgrade torchrec_gr"
        )
