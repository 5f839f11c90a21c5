"""DCAT is exact: each candidate's vector, and every gradient, is that of its own row alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from tests.models.dense_pinfm import assert_near, dense_answer, gradients_of
from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.models.pinfm_config import PinFMConfig, PinFMFusion, Trunk

DIM, CONTENT_DIM, MOST_EVENTS = 16, 5, 12
FUSIONS = {
    "early": PinFMFusion(),
    "token": PinFMFusion(learnable_token=True),
    "content": PinFMFusion(content_dim=CONTENT_DIM),
    "token and content": PinFMFusion(learnable_token=True, content_dim=CONTENT_DIM),
    "mean": PinFMFusion("mean"),
    "last": PinFMFusion("last"),
}
# No history, none and no candidate, one event, no candidate, the longest, histories that are equal.
NUM_HISTORY, NUM_CANDIDATES = [3, 0, 1, 5, 0, 12, 4, 4], [2, 3, 4, 0, 0, 1, 1, 9]
EQUAL = slice(25, 29), slice(21, 25)  # the events of the last request, and of the one before


@dataclass
class Requests:
    """Embeddings of requests, and counts."""

    history: list[Tensor]
    candidates: list[Tensor]
    content: Tensor | None
    num_history: Tensor
    num_candidates: Tensor

    def inputs(self) -> list[Tensor]:
        given = [*self.history, *self.candidates]
        return given if self.content is None else [*given, self.content]

    def double(self) -> Requests:
        twice = copy.deepcopy(self)
        for tensor in twice.inputs():
            tensor.data = tensor.data.double()
        return twice


def _encoder(trunk: Trunk, fusion: PinFMFusion) -> PinFMEncoder:
    torch.manual_seed(0)
    encoder = PinFMEncoder(
        PinFMConfig(dim=DIM, num_layers=3, num_heads=2, trunk=trunk, max_positions=MOST_EVENTS),
        fusion,
    )
    for parameter in encoder.parameters():  # so that attention is not flat, and no norm trivial
        nn.init.normal_(parameter, std=0.6)
    return encoder


def _requests(num_history: list[int], num_candidates: list[int], fusion: PinFMFusion) -> Requests:
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(1))
    num_events, num_items = sum(num_history), sum(num_candidates)
    requests = Requests(
        [draw(num_events, DIM) for _ in range(2)],
        [draw(num_items, DIM) for _ in range(2)],
        draw(num_items, CONTENT_DIM) if fusion.content_dim else None,
        torch.tensor(num_history),
        torch.tensor(num_candidates),
    )
    if num_history == NUM_HISTORY:
        for feature in requests.history:
            feature[EQUAL[0]] = feature[EQUAL[1]]
    for tensor in requests.inputs():
        tensor.requires_grad_()
    return requests


def _jagged(features: list[Tensor], lengths: Tensor) -> list[JaggedTensor]:
    return [JaggedTensor(values=feature, lengths=lengths) for feature in features]


def _in_one_pass(encoder: PinFMEncoder, given: Requests, *, with_history: bool = False) -> Tensor:
    output = encoder.encode(
        _jagged(given.history, given.num_history),
        _jagged(given.candidates, given.num_candidates),
        given.num_history,
        given.num_candidates,
        given.content,
        with_history=with_history,
    )
    return output.candidates


def _crossing(encoder: PinFMEncoder, given: Requests) -> Tensor:
    history = _jagged(given.history, given.num_history)
    context = encoder.context(history, given.num_history)
    candidates = _jagged(given.candidates, given.num_candidates)
    return encoder.cross(context, candidates, given.num_candidates, given.content)


def _row_by_row(encoder: PinFMEncoder, given: Requests) -> Tensor:
    """Each candidate alone behind its request's history."""
    counts = given.num_history.tolist()
    histories = [feature.split(counts) for feature in given.history]
    request_of = torch.arange(len(counts)).repeat_interleave(given.num_candidates)
    answers = [
        dense_answer(
            encoder,
            [feature[request] for feature in histories],
            [feature[i, None] for feature in given.candidates],
            None if given.content is None else given.content[i, None],
        )
        for i, request in enumerate(request_of.tolist())
    ]
    return torch.cat(answers)


WAYS: dict[str, Callable[[PinFMEncoder, Requests], Tensor]] = {
    "one pass": _in_one_pass,
    "one pass, with history": partial(_in_one_pass, with_history=True),
    "crossing": _crossing,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("trunk", ["gpt2", "hstu"])
def test_values_and_gradients_are_those_of_rows_alone(trunk: Trunk, fusion: str, way: str) -> None:
    encoder = _encoder(trunk, FUSIONS[fusion])
    given = _requests(NUM_HISTORY, NUM_CANDIDATES, FUSIONS[fusion])
    exact_encoder, exact_given = copy.deepcopy(encoder).double(), given.double()
    ours, exact = WAYS[way](encoder, given), _row_by_row(exact_encoder, exact_given)
    assert torch.equal(ours[:, DIM:], given.candidates[0])
    assert float(exact.detach()[:, :DIM].std(dim=0).min()) > 0.01
    assert_near(ours, exact, "values")

    weight = torch.randn(exact.shape, generator=torch.Generator().manual_seed(2))
    inputs, exact_inputs = given.inputs(), exact_given.inputs()
    names = [*dict(encoder.named_parameters()), *(f"input {i}" for i in range(len(inputs)))]
    gradients = gradients_of((ours * weight).sum(), [*encoder.parameters(), *inputs])
    expected = gradients_of((exact * weight).sum(), [*exact_encoder.parameters(), *exact_inputs])
    for name, a, b in zip(names, gradients, expected, strict=True):
        assert_near(a, b, name)
    # Late fusion has no use for the candidate's other features.
    apart = ("target.", "contrast.", "input 3" if FUSIONS[fusion].kind != "early" else "none")
    reached = {name for name, b in zip(names, expected, strict=True) if b.any()}
    assert {name for name in names if not name.startswith(apart)} == reached


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trunk", ["gpt2", "hstu"])
@pytest.mark.parametrize("fusion", ["token and content", "last"])
def test_ten_thousand_candidates(trunk: Trunk, fusion: str, way: str) -> None:
    encoder = _encoder(trunk, FUSIONS[fusion])
    given = _requests([5], [10_000], FUSIONS[fusion])
    exact_given = given.double()
    with torch.no_grad():
        ours = WAYS[way](encoder, given)
        exact = dense_answer(
            copy.deepcopy(encoder).double(),
            exact_given.history,
            exact_given.candidates,
            exact_given.content,
        )
    assert_near(ours, exact, "values")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("counts", [([0], [3]), ([0, 0], [0, 2]), ([4], [0]), ([1], [1])])
def test_batches_of_little(counts: tuple[list[int], list[int]], way: str) -> None:
    for trunk in ("gpt2", "hstu"):
        encoder = _encoder(trunk, FUSIONS["token"])
        given = _requests(*counts, FUSIONS["token"])
        ours = WAYS[way](encoder, given)
        assert ours.shape == (sum(counts[1]), 2 * DIM)
        for gradient in gradients_of(ours.sum(), [*encoder.parameters(), *given.inputs()]):
            assert gradient.isfinite().all()
        if sum(counts[1]):
            exact = _row_by_row(copy.deepcopy(encoder).double(), given.double())
            assert_near(ours, exact, "values")
