"""The data sets that are known by name; each file turns a published layout into a `LogSource`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchrec_gr.data.datasets import amazon, criteo, custom, kuairand, movielens, synthetic
from torchrec_gr.data.log_source import LogSource
from torchrec_gr.schema.feature_schema import nearest_valid

DATASETS: dict[str, Callable[..., LogSource]] = {
    "synthetic": synthetic.load,
    "kuairand-pure": kuairand.load,
    "movielens": movielens.load,
    "criteo": criteo.load,
    "amazon-beauty": amazon.load_beauty,
    "amazon-sports": amazon.load_sports,
    "custom": custom.load,
}


def load_dataset(
    name: str, data_dir: Path | None, work_dir: Path, *, label: str | None = None, **options: Any
) -> LogSource:
    """Turns a data set into canonical parquet files and says what they hold.

    Args:
        name: one of `DATASETS`.
        data_dir: the folder of the publisher's files; None for `synthetic`, which reads none.
        work_dir: where the canonical files are written, each whole or not at all.
        label: the label that metrics are reported for; None is the data set's own first.
        options: of the data set: the keyword arguments of its `load`.

    Returns:
        The canonical files, their schema and their split.

    Raises:
        ValueError: a name, label or option that does not exist (with the nearest valid one), files
            that are missing (says where to get them) or damaged.
    """
    if name not in DATASETS:
        raise ValueError(nearest_valid("data set", name, DATASETS))
    if data_dir is None and name != "synthetic":
        raise ValueError(f"data set {name!r} is read from files: give the folder that holds them")
    load = DATASETS[name]
    parameters = inspect.signature(load).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        known = [key for key in parameters if key not in ("data_dir", "work_dir")]
        for option in options:
            if option not in known:
                raise ValueError(nearest_valid(f"option of data set {name!r}", option, known))
    if label is not None and "label" in parameters:
        options["label"] = label
    folder = None if data_dir is None else Path(data_dir)
    return _lead_with(load(folder, Path(work_dir), **options), label)


def _lead_with(source: LogSource, label: str | None) -> LogSource:
    labels = source.schema.labels
    if label is None or label == labels[0]:
        return source
    if label not in labels:
        raise ValueError(nearest_valid(f"label of data set {source.schema.name!r}", label, labels))
    ordered = (label, *(other for other in labels if other != label))
    return dataclasses.replace(source, schema=dataclasses.replace(source.schema, labels=ordered))
