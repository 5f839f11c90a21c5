"""The rows of results.json: one for each epoch of each run, the currency of every comparison.

`results.json` is a JSON list of objects, one an epoch of a run, with the fields of `ResultRow` and,
flat beside them, any further metric a comparison reports (`auc_popularity_matched`, ...): a number
or null. It is always whole on disk: rows are merged and the file replaced at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS_FILE = "results.json"


class Variant(NamedTuple):
    """What is compared: everything that tells two rows apart except the seed and the epoch."""

    model: str
    strategy: str
    dim: int | None
    pretrain: str | None

    def __str__(self) -> str:
        words = [self.model, self.strategy, f"dim {self.dim}" if self.dim else "", self.pretrain]
        return ", ".join(word for word in words if word)


class RunKey(NamedTuple):
    """One training run: a variant and a seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """The run's name in file names."""
        model, strategy, dim, pretrain = self.variant
        words = [model, strategy, f"d{dim}" if dim else "", pretrain or "", f"s{self.seed}"]
        return ".".join(re.sub(r"[^\w+@-]+", "_", word) for word in words if word)


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One epoch of one run, measured on the test set.

    Args:
        model: "dlrm", "gpsd", "popularity", "dlrm+pinfm@<variant>", ...; a user's own baseline
            under its own name.
        strategy: how pretrained weights came in: one of `training.strategy.STRATEGIES`.
        seed: of the run.
        epoch: 1 for the first; 0 for what is not trained (popularity).
        auc: exact AUC on the test set.
        train_seconds: wall seconds of training up to the end of this epoch, without evaluation,
            pretraining included.
        parameters: trainable and frozen numbers in all.
        dim: embedding width; None where it has no meaning.
        pretrain: what pretraining saw ("all users", "training users"); None without pretraining.
        validation_auc: by which the epoch is chosen; None where there is no validation set.
        gauc: AUC within users; None where it is refused.
        gauc_refused: why `gauc` is None.
        gauc_users_counted: users that GAUC speaks of.
        gauc_users_left_out: users with labels of one class.
        ne: log loss over the entropy of the mean label; None for scores that are no logits.
        log_loss: mean binary cross-entropy in nats; None likewise.
        calibration: mean prediction over mean label; None likewise.
        pretrain_seconds: the part of `train_seconds` that was pretraining.
        train_flops: of training up to the end of this epoch, pretraining included, as
            `torch.utils.flop_counter` counts them; None where nobody counted.
        pretrain_flops: the part of `train_flops` that was pretraining.
        examples_per_second: training throughput of the fine-tuning stage.
        parameters_embedding: the part of `parameters` that is in tables.
        parameters_dense: the rest.
        frozen: tables that did not train.
        metrics: any further metric by name, flat beside the others in the file.

    Raises:
        ValueError: a field of the wrong type or range, or metrics that hide a field.
    """

    model: str
    strategy: str
    seed: int
    epoch: int
    auc: float
    train_seconds: float
    parameters: int
    dim: int | None = None
    pretrain: str | None = None
    validation_auc: float | None = None
    gauc: float | None = None
    gauc_refused: str | None = None
    gauc_users_counted: int | None = None
    gauc_users_left_out: int | None = None
    ne: float | None = None
    log_loss: float | None = None
    calibration: float | None = None
    pretrain_seconds: float = 0.0
    train_flops: float | None = None
    pretrain_flops: float | None = None
    examples_per_second: float | None = None
    parameters_embedding: int | None = None
    parameters_dense: int | None = None
    frozen: tuple[str, ...] = ()
    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frozen", _frozen_tables(self.frozen))
        for field in dataclasses.fields(self):
            if field.name not in ("frozen", "metrics"):
                value = _checked(field.name, getattr(self, field.name), str(field.type))
                object.__setattr__(self, field.name, value)
        further = {name: _checked(name, v, "float | None") for name, v in self.metrics.items()}
        object.__setattr__(self, "metrics", further)
        hidden = sorted(set(further) & set(_FIELDS))
        if hidden:
            raise ValueError(f"metrics repeat the field {hidden[0]!r}: set the field itself")
        for name in ("auc", "validation_auc", "gauc"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be within 0 and 1, got {value}")
        if self.gauc is None and not self.gauc_refused:
            raise ValueError("gauc is null: say why in gauc_refused")
        if self.pretrain_seconds > self.train_seconds:
            raise ValueError(
                f"train_seconds counts pretraining: {self.train_seconds} is less than "
                f"pretrain_seconds {self.pretrain_seconds}"
            )

    @property
    def variant(self) -> Variant:
        """What is compared."""
        return Variant(self.model, self.strategy, self.dim, self.pretrain)

    @property
    def run(self) -> RunKey:
        """The training run that the row belongs to."""
        return RunKey(self.variant, self.seed)

    def to_dict(self) -> dict[str, Any]:
        """The object of the file."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return {**values, "frozen": list(self.frozen), **self.metrics}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ResultRow:
        """Reads an object of the file; a key that is no field is a further metric.

        Raises:
            ValueError: a field is missing, or as the class says.
        """
        missing = [name for name in _REQUIRED if name not in values]
        if missing:
            raise ValueError(f"the field {missing[0]!r} is missing; it has {', '.join(values)}")
        known = {name: values[name] for name in _FIELDS if name in values}
        further = {name: value for name, value in values.items() if name not in _FIELDS}
        return cls(**known, metrics=further)


