"""Top-k retrieval over large catalogues by faiss, which is optional."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchrec_gr.retrieval.catalogue import NO_ITEM, TopK


class FaissCatalogue:
    """V items in an index of faiss, scored by the product of their vector with a query's.

    Args:
        vectors: [V, D] float32.
        ids: [V] int64; default: their places.
        num_lists: cells of an inverted file, of which a query looks into `num_probes`: fast, and
            no longer exact. None: a flat index, exact.
        num_probes: at least 1.

    Raises:
        ImportError: faiss is not installed.
        ValueError: shapes that do not fit, or fewer items than lists.
    """

    def __init__(
        self,
        vectors: Tensor,
        ids: Tensor | None = None,
        *,
        num_lists: int | None = None,
        num_probes: int = 16,
    ) -> None:
        faiss = _faiss()
        if vectors.ndim != 2 or not len(vectors):
            raise ValueError(f"vectors: expected [V, D], V at least 1, got {list(vectors.shape)}")
        if ids is not None and ids.shape != vectors.shape[:1]:
            raise ValueError(f"ids: expected [{len(vectors)}], got {list(ids.shape)}")
        if num_lists is not None and not 1 <= num_lists <= len(vectors):
            raise ValueError(f"num_lists: expected 1 to {len(vectors)} (items), got {num_lists}")
        values = _array(vectors)
        flat = faiss.IndexFlatIP(values.shape[1])
        index = flat
        if num_lists is not None:
            index = faiss.IndexIVFFlat(flat, values.shape[1], num_lists, faiss.METRIC_INNER_PRODUCT)
            index.train(values)
            index.nprobe = num_probes
        self._index: Any = faiss.IndexIDMap2(index) if num_lists is None else index
        places = np.arange(len(values)) if ids is None else ids.cpu().numpy()
        self._index.add_with_ids(values, places.astype(np.int64))
        self._flat = flat  # an inverted file does not keep it

    @property
    def num_items(self) -> int:
        """V."""
        return int(self._index.ntotal)

    def top_k(
        self,
        queries: Tensor,
        k: int,
        seen_values: Tensor | None = None,
        seen_offsets: Tensor | None = None,
    ) -> TopK:
        """The k items of highest score for each query, as `Catalogue.top_k` gives them.

        Asks for as many items more as the longest list of seen ones has, and leaves those out.

        Raises:
            ValueError: k below 1.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        if seen_values is None or seen_offsets is None:
            seen_values = torch.zeros(0, dtype=torch.int64)
            seen_offsets = torch.zeros(len(queries) + 1, dtype=torch.int64)
        seen_values, seen_offsets = seen_values.cpu(), seen_offsets.cpu()
        longest = int(seen_offsets.diff().max()) if len(queries) else 0
        wanted = min(k + longest, self.num_items)
        found_scores, found_ids = self._index.search(_array(queries), wanted)
        scores = torch.full((len(queries), k), -torch.inf)
        ids = torch.full((len(queries), k), NO_ITEM, dtype=torch.int64)
        for row in range(len(queries)):
            seen = seen_values[seen_offsets[row] : seen_offsets[row + 1]].numpy()
            left = ~np.isin(found_ids[row], seen) & (found_ids[row] != NO_ITEM)
            kept = np.flatnonzero(left)[:k]
            scores[row, : kept.size] = torch.from_numpy(found_scores[row][kept])
            ids[row, : kept.size] = torch.from_numpy(found_ids[row][kept])
        return TopK(scores.to(queries.device), ids.to(queries.device))


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "FaissCatalogue needs faiss: pip install faiss-cpu, or use Catalogue, which is exact "
            "and needs nothing"
        ) from error
    return faiss


def _array(values: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.ascontiguousarray(values.detach().float().cpu().numpy())
