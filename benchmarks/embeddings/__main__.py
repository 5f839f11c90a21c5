"""Tables for huge, unbounded vocabularies: what they cost, against what there was.

python -m benchmarks.embeddings [--quick] [--json FILE] [--only PART ...]
"""

from __future__ import annotations

import argparse

from benchmarks.embeddings import (
    collisions,
    deduplication,
    growth,
    id_map,
    quantised,
    training_step,
)
from benchmarks.measure import machine, parse, print_machine, write_json

PARTS = {
    "id_map": id_map,
    "training_step": training_step,
    "growth": growth,
    "quantised": quantised,
    "deduplication": deduplication,
    "collisions": collisions,
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART", help=", ".join(PARTS)
    )


def main() -> None:
    """The command line."""
    options = parse("benchmarks.embeddings", __doc__, _add_arguments)
    measured_on = machine((), 0.0)
    print_machine(measured_on)
    rows = []
    for name in options.only:
        part = PARTS[name]
        rows += part.measure(part.QUICK if options.quick else part.FULL)
    if options.json:
        write_json(options.json, measured_on, rows)


if __name__ == "__main__":
    main()
