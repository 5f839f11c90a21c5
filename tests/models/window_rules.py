"""Windows whose labels follow a rule that a part of the input alone tells."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from torch import nn

from tests.models.mtgr_windows import Window, batch_of, draw_window
from torchrec_gr.sequences.request_batch import RequestBatch

Draw = Callable[[random.Random], Window]


def last_event_tells(draw: random.Random) -> Window:
    """The label is whether the event just before the exposure was clicked; later ones are noise."""
    times = sorted(draw.sample(range(100), 6))
    window = draw_window(draw, times, 0, sorted(draw.sample(range(times[0] + 1, 101), 3)))

    def label(time: int) -> int:
        last = [event for event in window.events if event.time < time][-1]
        return int(last.ids[2] == 1)

    candidates = tuple(c._replace(labels=(label(c.time), 0)) for c in window.candidates)
    return window._replace(candidates=candidates)


def cross_feature_tells(draw: random.Random) -> Window:
    """The label is whether the rate's bucket is even."""
    window = draw_window(draw, [1, 5], 1, [3, 6, 7])
    candidates = tuple(c._replace(labels=(c.ids[2] % 2, 0)) for c in window.candidates)
    return window._replace(candidates=candidates)


def drawn_batch(draw_one: Draw, seed: int) -> RequestBatch:
    draw = random.Random(seed)
    return batch_of([draw_one(draw) for _ in range(64)], num_labels=1)


def unseen_loss(model: nn.Module, draw_one: Draw, num_steps: int) -> float:
    """The loss on new windows after some steps, each on windows of its own."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(num_steps):
        optimizer.zero_grad()
        loss, _ = model(drawn_batch(draw_one, step))
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        loss, _ = model(drawn_batch(draw_one, 10**6))
    return float(loss)


def entropy(draw_one: Draw) -> float:
    """The loss of a model that knows the share of ones alone."""
    labels = drawn_batch(draw_one, 10**6).labels
    assert labels is not None
    share = float(labels.mean())
    return -share * math.log(share) - (1 - share) * math.log(1 - share)
