"""Scoring the candidates of a request over its kept history, and by a pass each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import Row, Table, best_milliseconds, compared
from benchmarks.models.mtgr_windows import (
    NUM_USER_TOKENS,
    SCHEMA,
    TABLE_DIM,
    TABLE_ROWS,
    draw_windows,
    take_part,
)
from torchrec_gr.models.hstu_ranker import HSTURanker
from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig, TokenForm
from torchrec_gr.models.hstu_ranker_scoring import encode_histories, score_candidates
from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.modules.sequence_trunk import TrunkConfig
from torchrec_gr.sequences.request_batch import RequestBatch

_TOLERANCE = 1e-5


class Case(NamedTuple):
    """A request, and the ranker that scores it: HSTU's production block, a bias over positions.

    Args:
        name: of the row.
        num_candidates: to score.
        num_history: events before them.
        tokens: "interleaved", two an event, or "added", one.
        micro_batch: candidates of a pass of M-FALCON.
        num_single: candidates that are scored by a pass each; their mean time counts for all.
        dim, num_layers, num_heads: of the trunk.
    """

    name: str
    num_candidates: int
    num_history: int
    tokens: TokenForm
    micro_batch: int = 250
    num_single: int = 20
    dim: int = 128
    num_layers: int = 4
    num_heads: int = 4

    @property
    def config(self) -> HSTURankerConfig:
        """Of the ranker: a row holds the history and one candidate."""
        tokens_per_event = 2 if self.tokens == "interleaved" else 1
        trunk = TrunkConfig(
            "hstu",
            self.dim,
            self.num_layers,
            self.num_heads,
            bias="position",
            max_seq_len=NUM_USER_TOKENS + tokens_per_event * self.num_history + 1,
        )
        return HSTURankerConfig(trunk, self.tokens)


class Scoring:
    """The ways to score a drawn request.

    Args:
        case: what is drawn.
    """

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.micro_batch = case.micro_batch
        self.ranker = HSTURanker(case.config, SCHEMA, TABLE_ROWS, TABLE_DIM).eval()
        counts = (torch.tensor([n]) for n in (case.num_history, case.num_candidates, 1))
        self.request = draw_windows(*counts, at_once=True)
        nothing, self.events = torch.arange(0), torch.arange(case.num_history)
        candidates = torch.arange(case.num_candidates)
        self.history = take_part(self.request, self.events, nothing)
        self.candidates = take_part(self.request, nothing, candidates)

    def encode(self) -> ContextCache:
        """What is kept of the history."""
        return encode_histories(self.ranker, self.history)

    def over(self, history: ContextCache) -> Tensor:
        """Logits of all candidates over a kept history."""
        return score_candidates(self.ranker, history, self.candidates, micro_batch=self.micro_batch)

    def anew(self) -> Tensor:
        """Logits of all candidates over a history that was never seen."""
        return self.over(self.encode())

    def singly(self, candidates: Tensor) -> list[RequestBatch]:
        """The request with each of some candidates alone."""
        return [take_part(self.request, self.events, one) for one in candidates.split(1)]

    def one_by_one(self, requests: Sequence[RequestBatch]) -> Tensor:
        """Logits of requests of one candidate, a pass each."""
        return torch.cat([self.ranker(request)[1].logits for request in requests])


def measure_scoring(cases: Sequence[Case], seconds: float) -> list[Row]:
    """M-FALCON, of a history that is new and of one that is kept, against a pass a candidate."""
    print("\nthe candidates of a request by M-FALCON, against a pass for each: ms")
    columns = {"candidates": 10, "events": 6, "tokens": 11, "history": 7, "M-FALCON": 9}
    table = Table(columns | {"a pass each": 11, "ratio": 7, "difference": 10})
    with torch.inference_mode():
        return [row for case in cases for row in _measure(case, seconds, table)]


def _measure(case: Case, seconds: float, table: Table) -> list[Row]:
    scoring = Scoring(case)
    sample = torch.linspace(0, case.num_candidates - 1, case.num_single).round().long()
    ways: dict[str, Callable[[], Tensor]] = {
        "new": scoring.anew,
        "kept": partial(scoring.over, scoring.encode()),
        "each": partial(scoring.one_by_one, scoring.singly(sample)),
    }
    alone = ways["each"]()
    difference = max(
        float((ways[history]()[sample] - alone).abs().max()) for history in ("new", "kept")
    )
    if not difference <= _TOLERANCE:
        raise RuntimeError(f"results differ by {difference:.1e}: {case}")
    ms = best_milliseconds(ways, seconds)
    each = ms["each"] / case.num_single * case.num_candidates
    described = case._asdict() | {"a pass each": f"mean of {case.num_single}, times candidates"}
    rows = []
    for history, name in {"new": case.name, "kept": f"{case.name}_kept"}.items():
        row = compared(name, described, ms[history], each, difference)
        table.row(
            f"{case.num_candidates}",
            f"{case.num_history}",
            case.tokens,
            history,
            f"{ms[history]:.1f}",
            f"{each:.0f}",
            f"{row['ratio']:.1f}",
            f"{difference:.1e}",
        )
        rows.append(row)
    return rows
