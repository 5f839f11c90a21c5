"""Scores candidates of users who come back: their histories are encoded once, then only crossed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.pretrained.attaching.impression_encoder import ImpressionEncoder, newest
from torchrec_gr.pretrained.serving.context_file import UserId
from torchrec_gr.pretrained.serving.context_store import ContextStore
from torchrec_gr.pretrained.serving.history_fingerprints import history_fingerprints

_log = logging.getLogger(__name__)


class ContextServer:
    """An encoder of user histories with a store of what it encoded.

    A user whose stored context is of the same events and the same version is crossed at once: the
    history is neither looked up nor encoded. All others are encoded and stored; a stored file that
    is refused is replaced, with a warning in the log, as where one cannot be written. A history
    without events is not stored.

    Args:
        encoder: in evaluation mode: `model.pretrained` of a model that a PinFM module is attached
            to.
        store: of this encoder's version (`encoder_version`). After any change of the weights the
            server needs a new one.

    Raises:
        ValueError: the encoder is in training mode, or of a kind that has no contexts to keep.
    """

    def __init__(self, encoder: ImpressionEncoder, store: ContextStore) -> None:
        if not isinstance(encoder.body.encoder, PinFMEncoder):
            raise ValueError(
                f"a {type(encoder.body.encoder).__name__} has no contexts to keep: expected an "
                "encoder of a PinFM module"
            )
        if encoder.training:
            raise ValueError("the encoder is in training mode: call eval() on its model first")
        self._encoder, self._pinfm, self._store = encoder, encoder.body.encoder, store
        self._history, self._candidates = encoder.body.history, encoder.body.candidates
        self._content: list[str] = getattr(encoder.body, "content", [])
        self._max_history = encoder.body.max_history

    @property
    def candidate_keys(self) -> list[str]:
        """The keys with one value for each candidate."""
        return [*self._candidates, *self._content]

    @torch.no_grad()
    def score(self, users: Sequence[UserId] | Tensor, ids: KeyedJaggedTensor) -> Tensor:
        """A vector for each candidate of some requests, as the encoder gives it.

        Args:
            users: U ids, one a request.
            ids: U >= 1 rows, one a request: its history, and any number of candidates.

        Returns:
            [C, dim], request after request.

        Raises:
            ValueError: users and requests that are not as many, keys whose rows are not alike, or
                contexts that are not finite where the store is of int8.
        """
        users = users.tolist() if isinstance(users, Tensor) else list(users)
        self._check(users, ids)
        everyone = torch.arange(ids.stride(), device=ids.device())
        past = self._newest(ids, everyone)
        histories = history_fingerprints(past)
        stored, found = self._store.get(users, histories, refused="missing")
        found = found.to(everyone.device)
        missing = everyone[~found]
        embeddings = self._look_up(ids, self._newest(ids, missing))
        parts = [] if stored is None else [stored.to(everyone.device)]
        if missing.numel():
            num_history = past[0].lengths()[missing]
            fresh = self._pinfm.context([embeddings[key] for key in self._history], num_history)
            self._keep(fresh, [(users[row], histories[row]) for row in missing.tolist()])
            parts.append(fresh)
        contexts = ContextCache.concatenate(parts)
        if len(parts) > 1:
            contexts = contexts.select(torch.cat([everyone[found], missing]).argsort())
        return self._cross(contexts, embeddings)

    def _newest(self, ids: KeyedJaggedTensor, requests: Tensor) -> list[JaggedTensor]:
        """Of each history key the events that are read, in U rows: none of other requests."""
        num_events = ids[self._history[0]].lengths().long()
        events, num_kept = newest(num_events, requests, self._max_history)
        lengths = torch.zeros_like(num_events).index_copy(0, requests, num_kept)
        return [JaggedTensor(ids[key].values()[events], lengths=lengths) for key in self._history]

    def _look_up(
        self, ids: KeyedJaggedTensor, history: Sequence[JaggedTensor]
    ) -> dict[str, JaggedTensor]:
        """Embeddings by key, of some events and of all candidates."""
        parts = dict(zip(self._history, history, strict=True))
        kjt = joined({**parts, **{key: ids[key] for key in self.candidate_keys}})
        encoder = self._encoder
        item_ids = kjt if encoder.item_ids is None else encoder.item_ids(kjt)
        items = {} if encoder.items is None else encoder.items(item_ids)
        if encoder.embeddings is None:
            return items
        return {**encoder.embeddings(item_ids if encoder.items is None else kjt), **items}

    def _cross(self, contexts: ContextCache, embeddings: Mapping[str, JaggedTensor]) -> Tensor:
        own = [embeddings[key] for key in self._candidates]
        content = [embeddings[key].values() for key in self._content]
        return self._pinfm.cross(
            contexts, own, own[0].lengths().long(), torch.cat(content, dim=1) if content else None
        )

    def _keep(self, contexts: ContextCache, of: Sequence[tuple[UserId, str]]) -> None:
        """Stores contexts of requests that have a history."""
        rows = contexts.num_history.nonzero().flatten()
        users, histories = ([of[row][part] for row in rows.tolist()] for part in (0, 1))
        try:
            self._store.put(users, histories, contexts.select(rows))  # type: ignore[arg-type]
        except OSError as error:
            _log.warning("contexts are not kept: %s", error)

    def _check(self, users: Sequence[UserId], ids: KeyedJaggedTensor) -> None:
        if len(users) != ids.stride():
            raise ValueError(f"{len(users)} users with {ids.stride()} requests: give one of each")
        for keys in (self._history, self.candidate_keys):
            for key in keys[1:]:
                if not torch.equal(ids[key].lengths(), ids[keys[0]].lengths()):
                    raise ValueError(
                        f"keys {keys[0]!r} and {key!r} must have as many values in each row: they "
                        "hold the same events, or the same candidates"
                    )


def joined(parts: Mapping[str, JaggedTensor]) -> KeyedJaggedTensor:
    """One batch of all keys."""
    return KeyedJaggedTensor(
        keys=list(parts),
        values=torch.cat([part.values() for part in parts.values()]),
        lengths=torch.cat([part.lengths().long() for part in parts.values()]),
    )
