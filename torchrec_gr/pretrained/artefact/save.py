"""Writes an artefact: whole, or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchrec
from torch import nn

from torchrec_gr import __version__
from torchrec_gr.pretrained.artefact.artefact_folder import (
    discard_partial,
    make_partial,
    replaced_path,
)
from torchrec_gr.pretrained.artefact.model_card import ModelCard, render_card
from torchrec_gr.pretrained.artefact.model_parts import ModelParts, TableParts, model_parts
from torchrec_gr.pretrained.artefact.record import README, SCHEMA, ArtefactRecord, PretrainedError
from torchrec_gr.pretrained.artefact.written_parts import WrittenParts, joined, write_parts
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.schema.vocabulary import Vocabulary
from torchrec_gr.training.checkpoint_folder import put_in_place, sync
from torchrec_gr.training.checksum import Checksum
from torchrec_gr.training.optimizer import ScheduledOptimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.together import on_all, on_first


@dataclasses.dataclass(frozen=True)
class _Description:
    """What `save_pretrained` was given beside the model."""

    module: str
    config: Mapping[str, Any]
    schema: FeatureSchema
    vocabularies: Mapping[str, Vocabulary]
    card: ModelCard


def save_pretrained(
    folder: str | Path,
    model: nn.Module,
    *,
    module: str,
    config: Mapping[str, Any],
    schema: FeatureSchema,
    vocabularies: Mapping[str, Vocabulary],
    card: ModelCard,
    optimizer: ScheduledOptimizer | None = None,
) -> Path:
    """Writes a pretrained module to a folder that stands on its own.

    All processes must call it together; each writes what it holds, and no sharded table is gathered
    or copied. The folder is written beside its place and renamed once it is on disk; an artefact
    that is there already stays whole until then, and is replaced.

    Args:
        folder: of the artefact, which all processes see.
        model: unsharded, or DistributedModelParallel of any number of processes; its tables static
            or dynamic. All that is in its state dict is saved.
        module: its kind, such as "gpsd".
        config: of the module, as plain values.
        schema: of the log that it was trained on.
        vocabularies: of each static table, by table name; those of tables that the model does not
            have are left out. Dynamic tables carry their own ids, and the rows of multi-hash ones
            are slots of hash functions, which are recorded.
        card: what it was trained on, and how well.
        optimizer: of the model: its state is saved beside the weights (Adagrad's of the tables,
            AdamW's of the rest; what of a table is left out stands in the record). Default: none.

    Returns:
        The folder's absolute path.

    Raises:
        PretrainedError: on all processes: a table without a vocabulary of as many rows, a value
            that is not plain, a place that is taken by something else, or what the disk said. An
            earlier artefact is as it was.
    """
    final = Path(os.path.abspath(folder))
    about = _Description(module, config, schema, vocabularies, card)
    with process_group("cpu"):
        failure = f"cannot write the artefact {final}"
        on_all(lambda: _require_plain(about), failure, PretrainedError)
        parts = model_parts(model, optimizer)
        on_all(lambda: _require_vocabularies(parts, vocabularies), failure, PretrainedError)
        partial = on_first(lambda: make_partial(final), failure, PretrainedError)
        try:
            written = joined(on_all(lambda: write_parts(parts, partial), failure, PretrainedError))
            on_first(lambda: _finish(about, written, partial, final), failure, PretrainedError)
        except PretrainedError:
            on_first(lambda: discard_partial(final), failure, PretrainedError)
            raise
    return final


def _require_plain(about: _Description) -> None:
    if not about.module:
        raise PretrainedError("an artefact needs its module's kind, such as 'gpsd'")
    settings = {"config": about.config, "card": dataclasses.asdict(about.card)}
    for of, values in settings.items():
        for key, value in values.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise PretrainedError(
                    f"{key!r} of the {of} cannot be kept ({error}): expected plain values, which "
                    "JSON has: numbers, strings, lists, mappings"
                ) from error


def _require_vocabularies(parts: ModelParts, vocabularies: Mapping[str, Vocabulary]) -> None:
    faults = [
        fault
        for name, table in parts.tables.items()
        if (fault := _fault(name, table, vocabularies.get(name))) is not None
    ]
    if faults:
        raise PretrainedError(
            f"cannot write an artefact whose rows nobody could name: {'; '.join(faults)}. "
            f"Vocabularies were given of {sorted(vocabularies)}"
        )


def _fault(name: str, table: TableParts, vocabulary: Vocabulary | None) -> str | None:
    if table.is_dynamic:
        carries = f"table {name!r} is dynamic and carries its own ids: give no vocabulary of it"
        return None if vocabulary is None else carries
    if table.slots is not None:
        return None
    if vocabulary is None:
        return f"table {name!r} has no vocabulary"
    if vocabulary.num_rows != table.num_rows:
        return (
            f"table {name!r} has {table.num_rows:,} rows, but its vocabulary "
            f"{vocabulary.num_rows:,}"
        )
    return None


def _finish(about: _Description, written: WrittenParts, partial: Path, final: Path) -> None:
    """Adds what the first process writes alone, and gives the folder its name."""
    tables, names = dict(written.tables), [SCHEMA]
    static = [n for n, table in tables.items() if not table.is_dynamic and table.slots is None]
    for number, name in enumerate(static):
        file = f"vocabulary-{number}.parquet"
        about.vocabularies[name].save(partial / file)
        tables[name] = dataclasses.replace(tables[name], vocabulary=file)
        names.append(file)
    (partial / SCHEMA).write_text(about.schema.to_yaml(), encoding="utf-8")
    record = ArtefactRecord(
        module=about.module,
        config=about.config,
        card=dataclasses.asdict(about.card),
        versions={
            "torchrec_gr": __version__,
            "torch": torch.__version__,
            "torchrec": torchrec.__version__,
        },
        tables=tables,
        dense=written.dense,
        files={},
    )
    (partial / README).write_text(render_card(about.card, record), encoding="utf-8")
    own = {}
    for name in [*names, README]:
        sync(partial / name)
        own[name] = Checksum.of(partial / name)
    dataclasses.replace(record, files={**written.files, **own}).write(partial)
    put_in_place(partial, final, replaced_path(final))
