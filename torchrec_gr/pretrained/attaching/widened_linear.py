"""A Linear that reads one more vector, and gives the same bits while it has not learned to."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from torchrec_gr.schema.feature_schema import nearest_valid


@dataclasses.dataclass
class Carrier:
    """Carries a vector from where it is made to where it is read, within one forward.

    Args:
        vector: [B, D]; None outside a forward.
    """

    vector: Tensor | None = None


class WidenedLinear(nn.Linear):
    """old(x) + widening(vector), where the vector comes by a Carrier.

    A sum of two Linears, not one of a longer input: another length changes the order in which
    the old terms are added, and the last bits with it.
    """

    widening: nn.Linear
    carrier: Carrier

    def forward(self, input: Tensor) -> Tensor:
        """Maps [B, in_features] to [B, out_features]."""
        vector = self.carrier.vector
        if vector is None:
            raise ValueError(
                "a widened Linear was called outside the forward of the model it was widened for: "
                "call the model, or take the pretrained module off with detach_pretrained"
            )
        if input.ndim != 2:
            raise ValueError(
                f"a widened Linear expects one row an impression, [B, {self.in_features}], got "
                f"{list(input.shape)}: name another Linear in widen="
            )
        return super().forward(input) + self.widening(vector.to(self.widening.weight.dtype))


def widen(linear: nn.Linear, dim: int, carrier: Carrier, device: torch.device) -> None:
    """Makes a Linear read a vector [B, dim] as well; its own parameters stay what they are.

    The new weight is `widening.weight`, zeros.
    """
    linear.__class__ = WidenedLinear
    assert isinstance(linear, WidenedLinear)
    linear.carrier = carrier
    linear.widening = nn.Linear(
        dim, linear.out_features, bias=False, device=device, dtype=linear.weight.dtype
    )
    nn.init.zeros_(linear.widening.weight)


def unwiden(linear: nn.Linear) -> None:
    """Undoes `widen`."""
    del linear.widening, linear.carrier
    linear.__class__ = nn.Linear


def linear_at(module: nn.Module, path: str) -> nn.Linear:
    """The Linear of that path.

    Raises:
        ValueError: there is none, or one of a class of its own.
    """
    linears = plain_linears(module)
    if path not in linears:
        raise ValueError(nearest_valid("Linear in widen", path, linears))
    return linears[path]


def plain_linears(module: nn.Module) -> dict[str, nn.Linear]:
    """Every `nn.Linear`, no class derived from it, by path."""
    return {path: part for path, part in module.named_modules() if type(part) is nn.Linear}
