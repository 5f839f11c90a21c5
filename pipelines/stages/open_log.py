"""Opens the log that the settings name: made canonical, prepared, counted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist

from pipelines.configuration.settings import Settings
from torchrec_gr.data.datasets import load_dataset
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.schema.vocabulary import Vocabulary


def open_log(
    settings: Settings, work_dir: Path, previous: Mapping[str, Vocabulary] | None = None
) -> PreparedLog:
    """Opens the log on every process; the first one writes, the others find it written.

    Args:
        settings: `data`, `data_dir`, `label` and `data_options` are read.
        work_dir: for the canonical files and the prepared state.
        previous: vocabularies whose ids keep their rows.

    Raises:
        ValueError: the data cannot be used; says why and what to do.
    """
    if dist.get_rank() != 0:
        dist.barrier()
    log = _open(settings, work_dir, previous)
    if dist.get_rank() == 0:
        print(log.report(), flush=True)
        dist.barrier()
    return log


def as_read(log: PreparedLog, settings: Settings) -> PreparedLog:
    """The log as models under these settings, a variant's laid over, read it."""
    return log if settings.cross_features else log.without_cross_features()


def _open(
    settings: Settings, work_dir: Path, previous: Mapping[str, Vocabulary] | None
) -> PreparedLog:
    source = load_dataset(
        settings.data,
        settings.data_dir or Path("data") / settings.data,
        work_dir,
        label=settings.label,
        **settings.data_options,
    )
    return prepare(source, work_dir, previous)
