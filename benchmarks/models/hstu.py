"""What jagged attention is worth to HSTU's training, and M-FALCON to its scoring.

    python -m benchmarks.models.hstu

Training: a step (look-up, forward, loss, backward, optimizers fused and dense) of the next-item
model, the research block with a bias over positions, against the same model whose layers pad their
queries, keys and values to dense rows and write the scores out, as the public code does; all else
is the same, and jagged in both. Histories have all lengths from 1 to the longest; negatives are
shared. The loss and all gradients of both ways are compared before a step is timed.

M-FALCON: a ranker's logits of the candidates of one request, from look-up to heads, in
micro-batches over the kept keys and values of its history, against a pass over history and
candidate for each, whose last layer computes the candidate alone; with the encoding of the history,
as a new request needs it, and without ("kept"), as one that comes back. Events are two tokens, item
and action, or one ("added"). Passes of one candidate are timed on a sample, and scaled.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch

from benchmarks.measure import Row, machine, parse, print_machine, write_json
from benchmarks.models import hstu_scoring, hstu_training
from benchmarks.models.hstu_scoring import measure_scoring
from benchmarks.models.hstu_training import measure_training


class Plan(NamedTuple):
    """What is measured.

    Args:
        training: batches and models.
        scoring: requests.
        seconds: for each comparison, about.
    """

    training: Sequence[hstu_training.Case]
    scoring: Sequence[hstu_scoring.Case]
    seconds: float


FULL = Plan(
    training=(
        hstu_training.Case(num_rows=128, max_history=200),
        hstu_training.Case(num_rows=8, max_history=1024),
    ),
    scoring=(
        hstu_scoring.Case("mfalcon_1000", 1000, 1024, "interleaved"),
        hstu_scoring.Case("mfalcon_1000_added", 1000, 1024, "added"),
    ),
    seconds=10.0,
)
QUICK = Plan(
    training=(
        hstu_training.Case(num_rows=16, max_history=200, dim=64, num_layers=2),
        hstu_training.Case(num_rows=2, max_history=1024, dim=64, num_layers=2),
    ),
    scoring=tuple(case._replace(num_history=128, num_single=5, dim=64) for case in FULL.scoring),
    seconds=0.3,
)


def measure(plan: Plan) -> list[Row]:
    """Prints the tables, a row for each case."""
    return measure_training(plan.training, plan.seconds) + measure_scoring(
        plan.scoring, plan.seconds
    )


def main() -> None:
    """Measures, and writes the figures if asked to."""
    options = parse("benchmarks.models.hstu", __doc__)
    described = machine([torch.float32], 0.1 if options.quick else 1.0)
    print_machine(described)
    rows = measure(QUICK if options.quick else FULL)
    if options.json:
        write_json(options.json, described, rows)


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    main()
