"""What a run leaves beside its checkpoints, so that a later run can go on from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.configuration.config import to_plain
from pipelines.results.rows import write_atomically
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.schema.vocabulary import Vocabulary

_TABLES = "tables.json"
_SCHEMA = "schema.yaml"
_SETTINGS = "settings.yaml"


def describe_run(run_dir: Path, log: PreparedLog, settings: Mapping[str, Any]) -> None:
    """Writes the schema, the vocabulary of each table and the settings of a run."""
    run_dir.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, (table, vocabulary) in enumerate(log.vocabularies.items()):
        files[table] = f"vocabulary-{number}.parquet"
        vocabulary.save(run_dir / files[table])
    write_atomically(run_dir / _SCHEMA, log.schema.to_yaml().encode())
    plain = yaml.safe_dump(to_plain(settings), sort_keys=False)
    write_atomically(run_dir / _SETTINGS, plain.encode())
    write_atomically(run_dir / _TABLES, json.dumps(files, indent=1).encode())


def read_run_settings(run_dir: Path) -> dict[str, Any]:
    """What `describe_run` was given as settings, as plain values.

    Raises:
        ValueError: the folder is not a run's.
    """
    try:
        values = yaml.safe_load((run_dir / _SETTINGS).read_text(encoding="utf-8"))
        return dict(values)
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{run_dir} is not the folder of a run: it has no readable {_SETTINGS} ({error}). "
            "Name the --out folder of an earlier pretrain or finetune"
        ) from error


def read_vocabularies(run_dir: Path) -> dict[str, Vocabulary]:
    """The vocabulary of each table of a run.

    Raises:
        ValueError: the folder is not a run's.
    """
    try:
        files = json.loads((run_dir / _TABLES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{run_dir} is not the folder of a run: it has no readable {_TABLES} ({error}). "
            "Name the --out folder of an earlier pretrain or finetune"
        ) from error
    return {table: Vocabulary.load(run_dir / name) for table, name in files.items()}
