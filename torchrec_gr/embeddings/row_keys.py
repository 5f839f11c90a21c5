"""From the rows of a vocabulary back to raw ids, for tables that hash raw ids."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor


class RowKeys(nn.Module):
    """Replaces row numbers by the raw ids that they stand for.

    Args:
        feature_names: keys of the batch whose values are rows of one vocabulary.
        keys: [rows] int64, the raw id of each row (`schema.raw_id_keys`); None: the values are raw
            ids as they come. Not a part of the state dict: it belongs to the vocabulary.
    """

    keys: Tensor | None

    def __init__(self, feature_names: Sequence[str], keys: Tensor | None) -> None:
        super().__init__()
        self.feature_names = list(feature_names)
        self.register_buffer("keys", keys, persistent=False)

    def forward(self, kjt: KeyedJaggedTensor) -> KeyedJaggedTensor:
        """The features alone, of the same lengths; other keys are left out."""
        chosen = kjt.permute([kjt.keys().index(name) for name in self.feature_names])
        if self.keys is None:
            return chosen
        return KeyedJaggedTensor(
            keys=self.feature_names,
            values=self.keys.index_select(0, chosen.values().long()),
            lengths=chosen.lengths(),
            stride=chosen.stride(),
        )
