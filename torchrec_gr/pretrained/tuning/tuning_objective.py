"""The losses of fine-tuning that are taken inside an attached PinFM module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.modules.contrastive import InfoNCE
from torchrec_gr.modules.event_pairs import EventPairs, window_pairs
from torchrec_gr.modules.global_mean import GlobalMean
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.sequences.candidate_layout import offsets_of


class TuningTap:
    """Takes the module's vectors and loss past the model that it is attached to."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, Tensor | None] | None = None

    def put(self, vectors: Tensor, auxiliary: Tensor | None) -> None:
        """Keeps a forward's [B, out_dim] vectors and 0-dim loss, until they are taken."""
        self._held = vectors, auxiliary

    def take(self) -> tuple[Tensor, Tensor | None]:
        """What the last forward put; it is not kept.

        Raises:
            RuntimeError: there was none since the last call.
        """
        if self._held is None:
            raise RuntimeError(
                "the attached module gave no vectors in this step: its part of the model was not "
                "called, or is in evaluation mode while the rest trains"
            )
        held, self._held = self._held, None
        return held


class TuningObjective(nn.Module):
    """The next-token loss on a batch's histories, and the alignment of content with ids.

    Each is a mean over the global batch, times its weight. A loss of weight 0 is not computed.

    - Next token: pretraining's, on each request's history once, however many candidates it has. An
      event predicts the one behind it if that is positive and an item (row 0 is none). It trains
      `encoder.target` and `encoder.contrast` too, whose `num_negatives` is the encoder's; where its
      weight is 0 nothing reads them.
    - Alignment: InfoNCE from each candidate's projected content to its own id embedding among those
      of the batch's candidates of other ids. It has a temperature of its own. The direction and the
      negatives are our reading: the paper says that there is an alignment loss.

    Args:
        tuning: the weights.
        temperature: of the alignment, where it begins.
        positives: by history key the rows that make an event positive, one of any key being enough,
            as in pretraining; empty: every event is.

    Source: PinFM (2507.12704), fine-tuning.
    """

    def __init__(
        self,
        tuning: PinFMTuning,
        temperature: float,
        positives: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.next_token_weight = tuning.next_token_weight
        self.alignment_weight = tuning.alignment_weight
        self.positives = {key: tuple(rows) for key, rows in (positives or {}).items()}
        self.max_pairs = tuning.max_pairs
        self.alignment = (
            InfoNCE(temperature, tuning.num_negatives) if tuning.alignment_weight > 0 else None
        )
        self.global_mean = GlobalMean()

    @property
    def reads_history(self) -> bool:
        """Whether the hidden states of the histories are needed."""
        return self.next_token_weight > 0

    def forward(
        self,
        encoder: PinFMEncoder,
        *,
        states: Tensor | None,
        history: Tensor,
        history_ids: Mapping[str, Tensor],
        num_history: Tensor,
        users: Tensor | None,
        candidates: Tensor,
        candidate_ids: Tensor,
        content: Tensor | None,
    ) -> Tensor:
        """The weighted sum of the losses of U requests with T events and C candidates.

        Args:
            encoder: the module; it has the targets' network and the temperature of pretraining.
            states: [T, D] unit vectors, the hidden states of the events.
            history: [T, D], the item embeddings of the events.
            history_ids: by history key [T] integers, the item's first.
            num_history: [U] integers.
            users: [U] int64, equal for requests of one user; None: each has a user of its own.
            candidates: [C, D], their id embeddings.
            candidate_ids: [C] integers.
            content: [C, content_dim], their content before its projection.

        Returns:
            0-dim float32, to call `backward` on.
        """
        total = history.new_zeros((), dtype=torch.float32)
        if states is not None and self.next_token_weight > 0:
            losses = self._next_token(encoder, states, history, history_ids, num_history, users)
            total = total + self.next_token_weight * self._mean(losses)
        if content is not None and encoder.content is not None and self.alignment is not None:
            losses = _alignment(self.alignment, encoder.content(content), candidates, candidate_ids)
            total = total + self.alignment_weight * self._mean(losses)
        return total

    def _mean(self, losses: Tensor) -> Tensor:
        return self.global_mean(losses.sum(), losses.new_tensor(float(losses.shape[0])))

    def _is_positive(self, history_ids: Mapping[str, Tensor]) -> Tensor:
        """[T] bool."""
        known = next(iter(history_ids.values())) > 0
        if not self.positives:
            return known
        positive = torch.zeros_like(known)
        for key, rows in self.positives.items():
            positive |= torch.isin(history_ids[key], torch.tensor(rows, device=known.device))
        return known & positive

    def _next_token(
        self,
        encoder: PinFMEncoder,
        states: Tensor,
        history: Tensor,
        history_ids: Mapping[str, Tensor],
        num_history: Tensor,
        users: Tensor | None,
    ) -> Tensor:
        """[N]: the loss of each pair of neighbouring events."""
        if users is None:
            users = torch.arange(num_history.shape[0], device=num_history.device)
        users = users.repeat_interleave(num_history, output_size=states.shape[0])
        positive = self._is_positive(history_ids)
        items = next(iter(history_ids.values())).long()
        pairs = window_pairs(offsets_of(num_history), positive, window=1, max_pairs=self.max_pairs)
        targets = encoder.target(history)
        return encoder.contrast(states, users, pairs, targets, items, users, positive)


def _alignment(contrast: InfoNCE, content: Tensor, candidates: Tensor, ids: Tensor) -> Tensor:
    """[C] the loss of each candidate.

    An id is taken for a user who likes that item alone, whose negatives are all other items.
    """
    ids = ids.long()
    own = torch.arange(ids.shape[0], device=ids.device)
    everything = torch.ones_like(ids, dtype=torch.bool)
    content, candidates = normalize(content, dim=1), normalize(candidates, dim=1)
    return contrast(content, ids, EventPairs(own, own), candidates, ids, ids, everything)
