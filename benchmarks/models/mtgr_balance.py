"""Steps of two processes on rows of skewed lengths: so many rows a rank, or so many tokens."""

from __future__ import annotations

import itertools
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor

from benchmarks.models.mtgr_training import Training
from benchmarks.models.mtgr_windows import NUM_USER_TOKENS, draw_windows, num_tokens, take_rows
from torchrec_gr.data.rank_shares import rank_shares
from torchrec_gr.data.token_batches import token_cuts
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.sequences.request_batch import RequestBatch

Batching = Literal["tokens", "rows"]

BATCHINGS: Sequence[Batching] = get_args(Batching)
NUM_RANKS = 2
MEAN_TOKENS, MOST_TOKENS = 600, 3000
_LOG_MEAN, _LOG_DEVIATION = 6.058, 1.0
"""Of the lognormal lengths: cut at 3,000, their mean is 600."""
_TOKENS_A_CANDIDATE = 30
_MOST_REAL_TIME = 100


class Case(NamedTuple):
    """What is trained.

    Args:
        num_steps: of an epoch.
        num_rows: a rank and step, where rows are counted; on average, where tokens are.
        dim: width of the model.
        num_rounds: epochs of each batching, taking turns.
    """

    num_steps: int
    num_rows: int
    dim: int
    num_rounds: int

    @property
    def num_sequences(self) -> int:
        """Of an epoch."""
        return self.num_steps * self.num_rows * NUM_RANKS


class Epoch(NamedTuple):
    """Of one batching.

    Args:
        step_ms: of every step, the time of its slower rank; of each step the best round.
        tokens: of every step, those of its fuller rank.
        loss_sum: before training, over all sequences.
        num_tokens: of all sequences.
    """

    step_ms: list[float]
    tokens: list[int]
    loss_sum: float
    num_tokens: int


def draw_lengths(num_sequences: int, seed: int = 0) -> Tensor:
    """[S] int64, tokens: the quantiles of a lognormal distribution that is cut at its most, mixed.

    MTGenRec reports a mean of 600 and a most of 3,000 tokens; the form between them is ours.
    """
    most = (math.log(MOST_TOKENS) - _LOG_MEAN) / _LOG_DEVIATION
    quantiles = (torch.arange(num_sequences).double() + 0.5) / num_sequences
    normal = torch.special.ndtri(quantiles * torch.special.ndtr(torch.tensor(most).double()))
    lengths = (_LOG_MEAN + _LOG_DEVIATION * normal).exp().long()
    order = torch.randperm(num_sequences, generator=torch.Generator().manual_seed(seed))
    return lengths[order].clamp(min=NUM_USER_TOKENS + 2)


def draw_sequences(num_sequences: int) -> RequestBatch:
    """All rows of an epoch: an exposure for each 30 tokens, and up to 100 real-time events."""
    lengths = draw_lengths(num_sequences)
    num_candidates = 1 + (lengths - NUM_USER_TOKENS - 2) // _TOKENS_A_CANDIDATE
    num_history = lengths - NUM_USER_TOKENS - num_candidates
    return draw_windows(num_history, num_candidates, (num_history // 10).clamp(max=_MOST_REAL_TIME))


def batches_of(batching: Batching, lengths: Tensor, case: Case, rank: int) -> list[Tensor]:
    """The rows of a rank's batches, step after step.

    By rows all batches have as many. By tokens a step holds about as many as the mean step of the
    others, and its rows are dealt out to the ranks.
    """
    tokens = lengths.numpy()
    if batching == "rows":
        firsts = range(rank * case.num_rows, len(tokens), NUM_RANKS * case.num_rows)
        return [torch.arange(first, first + case.num_rows) for first in firsts]
    cuts = token_cuts(tokens, case.num_steps).tolist()
    return [
        torch.from_numpy(first + rank_shares(tokens[first:end], NUM_RANKS)[rank])
        for first, end in itertools.pairwise(cuts)
    ]


def train(case: Case) -> dict[Batching, Epoch]:
    """Trains in processes of their own, one thread each, and joins what they measured."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_train_in_process, args=(case, Path(folder)), nprocs=NUM_RANKS)
        of_ranks = [json.loads((Path(folder) / str(rank)).read_text()) for rank in range(NUM_RANKS)]
    return {batching: _joined([ranks[batching] for ranks in of_ranks]) for batching in BATCHINGS}


def _joined(ranks: Sequence[Mapping[str, Any]]) -> Epoch:
    rounds = torch.tensor([rank["ms"] for rank in ranks]).amax(0)
    tokens = torch.tensor([rank["tokens"] for rank in ranks])
    return Epoch(
        step_ms=rounds.amin(0).tolist(),
        tokens=tokens.amax(0).tolist(),
        loss_sum=sum(sum(rank["loss_sums"]) for rank in ranks),
        num_tokens=int(tokens.sum()),
    )


def _train_in_process(rank: int, case: Case, folder: Path) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), NUM_RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=NUM_RANKS)
    (folder / str(rank)).write_text(json.dumps(_train(case, rank)), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _train(case: Case, rank: int) -> dict[Batching, dict[str, Any]]:
    sequences = draw_sequences(case.num_sequences)
    lengths = num_tokens(sequences)
    batches = {
        way: [take_rows(sequences, rows) for rows in batches_of(way, lengths, case, rank)]
        for way in BATCHINGS
    }
    training = Training(MTGRConfig(dim=case.dim, max_seq_len=MOST_TOKENS))
    of_rank: dict[Batching, dict[str, Any]] = {
        way: {
            "tokens": [int(num_tokens(batch).sum()) for batch in batches[way]],
            "loss_sums": [float(training.scores(batch)[1].loss_sum) for batch in batches[way]],
            "ms": [],
        }
        for way in BATCHINGS
    }
    training.step(batches["rows"][0])
    for number in range(case.num_rounds):
        for way in BATCHINGS if number % 2 == 0 else BATCHINGS[::-1]:
            of_rank[way]["ms"].append([_step_ms(training, batch) for batch in batches[way]])
    return of_rank


def _step_ms(training: Training, batch: RequestBatch) -> float:
    dist.barrier()
    began = perf_counter()
    training.step(batch)
    return 1000 * (perf_counter() - began)
