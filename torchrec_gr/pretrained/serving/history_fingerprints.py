"""What tells two histories apart without keeping either."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torchrec.sparse.jagged_tensor import JaggedTensor


def history_fingerprints(features: Sequence[JaggedTensor]) -> list[str]:
    """A SHA-256, in hexadecimal, of each request's events: of all ids of all features, in order.

    Args:
        features: ids of each feature of the events, T values in U rows, all of the same lengths;
            those that were encoded, so cut to the length that the encoder reads.

    Raises:
        ValueError: features whose lengths differ.
    """
    lengths = features[0].lengths().cpu()
    if any(not torch.equal(feature.lengths().cpu(), lengths) for feature in features):
        raise ValueError("features of one history must have as many values in each row")
    ids = torch.stack([feature.values().long().cpu() for feature in features], dim=1)
    start = f"{len(features)} features ".encode()
    return [
        hashlib.sha256(start + events.contiguous().numpy().tobytes()).hexdigest()
        for events in ids.split(lengths.tolist())
    ]
