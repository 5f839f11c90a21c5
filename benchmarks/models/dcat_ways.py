"""Ways to encode the candidates of an impression log with one PinFM module, ids in, vectors out.

All histories of a log have one length, so that padding pads nothing. Tables are small, so that
their dense gradients weigh little.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from benchmarks.models.padded_pinfm import padded_answers
from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.models.pinfm_config import PinFMConfig
from torchrec_gr.ops.group_requests import group_requests

Way = Literal["DCAT", "row by row", "padded SDPA"]

DIM, NUM_LAYERS, NUM_HEADS = 128, 4, 4
HISTORY, CANDIDATES = ["history_item", "history_action", "history_surface"], ["item"]
TABLE_ROWS = {"item": 5000, "action": 16, "surface": 16}


class Case(NamedTuple):
    """An impression log: `num_requests` histories, each with `num_candidates` impressions.

    Args:
        num_history: events of each history.
    """

    num_requests: int
    num_candidates: int
    num_history: int

    @property
    def num_impressions(self) -> int:
        """C."""
        return self.num_requests * self.num_candidates


class Log(NamedTuple):
    """Impressions in a log's order, those of different requests mixed.

    Args:
        history: [C, N, F] int64, the ids of every impression's events.
        items: [C] int64, the candidates.
    """

    history: Tensor
    items: Tensor

    def first(self, num_impressions: int) -> Log:
        """The first so many impressions."""
        return Log(self.history[:num_impressions], self.items[:num_impressions])


class Model(nn.Module):
    """Tables and a PinFM encoder."""

    def __init__(self, num_history: int) -> None:
        super().__init__()
        features = {"item": [HISTORY[0], *CANDIDATES], "action": HISTORY[1:2]}
        features["surface"] = HISTORY[2:3]
        self.embeddings = EmbeddingCollection(
            tables=[
                EmbeddingConfig(
                    name=name, embedding_dim=DIM, num_embeddings=rows, feature_names=features[name]
                )
                for name, rows in TABLE_ROWS.items()
            ]
        )
        self.encoder = PinFMEncoder(
            PinFMConfig(
                dim=DIM, num_layers=NUM_LAYERS, num_heads=NUM_HEADS, max_positions=num_history
            )
        )

    def look_up(
        self, history: Tensor, items: Tensor, num_candidates: Tensor
    ) -> tuple[list[JaggedTensor], list[JaggedTensor]]:
        """Embeddings of requests' events, [U, N, F] ids, and of their candidates, [C] ids."""
        num_history = torch.full_like(num_candidates, history.shape[1])
        kjt = KeyedJaggedTensor(
            keys=HISTORY + CANDIDATES,
            values=torch.cat([history.flatten(0, 1).t().flatten(), items]),
            lengths=torch.cat([num_history] * len(HISTORY) + [num_candidates]),
        )
        found = self.embeddings(kjt)
        return [found[key] for key in HISTORY], [found[key] for key in CANDIDATES]


def draw_log(case: Case, seed: int = 0) -> Log:
    """Random ids; every request's impressions lie scattered over the log."""
    draw = torch.Generator().manual_seed(seed)
    shape = (case.num_requests, case.num_history)
    history = torch.stack(
        [torch.randint(rows, shape, generator=draw) for rows in TABLE_ROWS.values()], dim=2
    )
    requests = torch.arange(case.num_requests).repeat_interleave(case.num_candidates)
    requests = requests[torch.randperm(case.num_impressions, generator=draw)]
    items = torch.randint(TABLE_ROWS["item"], (case.num_impressions,), generator=draw)
    return Log(history[requests], items)


def scores(model: Model, way: Way, log: Log, num_at_once: int) -> Tensor:
    """[C, 2 D], without gradients; `num_at_once` requests, or impressions, in a pass."""
    vectors = torch.empty(len(log.items), model.encoder.out_dim)
    with torch.inference_mode():
        for places, part in encode(model, way, log, num_at_once):
            vectors[places] = part
    return vectors


def gradients(model: Model, way: Way, log: Log, num_at_once: int) -> list[Tensor]:
    """A training step's forward and backward, pass by pass: the gradient of each of `trained`.

    The loss is the sum of the vectors, times random weights.
    """
    model.zero_grad(set_to_none=True)
    for places, part in encode(model, way, log, num_at_once):
        (part * loss_weights(len(log.items))[places]).sum().backward()
    return [torch.zeros(0) if p.grad is None else p.grad for p in trained(model)]


def trained(model: Model) -> list[nn.Parameter]:
    """The tables and weights behind candidates' vectors, where each history has events."""
    encoder = model.encoder
    parts = [model.embeddings, encoder.token_in, encoder.positions, encoder.layers]
    parts += [encoder.final_norm, encoder.token_out]
    return [parameter for part in parts for parameter in part.parameters()]


@functools.cache
def loss_weights(num_impressions: int) -> Tensor:
    """[C, 2 D]."""
    return torch.randn(num_impressions, 2 * DIM, generator=torch.Generator().manual_seed(1))


def encode(model: Model, way: Way, log: Log, num_at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The places [n] int64 of some impressions in the log, and their vectors [n, 2 D]; then others.

    "DCAT" finds equal histories, looks each up once and encodes it once. The others make a row
    [history ; candidate] of each impression: "row by row" for the same encoder and op, "padded
    SDPA" for a dense batch and PyTorch's fused attention.
    """
    if way == "DCAT":
        yield from _request_by_request(model, log, num_at_once)
        return
    for places in torch.arange(len(log.items)).split(num_at_once):
        history, items = log.history[places], log.items[places]
        one = torch.ones_like(items)
        if way == "row by row":
            yield places, one_pass(model, history, items, one)
        else:
            yield places, padded_answers(model.encoder, *model.look_up(history, items, one))


def _request_by_request(
    model: Model, log: Log, num_at_once: int
) -> Iterator[tuple[Tensor, Tensor]]:
    num_impressions, num_history, num_features = log.history.shape
    offsets = torch.arange(num_impressions + 1) * num_history
    requests, inverse = group_requests(log.history.view(-1, num_features), offsets)
    counts = inverse.bincount(minlength=len(requests)).split(num_at_once)
    places = inverse.argsort(stable=True).split([int(count.sum()) for count in counts])
    for rows, of_rows, count in zip(requests.split(num_at_once), places, counts, strict=True):
        yield of_rows, one_pass(model, log.history[rows], log.items[of_rows], count)


def one_pass(model: Model, history: Tensor, items: Tensor, num_candidates: Tensor) -> Tensor:
    """[C, 2 D] of requests' histories [U, N, F] and their candidates [C], request after request."""
    num_history = torch.full_like(num_candidates, history.shape[1])
    embeddings = model.look_up(history, items, num_candidates)
    return model.encoder(*embeddings, num_history, num_candidates)
