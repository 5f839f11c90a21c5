"""Reads an artefact, once every file of it was found as it was written."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from torchrec_gr.pretrained.artefact.artefact_folder import find_artefact
from torchrec_gr.pretrained.artefact.model_card import ModelCard
from torchrec_gr.pretrained.artefact.record import RECORD, SCHEMA, ArtefactRecord, PretrainedError
from torchrec_gr.pretrained.artefact.saved_table import SavedTable
from torchrec_gr.pretrained.artefact.saved_tensors import read_tensor
from torchrec_gr.pretrained.artefact.sound_files import SoundFiles
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.schema.vocabulary import Vocabulary

_HARMLESS = re.compile(r"\..*|LICENSE.*|.*\.(?:md|txt|pdf|png|jpe?g|svg)", re.IGNORECASE)
"""Names of files that may lie in an artefact's folder though they are none of its own: nothing
reads them, and nobody would take them for weights, ids or settings."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A pretrained module, read from its artefact; implements `training.source.Source`.

    Rows and tensors stay on disk until they are asked for.

    Args:
        path: of the artefact.
        module: its kind, such as "gpsd".
        config: of the module, as plain values.
        schema: of the log that it was trained on.
        vocabularies: of its static tables, by table name.
        card: what it was trained on, and how well.
        versions: of torchrec_gr, torch and torchrec when it was saved, by name.
        tables: by table name.
        record: all that the artefact says of itself.
        files: as they were when they were checked.
    """

    path: Path
    module: str
    config: Mapping[str, Any]
    schema: FeatureSchema
    vocabularies: Mapping[str, Vocabulary]
    card: ModelCard
    versions: Mapping[str, str]
    tables: Mapping[str, SavedTable] = dataclasses.field(repr=False)
    record: ArtefactRecord = dataclasses.field(repr=False)
    files: SoundFiles = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"artefact {self.path}"

    def dense_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor that is not a table, by its name in the model's state dict."""
        return {name: entry.value.shape for name, entry in self.record.dense.items()}

    def dense(self, name: str) -> Tensor:
        """One of them.

        Raises:
            PretrainedError: it cannot be read, or was changed after the artefact was loaded.
        """
        return read_tensor(self.files, self.record.dense[name].value)

    def dense_state(self, name: str) -> dict[str, Tensor] | None:
        """AdamW's state of one of them, by AdamW's names; None where none is kept."""
        state = self.record.dense[name].state
        return {key: read_tensor(self.files, entry) for key, entry in state.items()} or None


def load_pretrained(folder: str | Path) -> Pretrained:
    """Reads an artefact; needs no model and no process group, and runs no code that it brings.

    Every file is held against its checksum first, on as many threads as the machine has.

    Args:
        folder: that `save_pretrained` wrote, or a run's folder with an artefact in it.

    Raises:
        PretrainedError: there is no artefact, a file was cut, altered, or is missing, there are
            files that are none of its own and might be taken for it, or it was written by a later
            torchrec_gr in a format that this one does not know.
    """
    path = find_artefact(Path(folder))
    record = ArtefactRecord.read(path)
    files = SoundFiles.of(path, record.files)  # before they are looked at
    _require_sound(path, record)
    try:
        schema = FeatureSchema.from_yaml(path / SCHEMA)
        card = ModelCard(**record.card)
        vocabularies = {
            name: Vocabulary.load(path / table.vocabulary)
            for name, table in record.tables.items()
            if table.vocabulary is not None
        }
    except (OSError, TypeError, ValueError) as error:
        raise PretrainedError(f"cannot read artefact {path}: {error}. Save it again") from error
    for name, vocabulary in vocabularies.items():
        if vocabulary.num_rows != record.tables[name].num_rows:
            raise PretrainedError(
                f"artefact {path}: table {name!r} has {record.tables[name].num_rows} rows, its "
                f"vocabulary {vocabulary.num_rows}: do not use it; save it again"
            )
    return Pretrained(
        path=path,
        module=record.module,
        config=record.config,
        schema=schema,
        vocabularies=vocabularies,
        card=card,
        versions=record.versions,
        tables={
            name: SavedTable(files, table, vocabularies.get(name))
            for name, table in record.tables.items()
        },
        record=record,
        files=files,
    )


def _require_sound(path: Path, record: ArtefactRecord) -> None:
    """Checks every file against the record."""
    files = record.files
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(lambda name: files[name].difference(path / name), files)
        damage = [
            f"{name}{_role(record, name)} {how}"
            for name, how in zip(files, found, strict=True)
            if how is not None
        ]
    known = {*files, RECORD}
    damage += [
        f"{other.name} is none of its files"
        for other in sorted(path.iterdir())
        if other.name not in known and not _HARMLESS.fullmatch(other.name)
    ]
    if damage:
        raise PretrainedError(
            f"artefact {path} is damaged: {'; '.join(damage)}. Nothing was loaded. Put back a good "
            "copy, or save it again"
        )


def _role(record: ArtefactRecord, file: str) -> str:
    tables = [name for name, table in record.tables.items() if table.vocabulary == file]
    return f" (the vocabulary of table {tables[0]!r})" if tables else ""
