"""How a PinFM module is read and trained inside a ranker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from torchrec_gr.models.pinfm_config import FusionKind


@dataclass(frozen=True)
class PinFMTuning:
    """How a PinFM module is read and trained inside a ranker; plain values, for settings files.

    With the defaults the module encodes candidates by early fusion, is trained by the ranker's own
    loss alone, and every batch of ids stays as it is. The paper uses all four losses, trains the
    module at a tenth of the ranker's learning rate (strategy "full-slow"), and reports neither the
    losses' weights nor the projection of the content: those are ours to choose.

    Args:
        fusion: "early": the candidate is a token behind the history (paper: HIT@3 of saves on the
            home feed +2.91%; 1.76% on related items). Late fusion does without crossing: "mean"
            pools the history's states (+1.87%, +1.53%), "last" takes the newest one (+1.93%,
            +1.49%).
        learnable_token: early fusion with a learned token before the candidate (GSLT: +3.76%,
            +1.92%, together with content).
        content: early fusion with a content embedding summed into the candidate's token (GraphSAGE
            in the paper: +3.08%, +1.92%). By key of the ranker's KeyedJaggedTensor, of one value a
            row at most, the number of rows of a new table `pretrained_content_<key>` as wide as the
            module; their embeddings are concatenated and projected.
        request_key: key with a request's id, one a row: impressions of equal ids are one request.
            None: impressions of equal histories are.
        user_key: key with the user's id, one a row: the next-token loss takes no item that the user
            has an event of in this batch as a negative. None: each request is a user of its own,
            so that events of another request of the same user may be false negatives.
        replace_candidate: share of the candidates whose id is replaced by a random one in training
            (CIR; paper 0.1).
        age_key: key with the item's age in whole days, one a row. None: no dropout by age (IDD).
        age_dropout: (days, rate) by rising days: in training, the module's output for an item
            younger than `days` goes through dropout at this rate. Items older than all, or of
            unknown age, keep theirs.
        ranking_weight: of the binary cross entropy of a head on the module's output.
        agreement_weight: of the squared difference between that head's probability and the
            ranker's.
        next_token_weight: of pretraining's next-token loss, on the batch's histories, one a
            request (paper: without it the gain of a pretraining with the future-token loss falls
            from +0.95% to +0.41%).
        alignment_weight: of the InfoNCE loss between a candidate's projected content and its id
            embedding.
        max_pairs: of neighbouring events in a step on one process; of more, so many are drawn. The
            next-token loss costs time and memory by max_pairs * num_negatives.
        num_negatives: likewise of the negatives of both contrastive losses.

    Raises:
        ValueError: values out of range, or options that do not go together.

    Source: PinFM (2507.12704), fine-tuning, fusion variants and cold start.
    """

    fusion: FusionKind = "early"
    learnable_token: bool = False
    content: Mapping[str, int] = field(default_factory=dict)
    request_key: str | None = None
    user_key: str | None = None
    replace_candidate: float = 0.0
    age_key: str | None = None
    age_dropout: tuple[tuple[int, float], ...] = ((7, 0.7), (28, 0.5))
    ranking_weight: float = 0.0
    agreement_weight: float = 0.0
    next_token_weight: float = 0.0
    alignment_weight: float = 0.0
    max_pairs: int = 4096
    num_negatives: int = 1024

    def __post_init__(self) -> None:
        # Lists where a settings file was read.
        bands = tuple((days, rate) for days, rate in self.age_dropout)
        object.__setattr__(self, "age_dropout", bands)
        object.__setattr__(self, "content", dict(self.content))
        self._check_fusion()
        self._check_cold_start()
        self._check_losses()

    @property
    def has_head(self) -> bool:
        """Whether a loss is asked for that reads a head on the module's output."""
        return self.ranking_weight > 0 or self.agreement_weight > 0

    @property
    def has_losses(self) -> bool:
        """Whether any loss beside the ranker's own is asked for."""
        return self.has_head or self.next_token_weight > 0 or self.alignment_weight > 0

    def _check_fusion(self) -> None:
        if self.fusion not in get_args(FusionKind):
            raise ValueError(
                f"unknown fusion {self.fusion!r}: expected one of {', '.join(get_args(FusionKind))}"
            )
        if self.fusion != "early" and (self.learnable_token or self.content):
            wrong = "a learnable token" if self.learnable_token else "content"
            raise ValueError(
                f"{wrong} needs early fusion: with fusion={self.fusion!r} no candidate goes "
                'through the transformer and has a token there; use fusion="early" or leave it out'
            )
        for key, num_rows in self.content.items():
            if num_rows < 1:
                raise ValueError(f"content {key!r} must have at least 1 row, got {num_rows}")

    def _check_cold_start(self) -> None:
        if not 0.0 <= self.replace_candidate <= 1.0:
            raise ValueError(
                f"replace_candidate is a share, in [0, 1], got {self.replace_candidate}"
            )
        limits = [days for days, _ in self.age_dropout]
        if any(a >= b for a, b in zip([0, *limits], limits, strict=False)):
            raise ValueError(
                f"age_dropout must name days above 0, rising, got {limits}: each rate holds for "
                "items younger than its days and not younger than those before"
            )
        for days, rate in self.age_dropout:
            if not 0.0 <= rate < 1.0:
                raise ValueError(
                    f"age_dropout under {days} days must be in [0, 1), got {rate}: what is kept is "
                    "scaled up"
                )

    def _check_losses(self) -> None:
        for name in ("ranking", "agreement", "next_token", "alignment"):
            weight = getattr(self, f"{name}_weight")
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"{name}_weight must be at least 0 and finite, got {weight}")
        for name in ("max_pairs", "num_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.alignment_weight > 0 and not self.content:
            raise ValueError(
                f"alignment_weight is {self.alignment_weight}, but there is no content to align "
                "with the candidates' id embeddings: name its keys in `content`"
            )
