"""A log made ready for training: vocabularies, histories, and blocks of encoded rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.columns import Columns
from torchrec_gr.data.cross_features import CrossFeatures
from torchrec_gr.data.encoding import encode_features, encode_users
from torchrec_gr.data.event_store import EventStore
from torchrec_gr.data.log_file import LogFile
from torchrec_gr.data.log_reading import features, read_item_ages, read_times, row_needs, row_splits
from torchrec_gr.data.log_scan import Block
from torchrec_gr.data.log_source import TEST, VALIDATION, LogSource, TemporalSplit
from torchrec_gr.data.prepared_folder import (
    CROSSES,
    EVENTS,
    MANIFEST,
    USERS,
    fingerprint,
    vocabulary_paths,
    whole_or_absent,
    write_prepared,
)
from torchrec_gr.data.rows import Rows
from torchrec_gr.schema.feature_schema import FeatureSchema, Role, nearest_valid
from torchrec_gr.schema.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class PreparedLog:
    """An impression log with its vocabularies and histories, read in blocks.

    Args:
        source: the log.
        splits: the names of its splits: train, validation, test, test_<name>, as far as they occur.
        vocabularies: table -> the rows of its ids, made on the training window alone.
        users: the ids of all users; user i has row i + 1. None where the log has none.
        events: the users' histories; None where the schema has no history feature.
        files: the files of rows, readable in blocks.
        blocks: of the rows, in the log's order.
        counts: what was found, dropped or mended, and how often.
        crosses: the computed features; None where the schema has none.
    """

    source: LogSource
    splits: tuple[str, ...]
    vocabularies: dict[str, Vocabulary]
    users: Vocabulary | None
    events: EventStore | None
    files: list[LogFile]
    blocks: list[Block]
    counts: dict[str, int]
    crosses: CrossFeatures | None = None

    @property
    def schema(self) -> FeatureSchema:
        """What the columns mean."""
        return self.source.schema

    @property
    def table_rows(self) -> dict[str, int]:
        """Table -> how many rows it needs."""
        return {name: words.num_rows for name, words in self.vocabularies.items()}

    @property
    def num_users(self) -> int:
        """Users in rows and events; 0 where the log has no users."""
        return self.users.num_rows - 1 if self.users is not None else 0

    @property
    def raw_users(self) -> NDArray[Any]:
        """[num_users] raw ids, sorted: `Rows.user_index` counts in them."""
        return self.users.raw_ids if self.users is not None else np.empty(0, dtype=np.int64)

    @property
    def dense_names(self) -> list[str]:
        """The dense features of an impression: contextual, then candidate."""
        dense = (*self.schema.of("contextual", "dense"), *self.schema.of("candidate", "dense"))
        return [feature.name for feature in dense]

    @property
    def split_as_of(self) -> dict[str, int] | None:
        """Split -> the moment at which its histories are frozen by `history_as_of: split`.

        The training split is not in it: its histories always go on to the exposure. None where the
        log is not split by time.
        """
        split = self.source.split
        if not isinstance(split, TemporalSplit):
            return None
        return {VALIDATION: split.validation_from, TEST: split.test_from}

    def num_rows(self, split: str) -> int:
        """Rows of one split.

        Raises:
            ValueError: a split that the log does not have.
        """
        if split not in self.splits:
            raise ValueError(nearest_valid("split", split, self.splits))
        place = self.splits.index(split)
        return sum(block.counts[place] for block in self.blocks)

    def read_block(self, index: int, roles: tuple[Role, ...] = ("contextual", "candidate")) -> Rows:
        """Reads and encodes the rows of `blocks[index]`; `crosses` fills computed features in.

        Args:
            index: of the block.
            roles: whose features are read.

        Raises:
            ValueError: the file is damaged or has changed since the log was prepared.
        """
        block = self.blocks[index]
        columns = self._columns(block, row_needs(self.source, *roles))
        times = read_times(self.source, columns)
        row_features = features(self.source, *roles)
        encoded = encode_features(columns, row_features, self.vocabularies)
        return Rows(
            user_index=encode_users(columns, self.schema.user, self.users),
            times=times,
            labels=np.stack([columns.labels(label) for label in self.schema.labels], axis=1),
            ids={f.name: encoded[f.name] for f in row_features if f.kind == "categorical"},
            dense={f.name: encoded[f.name] for f in row_features if f.kind == "dense"},
            source_rows=np.arange(block.first_row, block.first_row + block.num_rows),
            split=row_splits(self.source, columns, times).codes(self.splits),
            item_ages=(
                read_item_ages(self.source, columns, times) if "candidate" in roles else None
            ),
        )

    def without_cross_features(self) -> PreparedLog:
        """The same log for a model that reads no computed feature."""
        schema, computed = self.schema, self.schema.computed
        of_buckets = {feature.table for feature in computed if feature.table}
        read = dataclasses.replace(
            schema,
            features=tuple(f for f in schema.features if not f.is_computed),
            tables=tuple(table for table in schema.tables if table.name not in of_buckets),
        )
        return dataclasses.replace(
            self,
            source=dataclasses.replace(self.source, schema=read),
            vocabularies={n: v for n, v in self.vocabularies.items() if n not in of_buckets},
            crosses=None,
        )

    def gauc_refusal(self, history_as_of: str) -> str | None:
        """Why GAUC would mislead on this log; None where it is sound.

        A user's score that falls as their history grows says how late in the test window an
        impression lies. That alone orders a user's impressions better than chance.

        Args:
            history_as_of: how fresh histories are, "exposure", "day" or "split".

        Source: measured on KuaiRand-Pure, labels shuffled within users: "minus the number of
            earlier events" has a GAUC of .66.
        """
        if self.users is None:
            return "the log has no users to group by"
        if self.events is None or history_as_of == "split":
            return None
        if isinstance(self.source.split, TemporalSplit):
            tests = [name for name in self.splits if name.startswith(TEST)]
            streams = self.events.select(tests)[1].size > 0
        else:
            streams = self.source.rows_are_events
        if not streams:
            return None
        mend = ": use history_as_of='split'" if self.split_as_of is not None else ""
        return (
            f"with history_as_of={history_as_of!r} histories grow within the test window, and how "
            f"far one has grown tells a user's impressions apart{mend}"
        )

    def report(self) -> str:
        """What the log holds and what was dropped or mended, one line each."""
        width = max(len(f"{count:,}") for count in self.counts.values())
        lines = [f"  {count:>{width},}  {what}" for what, count in self.counts.items()]
        lines += [f"  {value:g}  {what}" for what, value in self.source.notes.items()]
        return "\n".join([f"log {self.schema.name}", *lines])

    def _columns(self, block: Block, needs: Iterable[str]) -> Columns:
        file = self.files[block.file]
        contents = file.read(block.row_group, list(needs))
        if contents.num_rows != block.num_rows:
            raise ValueError(
                f"{file.path} has changed since the log was prepared: row group {block.row_group} "
                f"has {contents.num_rows} rows, expected {block.num_rows}; start the run again"
            )
        return Columns(file, block.row_in_file, contents)


def prepare(
    source: LogSource, work_dir: Path, previous: Mapping[str, Vocabulary] | None = None
) -> PreparedLog:
    """Reads a log, makes its vocabularies and histories, and keeps them for the next time.

    The log is streamed: at most 65,536 rows of it are in memory at once, beside the ids of the
    vocabularies and, while they are sorted, the users and times of the events. A log that was
    prepared before in `work_dir` is opened at once, unless a file, the schema, the split or
    `previous` changed. Processes may prepare the same log at the same time.

    Args:
        source: the log.
        work_dir: where the prepared state is kept.
        previous: table -> vocabulary of an earlier log: its ids keep their rows, new ids follow.

    Raises:
        ValueError: a file, column or value that cannot be used, named; or no row to train on.
    """
    previous = previous or {}
    work_dir.mkdir(parents=True, exist_ok=True)
    folder = work_dir / f"prepared-{fingerprint(source, previous)[:16]}"
    if not folder.is_dir():
        with whole_or_absent(folder) as partial:
            write_prepared(source, partial, previous)
    return _open(source, folder)


def _open(source: LogSource, folder: Path) -> PreparedLog:
    """Opens what `write_prepared` wrote; the histories stay on disk until they are read."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    splits = tuple(manifest["splits"])
    events = folder / EVENTS
    return PreparedLog(
        source=source,
        splits=splits,
        vocabularies={n: Vocabulary.load(path) for n, path in vocabulary_paths(source, folder)},
        users=Vocabulary.load(folder / USERS) if source.schema.user is not None else None,
        events=EventStore.load(events, source.schema, splits) if source.has_history else None,
        files=[
            LogFile(path, stored=folder / spooled if spooled else path)
            for path, spooled in zip(map(Path, source.rows), manifest["spooled"], strict=True)
        ],
        blocks=[
            Block(**{**block, "counts": tuple(block["counts"])}) for block in manifest["blocks"]
        ],
        counts=manifest["counts"],
        crosses=CrossFeatures.load(folder / CROSSES, source.schema)
        if source.schema.computed
        else None,
    )
