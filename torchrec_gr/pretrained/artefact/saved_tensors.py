"""Reads tensors from an artefact's files, and no more of a file than is asked for."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from torchrec_gr.pretrained.artefact.record import Field, PretrainedError, Rectangle, TensorEntry
from torchrec_gr.pretrained.artefact.sound_files import SoundFiles


def read_field(files: SoundFiles, field: Field, first: int, num_rows: int) -> Tensor:
    """[num_rows, ...] of a table's field, from row `first` on, put together from its rectangles.

    Raises:
        PretrainedError: they cannot be read, are not what the record says, or have been changed.
    """
    rows = torch.empty(num_rows, *field.row_shape, dtype=_dtype(field.dtype))
    num_read = 0
    for part in _overlapping(field.rectangles, first, num_rows):
        start, end = (
            max(first, part.first_row),
            min(first + num_rows, part.first_row + part.num_rows),
        )
        found = _read_part(files, field, part, start - part.first_row, end - part.first_row)
        into = rows[start - first : end - first]
        if field.row_shape:
            into = into[:, part.first_column : part.first_column + part.num_columns]
        into.copy_(found)
        num_read += found.numel()
    if num_read != rows.numel():
        raise PretrainedError(
            f"artefact {files.folder}: its record does not know where rows {first} to "
            f"{first + num_rows} of a table are: do not use it; save it again"
        )
    return rows


def read_tensor(files: SoundFiles, entry: TensorEntry) -> Tensor:
    """A whole tensor.

    Raises:
        PretrainedError: it cannot be read, is not what the record says, or has been changed.
    """
    return _read(files, entry.file, entry.tensor, entry.shape, entry.dtype, None)


def _overlapping(rectangles: Sequence[Rectangle], first: int, num_rows: int) -> Sequence[Rectangle]:
    """Those that hold some of the rows; they are sorted by their first row."""
    longest = max((part.num_rows for part in rectangles), default=0)
    begin = bisect.bisect_right(rectangles, first - longest, key=lambda part: part.first_row)
    end = bisect.bisect_left(rectangles, first + num_rows, key=lambda part: part.first_row)
    return [part for part in rectangles[begin:end] if part.first_row + part.num_rows > first]


def _read_part(files: SoundFiles, field: Field, part: Rectangle, start: int, end: int) -> Tensor:
    shape = (part.num_rows, part.num_columns)[: 1 + len(field.row_shape)]
    return _read(files, part.file, part.tensor, shape, field.dtype, slice(start, end))


def _read(
    files: SoundFiles, file: str, name: str, shape: tuple[int, ...], dtype: str, rows: slice | None
) -> Tensor:
    try:
        # Mapped is faster, but a whole tensor would keep the file mapped for as long as it lives.
        backend = "pread" if rows is None else "mmap"
        with safe_open(files.path(file), framework="pt", backend=backend) as tensors:
            part: Any = tensors.get_slice(name)
            whole = tuple(part.get_shape())
            if whole != shape:
                raise _unlike(files.folder / file, name, f"of shape {whole}", f"of shape {shape}")
            found: Tensor = tensors.get_tensor(name) if rows is None else part[rows]
    except (OSError, SafetensorError) as error:
        raise PretrainedError(f"cannot read {name} of {files.folder / file}: {error}") from error
    if found.dtype != _dtype(dtype):
        raise _unlike(files.folder / file, name, str(found.dtype), dtype)
    return found


def _unlike(file: Path, name: str, found: str, expected: str) -> PretrainedError:
    return PretrainedError(
        f"{name} of {file} is {found}, but the record says {expected}: do not use it; save it again"
    )


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype
