"""The folder that holds a prepared log: written once, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torchrec_gr.data.columns import Columns
from torchrec_gr.data.cross_buckets import bucket_vocabulary
from torchrec_gr.data.cross_writing import write_crosses
from torchrec_gr.data.encoding import encode_features, encode_users
from torchrec_gr.data.event_store import EventSorter, EventStore
from torchrec_gr.data.log_reading import (
    event_needs,
    event_splits,
    features,
    read_all,
    read_times,
    row_needs,
    row_splits,
)
from torchrec_gr.data.log_scan import LogScan, scan
from torchrec_gr.data.log_source import TRAIN, LogSource
from torchrec_gr.data.split_names import SplitNames
from torchrec_gr.schema.vocabulary import OUT_OF_VOCABULARY, Vocabulary, VocabularyBuilder

MANIFEST = "manifest.json"
USERS = "users.parquet"
EVENTS = "events"
CROSSES = "crosses"

_FORMAT = 3  # of the files in a prepared folder; one of another format is not opened


def write_prepared(source: LogSource, folder: Path, previous: Mapping[str, Vocabulary]) -> None:
    """Reads a log and fills a folder with what a PreparedLog is opened from.

    Args:
        source: the log.
        folder: empty.
        previous: table -> vocabulary of an earlier log: its ids keep their rows, new ids follow.

    Raises:
        ValueError: a file, column or value that cannot be used, named; or no row to train on.
    """
    found = scan(source, folder)
    vocabularies = {
        name: builder.build(previous.get(name)) for name, builder in found.builders.items()
    }
    for feature in source.schema.computed:
        if feature.table:
            assert feature.statistic is not None  # that makes it computed
            vocabularies[feature.table] = bucket_vocabulary(feature.table, feature.statistic)
    for name, path in vocabulary_paths(source, folder):
        vocabularies[name].save(path)
    users = found.users.build() if source.schema.user is not None else None
    counts = _row_counts(found)
    if users is not None:
        users.save(folder / USERS)
        counts["users"] = users.num_rows - 1
    if source.schema.computed:
        write_crosses(source, found, folder / CROSSES)
    if users is not None and source.has_history:
        _write_events(source, found, vocabularies, users, folder / EVENTS)
        store = EventStore.load(folder / EVENTS, source.schema, found.splits)
        counts["events"] = store.num_events
        cut = f"rows with a longer history, cut to the newest {store.max_history} events"
        counts[cut] = _num_cut(source, found, users, store)
    counts |= _vocabulary_counts(vocabularies, found.builders)
    counts |= _num_unknown(source, found, vocabularies)
    counts |= {what: count for what, count in found.counts.items() if count}
    counts |= {f"dropped: {reason}": count for reason, count in source.dropped.items()}
    _write_manifest(folder, found, counts)


def _write_events(
    source: LogSource,
    found: LogScan,
    vocabularies: Mapping[str, Vocabulary],
    users: Vocabulary,
    folder: Path,
) -> None:
    """Writes the event store: the further events, then the rows where they are events."""
    num_rows = sum(block.num_rows for block in found.blocks) if source.rows_are_events else 0
    sorter = EventSorter(folder, source.schema, found.num_events + num_rows)
    history = features(source, "history")

    def add(columns: Columns, splits_of: Callable[..., SplitNames]) -> None:
        times = read_times(source, columns)
        sorter.add(
            encode_users(columns, source.schema.user, users),
            times,
            splits_of(source, columns, times).codes(found.splits),
            encode_features(columns, history, vocabularies),
        )

    for columns in read_all(found.event_files, list(event_needs(source))):
        add(columns, event_splits)
    if source.rows_are_events:
        for columns in read_all(found.files, list(row_needs(source, "history"))):
            add(columns, row_splits)
    sorter.finish(users.num_rows - 1)
    for file in found.event_files:
        if file.stored != file.path:
            file.stored.unlink()  # the events were all it was for


def _num_cut(source: LogSource, found: LogScan, users: Vocabulary, store: EventStore) -> int:
    """How many rows have more events before them than a history keeps."""
    num_cut = 0
    for columns in read_all(found.files, list(row_needs(source))):
        user_index = encode_users(columns, source.schema.user, users)
        first, start, _ = store.before(user_index, read_times(source, columns))
        num_cut += int((first < start).sum())
    return num_cut


def _num_unknown(
    source: LogSource, found: LogScan, vocabularies: Mapping[str, Vocabulary]
) -> dict[str, int]:
    """How many values of held-out rows were never seen in training, by column."""
    counts: Counter[str] = Counter()
    categorical = {
        feature.column: feature
        for feature in features(source, "contextual", "candidate")
        if feature.kind == "categorical"
    }
    needs = list(row_needs(source, "contextual", "candidate"))
    for columns in read_all(found.files, needs):
        held_out = ~row_splits(source, columns, read_times(source, columns)).mask(TRAIN)
        encoded = encode_features(columns, categorical.values(), vocabularies)
        for column, feature in categorical.items():
            known = columns.ids(column).is_valid().to_numpy(zero_copy_only=False)
            unknown = known & held_out & (encoded[feature.name] == OUT_OF_VOCABULARY)
            counts[f"held-out values of {column} unknown to training"] += int(unknown.sum())
    return {what: count for what, count in counts.items() if count}


def _row_counts(found: LogScan) -> dict[str, int]:
    counts = {"rows": sum(block.num_rows for block in found.blocks)}
    for place, name in enumerate(found.splits):
        counts[f"rows in {name}"] = sum(block.counts[place] for block in found.blocks)
    return counts


def _vocabulary_counts(
    vocabularies: Mapping[str, Vocabulary], builders: Mapping[str, VocabularyBuilder]
) -> dict[str, int]:
    counts = {}
    for name, builder in builders.items():
        counts[f"ids in table {name}"] = vocabularies[name].num_rows - 1
        num_rare = int(vocabularies[name].counts[OUT_OF_VOCABULARY]) - builder.num_null
        if num_rare:
            min_count = builder.table.min_count
            counts[
                f"training values of table {name} seen under {min_count} times, taken for unknown"
            ] = num_rare
    return counts


def vocabulary_paths(source: LogSource, folder: Path) -> list[tuple[str, Path]]:
    """Table -> file; by number, since a table's name need not be a file's name."""
    return [
        (table.name, folder / f"vocabulary-{i}.parquet")
        for i, table in enumerate(source.schema.tables)
    ]


def _write_manifest(folder: Path, found: LogScan, counts: Mapping[str, int]) -> None:
    manifest = {
        "splits": found.splits,
        "spooled": [file.stored.name if file.stored != file.path else None for file in found.files],
        "blocks": [dataclasses.asdict(block) for block in found.blocks],
        "counts": counts,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, default=int), encoding="utf-8")


def fingerprint(source: LogSource, previous: Mapping[str, Vocabulary]) -> str:
    """Changes with whatever the prepared state depends on."""
    depends_on = {
        "format": _FORMAT,
        "files": [[_state(path) for path in paths] for paths in (source.rows, source.events)],
        "schema": source.schema.to_dict(),
        "split": dataclasses.asdict(source.split),
        "rows_are_events": source.rows_are_events,
        "event_split": source.event_split,
        "dropped": dict(source.dropped),
        "previous": {name: vocabulary.fingerprint() for name, vocabulary in previous.items()},
    }
    # Counts and times may be NumPy integers.
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True, default=int).encode()).hexdigest()


def _state(path: Path) -> tuple[str, int, int]:
    if not Path(path).is_file():
        raise ValueError(f"log file {path} does not exist")
    state = Path(path).stat()
    return str(Path(path).resolve()), state.st_size, state.st_mtime_ns


@contextlib.contextmanager
def whole_or_absent(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name only when it is whole."""
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same contents
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
