"""What the tests ask of a ranker of windows: loss, logits, gradients, and what moves them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tests.models.mtgr_windows import (
    Candidate,
    Event,
    Window,
    batch_of,
    changed,
    draw_candidate,
    draw_event,
    draw_window,
)
from torchrec_gr.sequences.request_batch import NO_TIME, RequestBatch


def awkward_windows(seed: int = 0) -> list[Window]:
    """No history, no candidate, neither, equal times everywhere, one event, unknown times."""
    draw = random.Random(seed)
    return [
        draw_window(draw, *row)
        for row in [
            ([1, 5, 5, 9, 9, 12], 1, [5, 5, 9, 10, 13]),
            ([], 0, [3, 3]),
            ([2, 2, 4], 2, []),
            ([7], 0, [8]),
            ([], 0, []),
            ([7], 1, [9, 7 + 2]),
            ([NO_TIME, NO_TIME, 4, 4], 0, [4, 5]),
            ([NO_TIME, 3, 8], 2, [8, 6, 9]),  # candidates out of order
            ([6, 6, 6], 0, [6]),
        ]
    ]


def results(model: nn.Module, batch: RequestBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, logits and every parameter's gradient."""
    model.zero_grad()
    loss, output = model(batch)
    loss.backward()
    assert output.logits is not None
    return loss.detach(), output.logits, gradients_of(model)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


def assert_same_as_dense(
    model: nn.Module, dense: Callable[[RequestBatch], Tensor], batch: RequestBatch
) -> None:
    """That its logits, loss and every gradient are those of its definition."""
    loss, logits, gradients = results(model, batch)
    model.zero_grad()
    exact = dense(batch)
    assert batch.labels is not None
    exact_loss = binary_cross_entropy_with_logits(exact, batch.labels.double())
    exact_loss.backward()
    torch.testing.assert_close(logits.double(), exact.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss.double(), exact_loss.detach(), rtol=1e-5, atol=1e-6)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(
            gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert gradient.any(), f"{name} is not tested: it has no gradient"


def windows_of_few_times() -> list[Window]:
    """Real-time events and candidates at few times, so that most are equal to others."""
    draw = random.Random(0)

    def times(count: int) -> list[int]:
        return sorted(draw.randrange(10, 16) for _ in range(count))

    static = [[1, 2, 2], [], [4]]
    return [draw_window(draw, s + times(7), len(s), times(6)) for s in static]


def moved(model: nn.Module, windows: list[Window], moment: int, atol: float = 0.0) -> set[str]:
    """What of the future changes a prediction at or before a moment, in any bit.

    Rows of other lengths may round differently where a softmax sums in blocks: up to `atol`.

    The future is every event that is not earlier than the moment, and every later candidate.
    """
    draw = random.Random(1)

    def is_future(x: Event | Candidate) -> bool:
        return x.time > moment or (x.time == moment and isinstance(x, Event))

    def another(x: Event | Candidate) -> Event | Candidate:
        return (draw_event if isinstance(x, Event) else draw_candidate)(draw, x.time)

    futures: dict[str, Callable[[Any], list[Any]]] = {
        "changed": lambda x: [another(x)] if is_future(x) else [x],
        "removed": lambda x: [] if is_future(x) else [x],
        "added": lambda x: [x, another(x), another(x)] if is_future(x) else [x],
    }
    # What is removed goes to a window of its own, for a product of matrices of fewer rows may round
    # differently.
    gone = [changed(w, lambda x: [x] if is_future(x) else []) for w in windows]
    events = tuple(sorted((e for w in gone for e in w.events), key=lambda e: e.time))
    candidates = tuple(c for w in gone for c in w.candidates)
    elsewhere = {"removed": Window(events, 0, candidates, 0, 0.0)}
    nothing = Window((), 0, (), 0, 0.0)

    num_compared = sum(c.time <= moment for w in windows for c in w.candidates)
    before = logits_until(model, [*windows, nothing], moment)
    assert len(before) == num_compared > 0
    found = set()
    for name, future in futures.items():
        of_others = elsewhere.get(name, nothing)
        after = logits_until(model, [*(changed(w, future) for w in windows), of_others], moment)
        distance = (before - after).abs().max()
        if not distance <= (0.0 if name == "changed" else atol):
            found.add(name)
    return found


def logits_until(model: nn.Module, windows: list[Window], moment: int) -> Tensor:
    batch = batch_of(windows)
    with torch.no_grad():
        _, output = model(batch)
    assert output.logits is not None
    return output.logits[batch.candidate_times <= moment]


def moments(windows: list[Window]) -> list[int]:
    return sorted({c.time for window in windows for c in window.candidates})
