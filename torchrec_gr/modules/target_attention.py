"""DIN's local activation unit: how much each event of a history has to do with a target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from torchrec_gr.modules.dice import Activation, activated_mlp, activation_layer


class ActivationUnit(nn.Module):
    """Weighs events by an MLP of [event, target, event - target, event * target].

    Only an event's first `target_dim` columns are compared with the target; what it has beyond
    them, such as what came of it, is read as it is.

    Args:
        event_dim: E, width of an event.
        target_dim: D <= E, width of a target.
        hidden: widths of the MLP, at least one.
        activation: of the MLP.

    Raises:
        ValueError: a target wider than an event, no hidden layer, or an unknown activation.

    Source: Zhou et al., 1706.06978, section 4.3. The paper's figure has an outer product in the
        place of the last two inputs; the four are those of the authors' public code.
    """

    def __init__(
        self, event_dim: int, target_dim: int, hidden: Sequence[int], activation: Activation
    ) -> None:
        super().__init__()
        if target_dim > event_dim or not hidden:
            raise ValueError(
                f"expected a target no wider than an event and a hidden layer, got target_dim="
                f"{target_dim}, event_dim={event_dim}, hidden={tuple(hidden)}"
            )
        first, *further = hidden
        self.event_dim = event_dim
        self.target_dim = target_dim
        self.first = nn.Linear(event_dim + 3 * target_dim, first)
        self.rest = nn.Sequential(
            activation_layer(first, activation),
            *activated_mlp(first, further, activation),
            nn.Linear(hidden[-1], 1),
        )

    def forward(self, events: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Returns [T, 1], the weight of each event.

        Args:
            events: [T, E].
            targets: [C, D].
            rows: [T] int64, the row of each event.
        """
        weights: Tensor = self.rest(self._first(events, targets, rows))
        return weights

    def _first(self, events: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """The first layer; its part of the targets is computed once a row, not once an event."""
        dim = self.target_dim
        of_event, of_target, of_difference, of_product = self.first.weight.split(
            [self.event_dim, dim, dim, dim], dim=1
        )
        of_event = of_event + pad(of_difference, (0, self.event_dim - dim))
        by_row = linear(targets, of_target - of_difference, self.first.bias)
        products = events[:, :dim] * targets.index_select(0, rows)
        return (
            linear(events, of_event) + linear(products, of_product) + by_row.index_select(0, rows)
        )


class TargetAttention(nn.Module):
    """Sums the events of each row, each times its weight by an `ActivationUnit`.

    The weights are not normalised: their sum says how strong the interest is. A row without events
    has zeros.

    Args:
        event_dim, target_dim, hidden, activation: of the unit.

    Source: Zhou et al., 1706.06978, section 4.3, equation 3.
    """

    def __init__(
        self, event_dim: int, target_dim: int, hidden: Sequence[int], activation: Activation
    ) -> None:
        super().__init__()
        self.unit = ActivationUnit(event_dim, target_dim, hidden, activation)

    def forward(self, events: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Returns [C, E]; the arguments are the unit's."""
        weights = self.unit(events, targets, rows)
        return sum_by_row(weights * events, rows, targets.shape[0])


def sum_by_row(values: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Sums [T, D] values to [num_rows, D], by the row of each ([T] int64)."""
    return values.new_zeros(num_rows, values.shape[1]).index_add(0, rows, values)


def rows_of(lengths: Tensor, num_values: int) -> Tensor:
    """[T] int64: the row of each of T jagged values, by the rows' lengths [C]."""
    rows = torch.arange(lengths.numel(), device=lengths.device)
    return rows.repeat_interleave(lengths, output_size=num_values)
