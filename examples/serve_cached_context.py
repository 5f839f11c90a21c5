"""Serves a user who comes back: the history is encoded once, and kept; candidates only cross it.

    python -m examples.serve_cached_context ARTEFACT FOLDER

ARTEFACT is what pretraining with `--module pinfm` wrote, or its run. The CTR model is a DLRM of
random weights that it is attached to, and the ids are made up: yours take their place. The contexts
of users come to FOLDER, one file each.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from examples.serve import BATCH, NUM_DENSE, made_up_ids, ranker
from pipelines.configuration.command_line import report_errors
from torchrec_gr.pretrained import Pretrained, load_pretrained
from torchrec_gr.pretrained.serving.cached_encoder import CachedEncoder
from torchrec_gr.pretrained.serving.context_file import context_path
from torchrec_gr.pretrained.serving.context_server import ContextServer
from torchrec_gr.pretrained.serving.context_store import ContextStore
from torchrec_gr.pretrained.serving.module_version import encoder_version
from torchrec_gr.pretrained.serving.packed_contexts import ContextDtype

USER, USER_KEY = 7, "user_id"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artefact", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--candidates", type=int, default=1000, help="of the request")
    options = parser.parse_args(arguments)
    with report_errors():
        serve(options.artefact, options.folder, options.candidates)


def serve(artefact: Path, folder: Path, num_candidates: int) -> None:
    """One request after another of the same user: for the module's vectors, and for scores."""
    torch.manual_seed(0)
    pretrained = load_pretrained(artefact)
    model = ranker(pretrained)
    encoder: Any = model.pretrained
    version, num_events = encoder_version(encoder), encoder.body.max_history
    print(f"{num_candidates} candidates behind {num_events} events, version {version[:12]}...")
    for dtype in get_args(ContextDtype):
        store = ContextStore(folder / dtype, version, dtype)
        serve_vectors(ContextServer(encoder, store), store, request(encoder, num_candidates))
    serve_scores(model, ContextStore(folder / "scores", version), pretrained)


def serve_vectors(server: ContextServer, store: ContextStore, ids: KeyedJaggedTensor) -> None:
    """The first request encodes the history and stores it, the second loads it and crosses."""
    first_times, later_times = [], []
    for _ in range(6):
        store.discard([USER])
        first, first_time = timed(lambda: server.score([USER], ids))
        again, later_time = timed(lambda: server.score([USER], ids))
        first_times.append(first_time)
        later_times.append(later_time)
    print(
        f"{store.dtype}: {context_path(store.folder, USER).stat().st_size:>9,} bytes a user; "
        f"first request {min(first_times):.2f} ms, later ones {min(later_times):.2f} ms; "
        f"vectors at most {(again - first).abs().max():.1e} apart"
    )


def serve_scores(model: Any, store: ContextStore, pretrained: Pretrained) -> None:
    """The CTR model from before and after it reads contexts from a store."""
    dense, kjt = torch.randn(BATCH, NUM_DENSE), with_users(made_up_ids(pretrained))
    with torch.no_grad():
        before = model(dense, kjt)
        model.pretrained = CachedEncoder(model.pretrained, store, USER_KEY)
        first, again = model(dense, kjt), model(dense, kjt)
    print(
        f"scores of {BATCH} users: at most {(first - before).abs().max():.1e} apart on their "
        f"first request, {(again - before).abs().max():.1e} on their second"
    )


def request(encoder: Any, num_candidates: int) -> KeyedJaggedTensor:
    """One user's history, as long as it is read, and candidates."""
    body = encoder.body
    rows = {
        key: config.num_embeddings
        for config in encoder.embeddings.embedding_configs()
        for key in config.feature_names
    }
    sizes = dict.fromkeys(body.history, body.max_history)
    sizes |= dict.fromkeys(body.candidates, num_candidates)
    return KeyedJaggedTensor(
        keys=list(sizes),
        values=torch.cat([torch.randint(rows[key], (size,)) for key, size in sizes.items()]),
        lengths=torch.tensor(list(sizes.values())),
    )


def with_users(kjt: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """Each row is another user's."""
    users = torch.arange(BATCH)
    return KeyedJaggedTensor(
        keys=[*kjt.keys(), USER_KEY],
        values=torch.cat([kjt.values(), users]),
        lengths=torch.cat([kjt.lengths(), torch.ones_like(users)]),
    )


def timed(action: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What it gives, and how many milliseconds it took."""
    start = time.perf_counter()
    return action(), 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
