"""What lies beside results.json: what was run, each run's test predictions and training curves.

    run.json                    what was run, on which data, with which versions (`RunInfo`)
    predictions/<run>.npz       labels, scores, user_ids, source_rows and the epoch they are of
    curves/<run>.jsonl          a line {"step", "loss", "lr", "stage"} for each reported step

`<run>` is `RunKey.name`; a curve shared by several runs (one pretraining) may have any name.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.results.rows import RunKey, write_atomically

RUN_FILE = "run.json"
SCHEMA_VERSION = 1
_PACKAGES = ("torch", "torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "torchmetrics", "numpy")


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What a report says besides the numbers.

    Args:
        title: of the report.
        command: what to type to have it again.
        data: what the data is and its counts, by a plain name ("training rows": 131474).
        settings: of the comparison, nested as the config is.
        environment: versions and machine, as `describe_environment` gives them.
        commit: of the code; None where it is no checkout.
        budget: what every model got alike, in words; None: each trained to its own best epoch.
        epochs: how many each run is to train at most; a run with fewer is shown as unfinished.
        baseline_model: `model` of the rows that all others are compared with.
        baseline_strategy: their `strategy`.
        against: further models that all others are compared with, under the same strategy.
        bayes_auc: the best AUC that any model can reach, where the data's maker knows it.
        remarks: paragraphs for the reader, put below the summary: why it came out as it did.
    """

    title: str = "Comparison"
    command: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    commit: str | None = None
    budget: str | None = None
    epochs: int | None = None
    baseline_model: str = "dlrm"
    baseline_strategy: str = "none"
    against: tuple[str, ...] = ()
    bayes_auc: float | None = None
    remarks: tuple[str, ...] = ()


class Predictions(NamedTuple):
    """One run's scores of the test set at one epoch, in the order of the log's rows.

    Args:
        labels: [N] bool.
        scores: [N] float32 logits.
        user_ids: [N] raw users; None where the log has none.
        source_rows: [N] int64 rows of the log, ascending.
        epoch: that the scores are of.
    """

    labels: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float32]
    user_ids: npt.NDArray[Any] | None
    source_rows: npt.NDArray[np.int64]
    epoch: int


class Curve(NamedTuple):
    """The training loss of one stage of one run: step [N] and loss [N]."""

    name: str
    stage: str
    steps: npt.NDArray[np.float64]
    losses: npt.NDArray[np.float64]


def describe_environment() -> dict[str, str]:
    """Versions of what the numbers depend on, and the machine in words."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = f"{platform.machine()} {platform.system()}, {os.cpu_count()} processors"
    return {**versions, "machine": machine}


def describe_commit() -> str | None:
    """The commit of this checkout, with a word where files differ from it; None without one."""
    root = Path(__file__).parents[2]
    try:
        found = [
            subprocess.run(
                ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{found[0]}{' and changes that are not committed' if found[1] else ''}"


def write_run_info(out_dir: Path, info: RunInfo) -> None:
    """Writes `run.json`, replacing the one that is there."""
    values = {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(info)}
    content = json.dumps(values, indent=2, default=str, allow_nan=False)
    write_atomically(out_dir / RUN_FILE, f"{content}\n".encode())


def read_run_info(out_dir: Path) -> RunInfo:
    """Reads `run.json`; no file is the defaults.

    Raises:
        ValueError: the file is not what `write_run_info` of this version writes.
    """
    path = out_dir / RUN_FILE
    if not path.exists():
        return RunInfo()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema_version {version}, this version reads {SCHEMA_VERSION}")
        words = {name: tuple(values.get(name, ())) for name in ("remarks", "against")}
        return RunInfo(**{**values, **words})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a run's description ({error}): move it away") from error


def save_predictions(out_dir: Path, run: RunKey, predictions: Predictions) -> None:
    """Writes a run's test predictions, replacing those of an earlier epoch.

    Args:
        out_dir: the comparison's folder.
        run: whose they are.
        predictions: in any order of rows; they are put into the log's.

    Raises:
        ValueError: arrays of unequal length, or a row that is there twice.
    """
    labels, scores, user_ids, source_rows, epoch = predictions
    sizes = {len(labels), len(scores), len(source_rows)} | (
        set() if user_ids is None else {len(user_ids)}
    )
    if len(sizes) != 1:
        raise ValueError(f"predictions of {run.name} have arrays of unequal lengths: {sizes}")
    order = np.argsort(source_rows, kind="stable")
    rows = np.asarray(source_rows, np.int64)[order]
    twice = np.flatnonzero(rows[1:] == rows[:-1])
    if twice.size:
        raise ValueError(
            f"predictions of {run.name} score row {rows[twice[0]]} of the log twice "
            f"({twice.size} such rows): gather each row from one process only"
        )
    arrays: dict[str, npt.NDArray[Any]] = {
        "labels": np.asarray(labels)[order].astype(np.bool_),
        "scores": np.asarray(scores)[order].astype(np.float32),
        "source_rows": rows,
        "epoch": np.asarray(epoch, np.int64),
    }
    if user_ids is not None:
        users = np.asarray(user_ids)[order]
        arrays["user_ids"] = users.astype(np.str_) if users.dtype == object else users
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(predictions_path(out_dir, run), buffer.getvalue())


def load_predictions(out_dir: Path, run: RunKey) -> Predictions | None:
    """Reads a run's test predictions; None where none were saved.

    Raises:
        ValueError: the file is damaged or lacks an array.
    """
    path = predictions_path(out_dir, run)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Predictions(
                arrays["labels"],
                arrays["scores"],
                arrays.get("user_ids"),
                arrays["source_rows"],
                int(arrays["epoch"]),
            )
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and run again") from error


def predictions_path(out_dir: Path, run: RunKey) -> Path:
    """Where a run's test predictions are kept."""
    return out_dir / "predictions" / f"{run.name}.npz"


def append_curve(
    out_dir: Path, name: str, *, step: int, loss: float, lr: float, stage: str
) -> None:
    """Adds one line to a training curve.

    Args:
        out_dir: the comparison's folder.
        name: of the run (`RunKey.name`), or of what several runs share.
        step: counted from the start of the stage; after a restart the later line counts.
        loss: at that step, or the mean since the last line.
        lr: learning rate of the dense part.
        stage: "pretrain" or "train".
    """
    path = out_dir / "curves" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"step": step, "loss": loss, "lr": lr, "stage": stage})
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def read_curves(out_dir: Path) -> list[Curve]:
    """Reads every training curve, by name and stage.

    A step that was run again after a restart counts once, as it was run last; a line that a full
    disk cut short is passed over.
    """
    curves = []
    for path in sorted((out_dir / "curves").glob("*.jsonl")):
        stages: dict[str, dict[float, float]] = {}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                point = json.loads(line)
                step, loss = float(point["step"]), float(point["loss"])
                stages.setdefault(point["stage"], {})[step] = loss
            except (ValueError, KeyError, TypeError):
                continue
        for stage, points in stages.items():
            steps = np.array(sorted(points), np.float64)
            losses = np.array([points[step] for step in sorted(points)], np.float64)
            curves.append(Curve(path.stem, stage, steps, losses))
    return curves
