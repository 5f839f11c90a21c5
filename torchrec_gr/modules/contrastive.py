"""InfoNCE over the events of a batch, as PinFM pretrains."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from torchrec_gr.modules.event_pairs import EventPairs
from torchrec_gr.modules.log_sum_exp import MASKED_LOGIT, equal_pairs, log_sum_exp_of_products

MIN_TEMPERATURE = 0.01


class InfoNCE(nn.Module):
    """The loss of each (event, later event) pair among the batch's other positive events.

    The negatives of an event are the batch's positive targets, as often as each occurs, less every
    item that the event's user has a positive event of, in whichever row: so a popular item counts
    more, and what a user chose is never held against them. No logQ correction.

    The temperature is learned. What of it is above MIN_TEMPERATURE is multiplied by the exponential
    of log_temperature, which begins at 0, where weight decay pulls it: it nears the bound and never
    passes it, so it cannot collapse, and it can leave it again.

    Args:
        temperature: to start from, above MIN_TEMPERATURE.
        num_negatives: of more positive targets than this, so many are drawn at every call, without
            replacement and by torch's generator; all where None.

    Raises:
        ValueError: the temperature or the number of negatives is too low.

    Source: PinFM, 2507.12704.
    """

    def __init__(self, temperature: float, num_negatives: int | None = None) -> None:
        super().__init__()
        if not temperature > MIN_TEMPERATURE:
            raise ValueError(f"temperature: expected above {MIN_TEMPERATURE}, got {temperature}")
        if num_negatives is not None and num_negatives < 1:
            raise ValueError(f"num_negatives: expected at least 1 or None, got {num_negatives}")
        self.first_temperature = temperature
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.num_negatives = num_negatives

    @property
    def temperature(self) -> Tensor:
        """What similarities are divided by: 0-dim float32."""
        above = self.first_temperature - MIN_TEMPERATURE
        return MIN_TEMPERATURE + above * self.log_temperature.float().exp()

    def forward(
        self,
        hidden: Tensor,
        query_users: Tensor,
        pairs: EventPairs,
        targets: Tensor,
        target_ids: Tensor,
        target_users: Tensor,
        is_positive: Tensor,
    ) -> Tensor:
        """The loss of each pair; in float32, under autocast too.

        The sum over the negatives is taken once for each event that some pair has as its query.

        Args:
            hidden: [Q, D] float, of unit length: what each event predicts.
            query_users: [Q] int64.
            pairs: N places in `hidden` and in `targets`; a target is a positive event of the
                query's user.
            targets: [M, D] float, of unit length.
            target_ids, target_users: [M] int64, the item and the user of each.
            is_positive: [M] bool.

        Returns:
            [N] float32; 0 where the query has no negative left.
        """
        negatives = self._negatives(is_positive)
        distinct, of_query = pairs.query.unique(return_inverse=True)
        users, of_user = query_users[distinct].unique(return_inverse=True)
        liked = _liked(
            users, target_ids[negatives], target_users[is_positive], target_ids[is_positive]
        )
        with torch.autocast(hidden.device.type, enabled=False):
            queries = hidden.float().index_select(0, distinct) / self.temperature
            targets = targets.float()
            log_total = log_sum_exp_of_products(
                queries,
                targets.index_select(0, negatives),
                lambda products: products.masked_fill_(
                    liked.index_select(0, of_user), MASKED_LOGIT
                ),
            )
            positives = targets.index_select(0, pairs.target)
            logits = (queries.index_select(0, of_query) * positives).sum(dim=1)
            return softplus(log_total.index_select(0, of_query) - logits)

    def _negatives(self, is_positive: Tensor) -> Tensor:
        """[K] int64: places of the targets that serve as negatives."""
        pool = is_positive.nonzero().flatten()
        if self.num_negatives is None or len(pool) <= self.num_negatives:
            return pool
        return pool[torch.randperm(len(pool), device=pool.device)[: self.num_negatives]]


def _liked(users: Tensor, ids: Tensor, event_users: Tensor, event_ids: Tensor) -> Tensor:
    """[U, K] bool: whether each user has an event of each item; `users` are distinct, items not."""
    items, item = ids.unique(return_inverse=True)
    event, user = equal_pairs(event_users, users)
    entry, place = equal_pairs(event_ids[event], items)
    liked = torch.zeros(len(users), len(items), dtype=torch.bool, device=ids.device)
    liked[user[entry], place] = True
    return liked.index_select(1, item)
