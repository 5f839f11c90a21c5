"""What ranks and the best items of a whole catalogue take, against one matrix of all scores.

    python -m benchmarks.retrieval

"Ranks" finds where one item of each user stands among all that the user has not seen, "top-k" the
best 100 of them, both in pieces under a budget of 256 MiB. "Full matrix" writes queries times items
out, as evaluation code usually does, and leaves equal scores in any order. Both sides must give the
same before they are timed; the peak of each is that of one call in a process of its own, beyond its
inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from benchmarks.measure import (
    Row,
    Table,
    best_milliseconds,
    compared,
    figure,
    machine,
    parse,
    print_machine,
    write_json,
)
from torchrec_gr.retrieval.catalogue import Catalogue
from torchrec_gr.training.peak_memory import in_own_process, peak_bytes

Way = Literal["ours", "full matrix"]

WAYS: tuple[Way, ...] = ("ours", "full matrix")
TOP = 100
TOLERANCE = 1e-4  # products of other shapes round otherwise: near-ties change places


class Case(NamedTuple):
    """What is asked for ("ranks", "top_k"), of how many, and how many items a user has seen."""

    work: str
    num_queries: int
    num_items: int
    num_seen: int
    dim: int = 64

    @property
    def name(self) -> str:
        """ "ranks_6040_3416"."""
        return f"{self.work}_{self.num_queries}_{self.num_items}"


FULL = (Case("ranks", 6_040, 3_416, 165), Case("top_k", 1_000, 1_000_000, 165))
QUICK = (Case("ranks", 600, 3_416, 165), Case("top_k", 100, 50_000, 165))


class Asked(NamedTuple):
    """vectors [V, D]; queries [B, D], targets [B], seen_values [S] and seen_offsets [B + 1]."""

    vectors: Tensor
    queries: Tensor
    targets: Tensor
    seen_values: Tensor
    seen_offsets: Tensor


def draw(case: Case) -> Asked:
    """Random vectors; as many seen items for each user, some of them twice."""
    draw = torch.Generator().manual_seed(0)
    return Asked(
        torch.randn(case.num_items, case.dim, generator=draw),
        torch.randn(case.num_queries, case.dim, generator=draw),
        torch.randint(case.num_items, (case.num_queries,), generator=draw),
        torch.randint(case.num_items, (case.num_queries * case.num_seen,), generator=draw),
        torch.arange(case.num_queries + 1) * case.num_seen,
    )


def answer(case: Case, way: Way, asked: Asked) -> Tensor:
    """[B] ranks, or [B, TOP] scores."""
    if way == "full matrix":
        return _ranks(asked) if case.work == "ranks" else _top_k(asked)
    catalogue = Catalogue(asked.vectors)
    if case.work == "ranks":
        return catalogue.ranks(*asked[1:])
    return catalogue.top_k(asked.queries, TOP, *asked[3:]).scores


def difference_of(case: Case, asked: Asked) -> float:
    """The mean difference of ranks, or the largest of scores, relative to the largest value."""
    ours, other = (answer(case, way, asked).double() for way in WAYS)
    apart = (ours - other).abs() / other.abs().max()
    return float(apart.mean() if case.work == "ranks" else apart.max())


def peak_of(case: Case, way: Way) -> int:
    """Bytes at the peak of one call; for a process of its own."""
    answer(case._replace(num_queries=1), way, draw(case._replace(num_queries=1)))  # threads start
    asked = draw(case)
    return peak_bytes(partial(answer, case, way, asked))


def measure(cases: Sequence[Case], seconds: float) -> list[Row]:
    """Prints the table; no time before the results are found equal."""
    print("\nms (how many times faster ours is), and MB at the peak")
    columns = {"": 22, "ours": 8, "full matrix": 16, "ours, MB": 8, "full, MB": 8, "difference": 10}
    table = Table(columns)
    rows = []
    for case in cases:
        asked = draw(case)
        difference = difference_of(case, asked)
        if not difference < TOLERANCE:
            raise RuntimeError(f"{case.name}: results differ by {difference}")
        times = best_milliseconds({w: partial(answer, case, w, asked) for w in WAYS}, seconds)
        del asked  # a process of its own has it again
        peaks = {way: in_own_process(peak_of, case, way) for way in WAYS}
        described = case._asdict()
        row = compared(case.name, described, times["ours"], times["full matrix"], difference)
        table.row(
            case.name,
            f"{row['ours']:.1f}",
            f"{row['other']:.1f} ({row['ratio']:.2f}x)",
            *(f"{peaks[way] / 1e6:.0f}" for way in WAYS),
            f"{difference:.0e}",
        )
        rows.append(row)
        for way in WAYS:
            rows.append(figure(f"{case.name}_peak_bytes", {**described, "way": way}, peaks[way]))
    return rows


def _scores(asked: Asked) -> tuple[Tensor, Tensor, Tensor]:
    """[B, V] scores, and the rows and places of what was seen."""
    rows = torch.arange(len(asked.queries)).repeat_interleave(asked.seen_offsets.diff())
    return asked.queries @ asked.vectors.t(), rows, asked.seen_values


def _ranks(asked: Asked) -> Tensor:
    scores, rows, seen = _scores(asked)
    of_targets = scores.gather(1, asked.targets.unsqueeze(1))
    scores[rows, seen] = -torch.inf
    return (scores > of_targets).sum(dim=1) + 1


def _top_k(asked: Asked) -> Tensor:
    scores, rows, seen = _scores(asked)
    scores[rows, seen] = -torch.inf
    return scores.topk(TOP, dim=1).values


def main() -> None:
    """Measures, and writes the figures if asked to."""
    options = parse("benchmarks.retrieval", __doc__)
    described = machine([], 0)
    print_machine(described)
    rows = measure(QUICK, 0.1) if options.quick else measure(FULL, 10.0)
    if options.json:
        write_json(options.json, described, rows)


if __name__ == "__main__":
    main()
