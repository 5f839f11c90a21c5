"""The report's part on how each model's settings were chosen, from `search.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.reports.document import EMPTY, Block, Heading, Paragraph, Table
from pipelines.reports.tables import flat_settings, seconds_in_words

SEARCH_FILE = "search.json"


def search_section(out_dir: Path) -> Iterator[Block]:
    """The section with the search's space, its trials and its winners; none without a search.

    Args:
        out_dir: where `search.json` is looked for.

    Returns:
        Its blocks.

    Raises:
        ValueError: the file is damaged.
    """
    path = out_dir / SEARCH_FILE
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        trials = _trials(found)
        winners = _winners(found)
        words = str(found["words"])
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): delete it and search again") from error
    yield Heading(2, "How the settings were chosen")
    yield Paragraph(words)
    trees = " Trees take the two factors for their learning rate and number of leaves."
    yield Paragraph(
        "Validation AUC of each trial; the winner's is marked with a star."
        f"{trees if 'gbdt' in found['trials'] else ''}"
    )
    yield trials
    yield Paragraph("What the winners set:")
    yield winners


def _trials(found: Mapping[str, Any]) -> Table:
    """A row a model, a column for each point of the space."""
    titles = [
        ", ".join(f"{name} x{factor:g}" for name, factor in point.items())
        for point in found["space"]
    ]
    rows = []
    for model, trials in found["trials"].items():
        winner = found["winners"].get(model)
        cells = [
            f"{trial['validation_auc']:.4f}{' *' if place == winner else ''}"
            for place, trial in enumerate(trials)
        ]
        cells += [EMPTY] * (len(titles) - len(cells))
        seconds = sum(trial["seconds"] for trial in trials)
        rows.append([model, *cells[: len(titles)], seconds_in_words(seconds)])
    return Table(["model", *titles, "seconds in all"], rows)


def _winners(found: Mapping[str, Any]) -> Table:
    rows = []
    for model, winner in found["winners"].items():
        settings = found["trials"][model][winner]["settings"]
        words = ", ".join(f"{name} {value}" for name, value in flat_settings(settings))
        rows.append([model, words or "as they are"])
    return Table(["model", "settings"], rows, left=2)
