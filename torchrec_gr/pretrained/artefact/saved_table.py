"""A table of an artefact, read from its files a piece at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from torchrec_gr.embeddings.multi_hash_config import HashSlots
from torchrec_gr.pretrained.artefact.record import TableEntry
from torchrec_gr.pretrained.artefact.saved_tensors import read_field
from torchrec_gr.pretrained.artefact.sound_files import SoundFiles
from torchrec_gr.schema.vocabulary import Vocabulary
from torchrec_gr.training.source import LONGEST_PIECE, RowPiece


@dataclasses.dataclass(frozen=True)
class SavedTable:
    """Implements `training.source.SourceTable`.

    Args:
        files: of the artefact.
        entry: what its record says.
        vocabulary: of a static table; None: it is dynamic and carries its own ids, or its rows are
            slots of a hash function.
    """

    files: SoundFiles
    entry: TableEntry
    vocabulary: Vocabulary | None = dataclasses.field(repr=False)

    @property
    def num_rows(self) -> int:
        """Rows."""
        return self.entry.num_rows

    @property
    def dim(self) -> int:
        """Width of the rows."""
        return self.entry.dim

    @property
    def optimizer(self) -> str | None:
        """Whose state is kept."""
        return self.entry.optimizer

    @property
    def slots(self) -> HashSlots | None:
        """Of a multi-hash table's sub-table, whose rows have no ids."""
        return self.entry.slots

    def raw_ids(self) -> pa.Array | None:
        """[rows] int64 or large_string; null in the out-of-vocabulary row of a static table."""
        if self.slots is not None:
            return None
        if self.vocabulary is None:
            return pa.array(self._read("ids", 0, self.num_rows).numpy())
        return self.vocabulary.row_ids()

    def counts(self) -> NDArray[np.int64] | None:
        """[rows] occurrences in what the module was trained on; None of slots."""
        if self.slots is not None:
            return None
        if self.vocabulary is None:
            return self._read("seen", 0, self.num_rows)[:, 0].numpy().astype(np.int64)
        return self.vocabulary.counts

    def pieces(self) -> Iterator[RowPiece]:
        """All rows, from the first on, at most LONGEST_PIECE at a time.

        Raises:
            PretrainedError: they cannot be read, or were changed after the artefact was loaded.
        """
        for first in range(0, self.num_rows, LONGEST_PIECE):
            num_rows = min(LONGEST_PIECE, self.num_rows - first)
            fields = {n: self._read(n, first, num_rows) for n in self.entry.fields if n != "ids"}
            yield RowPiece(
                first, fields["weight"].float(), fields.get("optimizer"), fields.get("seen")
            )

    def _read(self, name: str, first: int, num_rows: int) -> Tensor:
        return read_field(self.files, self.entry.fields[name], first, num_rows)
