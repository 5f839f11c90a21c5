"""The model card of an artefact: what it was trained on, and how well."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from torchrec_gr.pretrained.artefact.record import (
    RECORD,
    ArtefactRecord,
    PretrainedError,
    TableEntry,
)


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What someone must know who finds the artefact.

    Args:
        trained_on: the data, in a few words.
        data: of the data: counts, splits, label, ... as plain values.
        metrics: by name.
        settings: of the training, as plain values.
        license: of the weights.
        notes: whatever else, in Markdown.
    """

    trained_on: str
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    license: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        if not self.trained_on.strip():
            raise PretrainedError("a model card needs trained_on: say in a few words what data")


def render_card(card: ModelCard, record: ArtefactRecord) -> str:
    """The card as a page in Markdown, with the facts that the record knows."""
    sections = [
        f"# {record.module}, pretrained on {card.trained_on}",
        f"A pretrained `{record.module}` module of torchrec_gr: its weights, the raw id of every "
        f"row of its tables, its schema and its configuration. `{RECORD}` holds the same facts for "
        "programs, and the checksum of every file.",
        _section("Data", card.data),
        _section("Metrics", card.metrics),
        _section("Settings", card.settings),
        _section("Configuration", record.config),
        _tables(record.tables),
        _dense(record),
        "## How to load it\n\n```python\nfrom torchrec_gr.pretrained import load_pretrained\n\n"
        'pretrained = load_pretrained("path/to/this/folder")\nprint(pretrained.card.metrics)\n```',
        _section("Versions", record.versions),
        f"## License\n\n{card.license}" if card.license else "",
        f"## Notes\n\n{card.notes}" if card.notes else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(title: str, values: Mapping[str, Any]) -> str:
    if not values:
        return ""
    return f"## {title}\n\n" + _table(("", ""), [(key, _cell(of)) for key, of in values.items()])


def _tables(tables: Mapping[str, TableEntry]) -> str:
    rows = [
        (
            name,
            f"{table.num_rows:,}",
            str(table.dim),
            table.fields["weight"].dtype,
            _raw_ids(table),
            table.optimizer or table.left_out or "none",
        )
        for name, table in tables.items()
    ]
    return "## Tables\n\n" + _table(
        ("table", "rows", "width", "dtype", "raw ids", "optimizer state"), rows
    )


def _raw_ids(table: TableEntry) -> str:
    if table.is_dynamic:
        return "its own (dynamic)"
    if table.slots is None:
        return str(table.vocabulary)
    slots = table.slots
    return f"any, by hash {slots.function + 1} of {slots.num_hashes}, seed {slots.seed}"


def _dense(record: ArtefactRecord) -> str:
    num_values = sum(_product(entry.value.shape) for entry in record.dense.values())
    state = "with" if any(entry.state for entry in record.dense.values()) else "without"
    return (
        f"Beside its tables it has {len(record.dense)} tensors of {num_values:,} numbers, {state} "
        "the state of their optimizer."
    )


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for length in shape:
        total *= length
    return total


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, bool | None | Mapping | list | tuple):
        return f"`{json.dumps(value)}`"
    if isinstance(value, int):
        return f"{value:,}"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
