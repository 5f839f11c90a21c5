"""LUM's second step: the answers of a log's users, kept on disk with a record of their origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.stages.lum_moments import UserMoments
from torchrec_gr.data.collate import collate_sequences, ranges
from torchrec_gr.data.prepared_folder import whole_or_absent
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.models.lum import LUMPretrainer
from torchrec_gr.training.checksum import Checksum
from torchrec_gr.training.sealed_json import read_sealed, write_sealed

_TENSORS = "answers.safetensors"
_RECORD = "record.json"
_HISTORIES_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class LUMCache:
    """What a LUM said of a log's users.

    Args:
        answers: [1 + E, n, D] float32 unit vectors: to an empty history, then at each of E moments.
        items: [V, D] float32 unit vectors, by row of the item's table.
    """

    answers: Tensor
    items: Tensor


def frequent_conditions(
    log: PreparedLog, features: Sequence[str], num_queries: int, splits: Sequence[str]
) -> NDArray[np.int64]:
    """[n, features] int64: the most frequent conditions of the events of some splits.

    Conditions with a value out of the vocabulary are none. n is below `num_queries` where the
    events have fewer.

    Raises:
        ValueError: no event has a condition, or none is asked for.
    """
    assert log.events is not None
    positions = log.events.select(splits)[1]
    values = np.stack([log.events.rows[name][positions] for name in features], axis=1)
    found, counts = np.unique(values[(values > 0).all(axis=1)], axis=0, return_counts=True)
    chosen = found[np.argsort(-counts, kind="stable")[: max(num_queries, 0)]]
    if not len(chosen):
        raise ValueError(
            f"no condition to ask under: of {len(found)} conditions {list(features)}, "
            f"num_queries {num_queries} were asked for: it needs one at least"
        )
    return chosen


def ask(
    log: PreparedLog,
    model: LUMPretrainer,
    conditions: NDArray[np.int64],
    moments: UserMoments,
) -> LUMCache:
    """Asks every user at each of their moments, and an empty history.

    Args:
        log: whose events are the histories.
        model: not sharded.
        conditions: [n, features] int64, table rows.
        moments: when each user is asked.
    """
    start = np.concatenate([[0], moments.start])
    end = np.concatenate([[0], moments.end])
    queries = torch.from_numpy(conditions)
    model.eval()
    answers = []
    with torch.no_grad():
        for first in range(0, len(start), _HISTORIES_AT_ONCE):
            part = slice(first, first + _HISTORIES_AT_ONCE)
            answers.append(_ask_some(log, model, queries, start[part], end[part]))
    return LUMCache(torch.cat(answers), model.item_vectors())


def _ask_some(
    log: PreparedLog,
    model: LUMPretrainer,
    conditions: Tensor,
    start: NDArray[np.int64],
    end: NDArray[np.int64],
) -> Tensor:
    assert log.events is not None
    nobody = np.full(len(start), -1)
    batch = collate_sequences(
        log.schema, log.events, ranges(start, end), end - start, nobody, negatives={}
    )
    return model.query(batch, conditions)


def save_cache(cache: LUMCache, folder: Path, origin: dict[str, Any]) -> None:
    """Writes a cache: its folder appears whole or not at all.

    Args:
        cache: what is written.
        folder: is made.
        origin: plain values that say what it was made of.
    """
    with whole_or_absent(folder) as partial:
        tensors = {"answers": cache.answers.contiguous(), "items": cache.items.contiguous()}
        save_file(tensors, partial / _TENSORS)
        checksum = dataclasses.asdict(Checksum.of(partial / _TENSORS))
        write_sealed(partial / _RECORD, {"origin": origin, "tensors": checksum})


def load_cache(folder: Path, origin: dict[str, Any]) -> LUMCache:
    """Reads a cache that was made of just this.

    Args:
        folder: as `save_cache` wrote it.
        origin: what it must have been made of.

    Raises:
        ValueError: it was made of something else, or is damaged.
    """
    try:
        record, _ = read_sealed(folder / _RECORD)
        damage = Checksum(**record["tensors"]).difference(folder / _TENSORS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the cache {folder} has no sound record ({error}): remove it") from error
    if damage is not None:
        raise ValueError(f"the cache {folder}: its file {_TENSORS} {damage}: remove the cache")
    differing = sorted(key for key in origin if record["origin"].get(key) != origin[key])
    if differing:
        raise ValueError(
            f"the cache {folder} was made of another {', '.join(differing)}: remove it, or choose "
            "another --out"
        )
    try:
        return LUMCache(**load_file(folder / _TENSORS))
    except (SafetensorError, TypeError) as error:
        raise ValueError(f"the cache {folder} cannot be read ({error}): remove it") from error
