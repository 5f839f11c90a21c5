"""What is attached to a model, by the names that it has there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import nn

from torchrec_gr.pretrained.attaching.attached import CHILD, find_attached
from torchrec_gr.training.parameter_groups import ParameterGroup
from torchrec_gr.training.strategy import Strategy, parameter_groups
from torchrec_gr.training.transfer_report import TransferReport


@dataclasses.dataclass(frozen=True)
class Attachment:
    """What `attach_pretrained` added to a model.

    Args:
        strategy: which weights came from the artefact, and how they train.
        report: what the transfer did with every parameter of the model.
        tables: the new tables' names, but for those of a tuning's content, which start fresh.
        dense: the names of the new parameters that are no tables.
        loaded: of these, those that came from the artefact.
        added: the names of the new modules, for `load_checkpoint` of a checkpoint from before.
    """

    strategy: Strategy
    report: TransferReport | None
    tables: Sequence[str]
    dense: Sequence[str]
    loaded: Sequence[str]
    added: Sequence[str]

    def parameter_groups(self, *, thaw_after: int = 0) -> Sequence[ParameterGroup]:
        """What the strategy says of training, for `shard` and `build_optimizer`.

        Args:
            thaw_after: the steps for which "-thaw" keeps the tables as they came.
        """
        if self.strategy == "none":
            return ()
        return parameter_groups(self.strategy, self.tables, self.loaded, thaw_after=thaw_after)


def attachment(model: nn.Module) -> Attachment:
    """What is attached to a model.

    Args:
        model: the attached model, or whatever it was put into since: names are as they are there.

    Raises:
        ValueError: nothing is.
    """
    path, attached = find_attached(model)
    prefix = f"{path}." if path else ""
    body = f"{prefix}{CHILD}.body"
    junction = attached.junction
    added = [f"{prefix}{CHILD}"]
    dense = [f"{body}.{name}" for name, _ in attached.pretrained.body.named_parameters()]
    if junction.linear is not None:
        added.append(f"{prefix}{junction.linear}.widening")
        dense.append(f"{added[-1]}.weight")
    return Attachment(
        strategy=junction.strategy,
        report=junction.report,
        tables=junction.tables,
        dense=dense,
        loaded=[name for name in dense if name.removeprefix(f"{body}.encoder.") in junction.loaded],
        added=added,
    )
