"""Raw ids as int64 keys, which is what tables of ids of any value take."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

NO_ID = -(1 << 63)
"""The key of a row that stands for no id. No id of a log has it: they are 0 or more."""

_SIPHASH_KEY = "0123456789123456"


def raw_id_keys(ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """The key of each raw id: an integer is its own, a string has its hash.

    A string's key is SipHash-2-4 of its UTF-8 bytes under the key b"0123456789123456", mixed by
    SplitMix64's finaliser, its 64 bits read as int64 (what `pandas.util.hash_array` computes): the
    same in every process. Among a million strings two share a key with a probability of 3e-8.

    Args:
        ids: [rows] int64 or large_string, as `vocabulary.raw_ids` gives them.

    Returns:
        [rows] int64; `NO_ID` where an id is null.

    Raises:
        ValueError: ids of another type.
    """
    if ids.type == pa.int64():
        return ids.fill_null(NO_ID).to_numpy().astype(np.int64)
    if ids.type != pa.large_string():
        raise ValueError(f"raw ids are int64 or large_string, got {ids.type}: see raw_ids")
    strings = ids.fill_null("").to_numpy(zero_copy_only=False)
    hashes = pd.util.hash_array(strings.astype(object), hash_key=_SIPHASH_KEY, categorize=False)
    keys = hashes.view(np.int64).copy()
    keys[ids.is_null().to_numpy(zero_copy_only=False)] = NO_ID
    return keys
