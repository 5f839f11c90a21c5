"""What is replaced in the commands of the pages, each with its reason, and nothing else:

| on the page | in the test | why |
|---|---|---|
| `DIR` | a slice of the real data set that `--data` names | the whole takes hours |
| `logs` | a made-up log with the columns of the page's schema | the reader brings it |
| `--config FILE` | the file, with SMALL_SETTINGS laid over | its sizes train for minutes |
| no `--config` | SMALL_SETTINGS | the defaults train for minutes |
| options of SHORTER | these values | fewer seeds and steps |
| `python -m benchmarks.*` | the same with `--quick`, where it takes it | the whole takes minutes |
| `make X` | `make -n X` | it would make an environment |
| `pip install` | its releases and extras are those of setup.py | it would change this environment |
"""

from __future__ import annotations

from typing import Any

SMALL_LOG = {"num_users": 60, "num_items": 80, "num_impressions": 1000, "num_organic": 1000}
_STAGE = {"epochs": 1, "batch_size": 64}
_SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "seeds": 1,
    "dims": [16],
    "transformer": {"num_layers": 2, "num_heads": 2},
    "pretrain": {**_STAGE, "num_negatives": 64},
    "pinfm": {
        **_STAGE,
        "sizes": {"dim": 16, "num_layers": 1, "num_heads": 2},
        "losses": {"num_negatives": 64},
    },
    "lum": {"training": {**_STAGE, "num_negatives": 64}},
}
SMALL_SETTINGS: dict[str, dict[str, Any]] = {
    "pipelines.pretrain": _SETTINGS,
    "pipelines.finetune": _SETTINGS,
    "pipelines.compare": _SETTINGS,
    "pipelines.benchmark": {
        **_SETTINGS,
        "models": ["dlrm", "gpsd"],
        "references": ["item_mean"],
        "search": {"trials": [[1.0, 1.0], [3.0, 1.0]]},
    },
    "pipelines.lum": _SETTINGS,
    "pipelines.next_item": {"epochs": 1},
    "pipelines.scaling": {"training": {"epochs": 1}},
}
"""By command, what is laid over its settings."""

SHORTER: dict[str, dict[str, str]] = {
    "pipelines.bayes_gap": {
        "--sizes": "1000,2000",
        "--dims": "8",
        "--models": "dlrm",
        "--seeds": "2",
        "--epochs": "1",
    },
    "pipelines.next_item": {"--seeds": "0"},
    "pipelines.scaling": {"--sizes": "L1D8,L1D12,L1D16,L1D24"},
    "examples.attach_dlrm_kuairand": {"--steps": "3", "--test-batches": "1"},
    "examples.attach_own_model": {"--steps": "3"},
    "examples.serve_cached_context": {"--candidates": "20"},
}
"""By command, options that are given, or given again."""

SLOW = (
    "pipelines.compare.DIR",
    "benchmarks.",
    "examples.serve.",
    "pipelines.benchmark.",
    "pipelines.bayes_gap.",
    "torchrec_gr.doctor.",
)
"""Beginnings of `module.`, or of `module.DIR` where a command reads real data: these run with the
slow tests alone, and the quick ones have them parsed."""


def is_slow(command: list[str]) -> bool:
    """Whether a command runs with the slow tests alone."""
    if command[0] == "torchrun":
        return True
    module = command[command.index("-m") + 1] if "-m" in command else ""
    return f"{module}.{'DIR' if 'DIR' in command else ''}".startswith(SLOW)
