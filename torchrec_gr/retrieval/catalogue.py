"""All items as vectors: where one stands among them for a user, and which are nearest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

NO_ITEM = -1

_BYTES_A_SCORE = 16  # two pieces of scores at once, and what is worked out from one
_LEAST_QUERIES = 64  # of a piece: products of fewer are slow
_MOST_SCORES = 2**21  # of a piece, whatever the budget: larger ones leave the caches
_LOW = 32  # bits of a key that hold the item's place
_NOTHING = torch.iinfo(torch.int64).min


class Seen(NamedTuple):
    """S items to leave out: the rows of their queries, and their places in the catalogue."""

    rows: Tensor
    places: Tensor


class TopK(NamedTuple):
    """The best items of B queries.

    Args:
        scores: [B, k] float32, falling; -inf where fewer than k items are left.
        ids: [B, k] int64; NO_ITEM there.
    """

    scores: Tensor
    ids: Tensor


class Catalogue:
    """V items that are scored by the product of their vector with a query's, exactly.

    Of equal scores that under the lower id comes first. No matrix of queries times items is larger
    than the budget: where all items do not fit beside 64 queries, they are taken in pieces.

    Args:
        vectors: [V, D] float32, finite.
        ids: [V] int64, all different; default: their places.
        budget_bytes: for pieces of scores and what is worked out from them, about.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, an id given twice, or a
            budget below one score.
    """

    def __init__(
        self, vectors: Tensor, ids: Tensor | None = None, budget_bytes: int = 256 * 2**20
    ) -> None:
        if vectors.ndim != 2 or not len(vectors) or vectors.dtype != torch.float32:
            raise ValueError(
                f"vectors: expected [V, D] float32, V at least 1, got {list(vectors.shape)} "
                f"{vectors.dtype}"
            )
        if ids is None:
            ids = torch.arange(len(vectors), device=vectors.device)
        if ids.shape != vectors.shape[:1] or ids.dtype != torch.int64:
            raise ValueError(
                f"ids: expected [{len(vectors)}] int64, one an item, got {list(ids.shape)} "
                f"{ids.dtype}"
            )
        if budget_bytes < _BYTES_A_SCORE:
            raise ValueError(f"budget_bytes: expected at least {_BYTES_A_SCORE}: {budget_bytes}")
        self.ids, order = ids.sort()  # so that of two places the lower one has the lower id
        repeated = self.ids[1:][self.ids[1:] == self.ids[:-1]]
        if repeated.numel():
            raise ValueError(f"ids: expected each once, got {int(repeated[0])} more than once")
        in_order = torch.equal(ids, self.ids)
        self.vectors = _finite("vectors", vectors if in_order else vectors[order])
        self._num_scores = min(budget_bytes // _BYTES_A_SCORE, _MOST_SCORES)

    @property
    def num_items(self) -> int:
        """V."""
        return len(self.ids)

    def ranks(
        self, queries: Tensor, targets: Tensor, seen_values: Tensor, seen_offsets: Tensor
    ) -> Tensor:
        """Where the target of each query stands among all items that its user has not seen.

        The target counts, seen or not. One that is not in the catalogue stands behind all: V + 1.

        Args:
            queries: [B, D] float32.
            targets: [B] int64, ids.
            seen_values: [S] int64, ids, one query's after the other's; repeated or unknown ones
                change nothing.
            seen_offsets: [B + 1] int64.

        Returns:
            [B] int64, 1 is best.

        Raises:
            ValueError: shapes that do not fit.
        """
        if targets.shape != queries.shape[:1]:
            raise ValueError(
                f"targets: expected [{len(queries)}], one a query, got {list(targets.shape)}"
            )
        places, known = self._places(targets)
        ranks = torch.ones_like(places)
        for rows, few, seen in self._pieces(queries, seen_values, seen_offsets):
            ranks[rows] += self._num_before(few, places[rows], seen)
        return torch.where(known, ranks, self.num_items + 1)

    def top_k(
        self,
        queries: Tensor,
        k: int,
        seen_values: Tensor | None = None,
        seen_offsets: Tensor | None = None,
    ) -> TopK:
        """The k items of highest score for each query.

        Args:
            queries: [B, D] float32.
            k: at least 1; may be more than there are items.
            seen_values, seen_offsets: items to leave out, as `ranks` takes them; both or none.

        Raises:
            ValueError: shapes that do not fit, or k below 1.
        """
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        if seen_values is None or seen_offsets is None:
            if seen_values is not seen_offsets:
                raise ValueError("seen_values and seen_offsets: give both, or none")
            seen_values = self.ids.new_zeros(0)
            seen_offsets = self.ids.new_zeros(len(queries) + 1)
        best = self.ids.new_full((len(queries), k), _NOTHING)
        for rows, few, seen in self._pieces(queries, seen_values, seen_offsets):
            for first, scores in self._scores(few):
                _leave_out(seen, first, scores)
                candidates = torch.cat([best[rows], _best_keys(scores, first, k)], dim=1)
                best[rows] = candidates.topk(k, dim=1).values
        left_out = best == _NOTHING
        ids = self.ids[_place_of(best).masked_fill(left_out, 0)]
        return TopK(
            _score_of(best).masked_fill(left_out, -torch.inf), ids.masked_fill(left_out, NO_ITEM)
        )

    def _places(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """[n] places of ids, and whether each is in the catalogue at all."""
        places = torch.searchsorted(self.ids, ids).clamp(max=self.num_items - 1)
        return places, self.ids[places] == ids

    def _pieces(
        self, queries: Tensor, seen_values: Tensor, seen_offsets: Tensor
    ) -> Iterator[tuple[slice, Tensor, Seen]]:
        """Which of the queries are taken at once, their vectors, and what they have seen."""
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"queries: expected [B, {self.vectors.shape[1]}], got {list(queries.shape)}"
            )
        if seen_offsets.shape != (len(queries) + 1,) or int(seen_offsets[-1]) != len(seen_values):
            raise ValueError(
                f"seen_offsets: expected [{len(queries) + 1}] int64 that end at "
                f"{len(seen_values)}, got {list(seen_offsets.shape)} that end at "
                f"{int(seen_offsets[-1]) if seen_offsets.numel() else 'nothing'}"
            )
        queries = _finite("queries", queries.float())
        places, known = self._places(seen_values)
        row_of = torch.arange(len(queries), device=seen_offsets.device)
        row_of = row_of.repeat_interleave(seen_offsets.diff())
        at_once = max(self._num_scores // self.num_items, min(_LEAST_QUERIES, self._num_scores))
        for first in range(0, len(queries), at_once):
            end = min(first + at_once, len(queries))
            here = slice(int(seen_offsets[first]), int(seen_offsets[end]))
            of_known = known[here]
            seen = Seen(row_of[here][of_known] - first, places[here][of_known])
            yield slice(first, end), queries[first:end], seen

    def _scores(self, queries: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Pieces of [B, n] scores with the place of each piece's first item."""
        width = max(1, self._num_scores // max(1, len(queries)))
        for first in range(0, self.num_items, width):
            yield first, queries @ self.vectors[first : first + width].t()

    def _num_before(self, queries: Tensor, own: Tensor, seen: Seen) -> Tensor:
        """[B] int64, how many unseen items stand before the one at place `own` [B]."""
        of_own = queries.new_empty(len(queries), 1)
        for first, scores in self._scores(queries):  # its score must be of the very same product
            inside = ((own >= first) & (own < first + scores.shape[1])).nonzero().flatten()
            of_own[inside, 0] = scores[inside, own[inside] - first]
        whole = scores.shape[1] == self.num_items
        pieces = [(first, scores)] if whole else self._scores(queries)
        before = torch.zeros_like(own)
        for first, scores in pieces:
            _leave_out(seen, first, scores)
            counted = torch.empty_like(scores)  # 0 or 1; of bool a sum would take 8 bytes each
            before += torch.gt(scores, of_own, out=counted).sum(dim=1).long()
            torch.eq(scores, of_own, out=counted)
            at = torch.arange(scores.shape[1], device=own.device).float()  # exact, for so few
            own_at = (own - first).clamp(0, len(at)).float().unsqueeze(1)
            counted *= torch.lt(at, own_at, out=scores)  # scores are done with
            before += counted.sum(dim=1).long()
        return before


def _finite(name: str, values: Tensor) -> Tensor:
    """The same, detached."""
    if values.numel() and not torch.stack(values.detach().aminmax()).isfinite().all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return values.detach()


def _leave_out(seen: Seen, first: int, scores: Tensor) -> None:
    """Scores of what was seen, of a piece [B, n] from place `first` on, become -inf."""
    rows, places = seen
    here = (places >= first) & (places < first + scores.shape[1])
    scores[rows[here], places[here] - first] = -torch.inf


def _best_keys(scores: Tensor, first: int, k: int) -> Tensor:
    """[B, min(k, n)] the highest keys of scores [B, n], whose first item has place `first`."""
    places = torch.arange(first, first + scores.shape[1], device=scores.device)
    if len(places) <= k:
        return _keys(scores, places)
    values, at = scores.topk(k + 1, dim=1)
    keys = _keys(values[:, :k], places[at[:, :k]])
    # Where the next one is as good, which of them came along is chance.
    tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
    for rows in tied.nonzero().flatten().split(max(1, len(scores) // 4)):
        keys[rows] = _keys(scores[rows], places).topk(k, dim=1).values
    return keys


def _keys(scores: Tensor, places: Tensor) -> Tensor:
    """[B, n] int64 in the order of (score, lower place); _NOTHING for -inf."""
    keys = (_ordered(scores).long() << _LOW) | (2**_LOW - 1 - places)
    return keys.masked_fill_(scores == -torch.inf, _NOTHING)


def _ordered(scores: Tensor) -> Tensor:
    """int32 in the order of float32 scores, which have no NaN."""
    bits = (scores + 0.0).view(torch.int32)  # -0 becomes 0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _score_of(keys: Tensor) -> Tensor:
    ordered = (keys >> _LOW).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _place_of(keys: Tensor) -> Tensor:
    return 2**_LOW - 1 - (keys & (2**_LOW - 1))
