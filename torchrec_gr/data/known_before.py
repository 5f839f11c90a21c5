"""How fresh a row's history is: the moment that it ends before."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from torchrec_gr.data.clock import day_start
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.schema.feature_schema import nearest_valid

HistoryAsOf = Literal["exposure", "day", "split"]


class KnownBefore:
    """Gives the rows of one split the moments that their histories end before.

    Args:
        log: prepared.
        split: which of `log.splits`.
        history_as_of: "exposure": a row's own time. "day": the beginning of the row's day, by the
            schema's clock. "split": the row's time or the first time of its split, whichever comes
            first; in training, as "exposure".

    Raises:
        ValueError: a word that is unknown or that the log cannot serve.
    """

    def __init__(self, log: PreparedLog, split: str, history_as_of: HistoryAsOf) -> None:
        for what, given, valid in (
            ("split", split, log.splits),
            ("history_as_of", history_as_of, get_args(HistoryAsOf)),
        ):
            if given not in valid:
                raise ValueError(nearest_valid(what, given, valid))
        if history_as_of == "day" and log.schema.time_unit == "order":
            raise ValueError(
                "history_as_of='day' needs times, but this log knows only an order "
                "(time_unit 'order'): use 'exposure' or 'split'"
            )
        if history_as_of == "split" and log.split_as_of is None:
            raise ValueError(
                "history_as_of='split' needs a log that is split by time: use 'exposure', "
                "or prepare the log with a TemporalSplit"
            )
        self.by_day = history_as_of == "day"
        self._schema = log.schema
        self._latest: int | None = None
        if history_as_of == "split" and split != TRAIN:
            assert log.split_as_of is not None  # checked
            self._latest = log.split_as_of[split]

    def __call__(self, times: NDArray[np.int64]) -> NDArray[np.int64]:
        """[N] int64: a row at each of the times [N] knows the events strictly before this."""
        if self.by_day:
            return day_start(self._schema, times)
        return times if self._latest is None else np.minimum(times, self._latest)