_FIELDS = tuple(f.name for f in dataclasses.fields(ResultRow) if f.name != "metrics")
_REQUIRED = tuple(
    field.name
    for field in dataclasses.fields(ResultRow)
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
)


def read_results(out_dir: Path) -> list[ResultRow]:
    """Reads `results.json`; no file is no rows.

    Raises:
        ValueError: as `read_result_file`.
    """
    path = out_dir / RESULTS_FILE
    return read_result_file(path) if path.exists() else []


def read_result_file(path: Path) -> list[ResultRow]:
    """Reads the rows of a file.

    Raises:
        ValueError: the file is missing or not a list of rows: it names the file, the row and the
            field.
    """
    try:
        objects = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; name a results.json") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): mend it or move it away") from error
    if not isinstance(objects, list):
        raise ValueError(f"{path} must hold a list of rows, not {type(objects).__name__}")
    rows = []
    for number, values in enumerate(objects):
        try:
            if not isinstance(values, dict):
                raise ValueError(f"must be an object, not {type(values).__name__}")
            rows.append(ResultRow.from_dict(values))
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from error
    return rows


def append_results(out_dir: Path, rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Merges rows into `results.json`: one of the same run and epoch takes the old one's place.

    Args:
        out_dir: the comparison's folder; made where absent.
        rows: new rows, in any order.

    Returns:
        Every row of the file, in the order in which their runs first came, by epoch.

    Raises:
        ValueError: the file that is there is not valid (nothing is written then).
    """
    by_epoch = {(row.run, row.epoch): row for row in read_results(out_dir)}
    by_epoch.update({(row.run, row.epoch): row for row in rows})
    runs = {run: place for place, (run, _) in reversed(list(enumerate(by_epoch)))}
    merged = sorted(by_epoch.values(), key=lambda row: (runs[row.run], row.epoch))
    lines = ",\n".join(json.dumps(row.to_dict(), allow_nan=False) for row in merged)
    write_atomically(out_dir / RESULTS_FILE, f"[\n{lines}\n]\n".encode())
    return merged


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file at once: a reader, or a process killed midway, sees the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _frozen_tables(value: Any) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"frozen must be a list of table names, got {value!r}")
    if not all(isinstance(table, str) for table in value):
        raise ValueError(f"frozen must be a list of table names, got {list(value)!r}")
    return tuple(value)


def _checked(name: str, value: Any, kind: str) -> Any:
    """The value as plain Python, if it is of the annotated kind, finite and not negative."""
    if value is None and kind.endswith("None"):
        return None
    kind = kind.removesuffix(" | None")
    if kind == "str":
        if isinstance(value, str) and value:
            return value
        raise ValueError(f"{name} must be a word, got {value!r}")
    whole = kind == "int"
    if isinstance(value, bool) or not isinstance(
        value, numbers.Integral if whole else numbers.Real
    ):
        raise ValueError(f"{name} must be {'a whole ' if whole else 'a '}number, got {value!r}")
    plain = float(value)
    if not math.isfinite(plain):
        raise ValueError(f"{name} must be finite, got {plain}: leave a diverged run out")
    if name in _FIELDS and plain < 0:
        raise ValueError(f"{name} must not be negative, got {plain}")
    return int(value) if whole else plain  # type: ignore[call-overload]
