"""What a comparison's folder says of itself: which log, which settings, which command."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipelines.configuration.config import to_plain
from pipelines.configuration.settings import Settings
from pipelines.configuration.variants import differing
from pipelines.results.artifacts import (
    RunInfo,
    describe_commit,
    describe_environment,
    read_run_info,
    write_run_info,
)
from pipelines.results.rows import read_results
from pipelines.stages.pretrainers import readable_splits
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.data.prepared_log import PreparedLog

_MAY_GROW = (
    *("models", "strategies", "seeds", "dims", "pretrain_users", "epochs", "data_dir"),
    "against",
    "strategies_of",
    "references",
    "variants",  # each of which stays what it is
)
"""Settings that may change between two starts of one comparison."""


def describe(log: PreparedLog, settings: Settings, command: str) -> RunInfo:
    """What the report says of the comparison besides its numbers."""
    return RunInfo(
        title=f"{log.schema.name}: what beats vanilla DLRM?",
        command=command,
        data={"label": log.schema.labels[0], "splits": ", ".join(log.splits), **log.counts},
        settings=to_plain(settings),
        environment=describe_environment(),
        commit=describe_commit(),
        budget=None if settings.budget is None else str(settings.budget),
        epochs=settings.epochs,
        baseline_model=(settings.baseline or "dlrm").replace(":", "."),
        against=tuple(model.replace(":", ".") for model in settings.against),
        bayes_auc=log.source.notes.get("bayes_auc"),
        remarks=_what_pretraining_sees(log, settings),
    )


def _what_pretraining_sees(log: PreparedLog, settings: Settings) -> tuple[str, ...]:
    """Why pretraining may help or not: how much it reads, and what it asks beside the label."""
    if log.events is None or log.schema.target is None or settings.strategies == ("none",):
        return ()
    num_events = log.events.select(readable_splits(log, settings.pretrain_users[0]))[1].size
    num_rows = log.num_rows(TRAIN)
    return (
        f"Pretraining predicts the next {log.schema.target} and reads {num_events:,} events; the "
        f"ranker reads {num_rows:,} labelled rows, {num_events / num_rows:.1f} events for each. "
        "It can pay where events are many beside labels and where the label "
        f"({log.schema.labels[0]}) asks what pretraining asks, which item comes next. Where every "
        "item that was shown is an event, the next one says what was shown more than what was "
        "liked.",
    )


def describe_folder(out: Path, info: RunInfo) -> None:
    """Says in the folder what it holds, once that is found to be one comparison with what is there.

    Variants that rows are there of are kept, though they are not asked for this time.

    Raises:
        ValueError: rows of another log, or under other settings; names what differs.
    """
    _require_same_comparison(out, info)
    variants = {**read_run_info(out).settings.get("variants", {}), **info.settings["variants"]}
    settings = {**info.settings, "variants": variants}
    write_run_info(out, dataclasses.replace(info, settings=settings))


def _require_same_comparison(out: Path, info: RunInfo) -> None:
    if not read_results(out):
        return
    before, now = read_run_info(out), info
    others = [f"data: {key}" for key in now.data if before.data.get(key) != now.data[key]]
    others += [
        key
        for key, value in now.settings.items()
        if key not in _MAY_GROW and key in before.settings and before.settings[key] != value
    ]
    variants = differing(before.settings.get("variants", {}), now.settings["variants"])
    others += [f"variants.{variant}" for variant in variants]
    if others:
        raise ValueError(
            f"{out} holds a comparison with other settings ({', '.join(others)}): results can "
            "only be added under the same ones. Choose another --out"
        )
