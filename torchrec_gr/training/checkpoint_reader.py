"""Reads a checkpoint's tensors, whole or a stretch of rows, without running what a file brings."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from torchrec_gr.training.checkpoint_record import CheckpointError

_INDEX_NAMES = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorStorageMetadata",
        "TensorProperties",
        "ChunkStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size",),
    "pathlib": ("PosixPath",),
}
"""What an index that torch.distributed.checkpoint wrote may name, beside the dtypes."""
_READ_ERRORS = (
    CheckpointException,
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    EOFError,
    pickle.UnpicklingError,
)


class CheckpointReader(dcp.FileSystemReader):
    """Reads a checkpoint's index by an allow-list and nothing from it but tensors.

    The index is a pickle, which could name any function to call; tensors are read by
    `torch.load(weights_only=True)`.

    Raises:
        CheckpointError: the index cannot be read, names what no index needs, or lists other things
            than tensors.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self._index = _read_index(checkpoint / ".metadata")
        self._index.storage_meta = self._index.storage_meta or StorageMeta()
        self._index.storage_meta.load_id = self.load_id
        self.set_up_storage_reader(self._index, is_coordinator=False)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index."""
        return self._index

    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """What the index lists, by name."""
        return self._index.state_dict_metadata  # type: ignore[return-value]

    def load(self, state: dict[str, Tensor], *, no_dist: bool = False) -> None:
        """Reads whole tensors in place, on all processes unless `no_dist`.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            dcp.load(state, storage_reader=self, no_dist=no_dist)
        except _READ_ERRORS as error:
            raise CheckpointError(f"cannot read checkpoint {self.path}: {error}") from error

    def rows(self, name: str, start: int, num_rows: int) -> Tensor:
        """Reads [num_rows, ...] of a tensor, from row `start` on, on this process alone.

        Raises:
            CheckpointError: they cannot be read.
        """
        entry = self.tensors()[name]
        sizes = torch.Size([num_rows, *entry.size[1:]])
        place = ChunkStorageMetadata(torch.Size([start] + [0] * (len(sizes) - 1)), sizes)
        rows = torch.empty(sizes, dtype=entry.properties.dtype)
        items = create_read_items_for_chunk_list(name, entry, [place])
        if sum(item.lengths.numel() for item in items) != rows.numel():
            raise CheckpointError(f"the index of {self.path} does not know all rows of {name}")
        try:
            self.read_data(LoadPlan(items), _IntoRows(rows)).wait()
        except _READ_ERRORS as error:
            raise CheckpointError(f"cannot read {name} of {self.path}: {error}") from error
        return rows

    def pieces(self, name: str, longest: int) -> Sequence[tuple[int, int]]:
        """The stretches of rows that a tensor was written in, as (first row, number of rows).

        Args:
            longest: cuts what is longer.
        """
        stored = sorted((chunk.offsets[0], chunk.sizes[0]) for chunk in self.tensors()[name].chunks)
        return [
            (start + cut, min(longest, num_rows - cut))
            for start, num_rows in stored
            for cut in range(0, num_rows, longest)
        ]


class _IntoRows(dcp.DefaultLoadPlanner):
    """Has what is read put into one tensor."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self._rows = rows

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        """The tensor."""
        return self._rows


class _IndexUnpickler(pickle.Unpickler):
    """Unpickles what torch.distributed.checkpoint writes into an index, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of that name, if an index may name it."""
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in _INDEX_NAMES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which no checkpoint's index needs: it was damaged or made "
            "to run code, do not use it"
        )


def _memory_format(of: Any, name: Any) -> Any:
    """What Python before 3.11.4 names an enumeration's member by: getattr, of that one alone."""
    if of is not _MEM_FORMAT_ENCODING or name not in _MEM_FORMAT_ENCODING.__members__:
        raise pickle.UnpicklingError(
            f"it asks for {name!r} of {of!r}, which no checkpoint's index needs: it was damaged or "
            "made to run code, do not use it"
        )
    return _MEM_FORMAT_ENCODING[name]


def _read_index(path: Path) -> Metadata:
    try:
        with path.open("rb") as file:
            index = _IndexUnpickler(file).load()
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, TypeError) as error:
        raise CheckpointError(f"cannot read the index {path}: {error}") from error
    if not isinstance(index, Metadata):
        raise CheckpointError(f"{path} is not the index of a checkpoint")
    others = [
        name
        for name, entry in index.state_dict_metadata.items()
        if not isinstance(entry, TensorStorageMetadata)
    ]
    if others:
        raise CheckpointError(f"{path} lists {others}, which are not tensors: refused")
    return index
