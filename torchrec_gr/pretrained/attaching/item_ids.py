"""The item's ids of a batch as its table shall read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from torchrec_gr.embeddings.row_keys import RowKeys
from torchrec_gr.pretrained.tuning.cold_start import replaced_ids

REPLACED = "pretrained_replaced"
"""Key beside replaced candidates, with as many values: 1 where the id is another one, else 0."""


class ItemIds(nn.Module):
    """Maps rows to raw ids, and in training replaces some candidates by random ones.

    It makes a KeyedJaggedTensor inside forward. So TorchRec's train pipelines exchange the ids of
    the tables that read it ahead of the step only under `pipeline_postproc=True`; without it
    results are the same, in a longer step. That is why a module has one only where it must.

    Args:
        keys: those that are handed on.
        candidate: the item's key among them, of the candidates.
        row_keys: [rows] int64, the raw id of each row; None: values stay what they are.
        num_rows: of the table, from which random ids are drawn; None: any int64 is an id.
        replaced: share of the candidates, in training.

    Source: PinFM (2507.12704), candidate id randomisation.
    """

    def __init__(
        self,
        keys: Sequence[str],
        candidate: str,
        *,
        row_keys: Tensor | None,
        num_rows: int | None,
        replaced: float,
    ) -> None:
        super().__init__()
        self.candidate = candidate
        self.num_rows = num_rows
        self.replaced = replaced
        self.row_keys = RowKeys(keys, row_keys)

    def forward(self, kjt: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The keys alone; where candidates may be replaced, REPLACED beside them."""
        kjt = self.row_keys(kjt)
        if not self.training or not self.replaced:
            return kjt
        keys, own = kjt.keys(), kjt[self.candidate]
        ids = replaced_ids(own.values(), self.num_rows, self.replaced)
        values = [ids if key == self.candidate else kjt[key].values() for key in keys]
        return KeyedJaggedTensor(
            keys=[*keys, REPLACED],
            values=torch.cat([*values, (ids != own.values()).to(ids.dtype)]),
            lengths=torch.cat([kjt.lengths(), own.lengths()]),
            stride=kjt.stride(),
        )
