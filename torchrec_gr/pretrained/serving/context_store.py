"""Contexts of users on disk, so that who comes back is not encoded again."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.pretrained.serving.context_file import (
    ContextError,
    ContextFacts,
    UserId,
    context_path,
    read_context,
    write_context,
)
from torchrec_gr.pretrained.serving.packed_contexts import (
    ContextDtype,
    pack_contexts,
    unpack_layers,
)

_log = logging.getLogger(__name__)

_Context = tuple[ContextFacts, dict[str, Tensor]]


class StoredContexts(NamedTuple):
    """What `ContextStore.get` found.

    Args:
        contexts: of the users that were found, in the order of the question, keys and values in
            float32 on the CPU; None where none was found.
        found: [n] bool.
    """

    contexts: ContextCache | None
    found: Tensor


class ContextStore:
    """A folder with a file for each user, which several processes may read and write at a time.

    A context is of one user, one history and one version of the module that encoded it. Another
    history is no error: the user has done something since, and is not found. Another version is
    refused: its keys and values mean nothing to the weights of today.

    Args:
        folder: made on the first write. One for each version is easily cleared away.
        version: stamp of the module, as `module_version` gives it; files of others are refused.
        dtype: of keys and values on disk; files of others are refused.

    Raises:
        ValueError: no version, or an unknown dtype.
    """

    def __init__(self, folder: str | Path, version: str, dtype: ContextDtype = "fp32") -> None:
        if not version:
            raise ValueError("version is empty: give the module's, see module_version")
        if dtype not in get_args(ContextDtype):
            raise ValueError(f"dtype: expected one of {get_args(ContextDtype)}, got {dtype!r}")
        self.folder, self.version = Path(folder), version
        self.dtype: ContextDtype = dtype

    def put(
        self, users: Sequence[UserId] | Tensor, histories: Sequence[str], contexts: ContextCache
    ) -> None:
        """Stores contexts in place of any earlier ones of these users.

        Args:
            users: U ids; a tensor counts as ints.
            histories: U fingerprints of what was encoded, as `history_fingerprints` gives them.
            contexts: of U requests, from the module of this store's version.

        Raises:
            ValueError: counts that differ, a user id that is neither an int nor a str, or numbers
                that int8 cannot hold; nothing was stored.
            OSError: a file cannot be written; users before it are stored.
        """
        users = _plain(users)
        _require_counts(users, histories)
        if contexts.num_requests != len(users):
            raise ValueError(
                f"{len(users)} users with contexts of {contexts.num_requests} requests: give one "
                "of each"
            )
        paths = [context_path(self.folder, user) for user in users]
        packed = pack_contexts(contexts, self.dtype)
        ends, num_history = contexts.offsets.tolist(), contexts.num_history.tolist()
        for row, (path, user, history) in enumerate(zip(paths, users, histories, strict=True)):
            first, last = ends[row : row + 2]
            tensors = {name: of[:, first:last].contiguous() for name, of in packed.items()}
            if contexts.summary is not None:
                tensors["summary"] = contexts.summary[row : row + 1].contiguous()
            facts = ContextFacts(
                user, history, self.version, self.dtype, last - first, num_history[row]
            )
            write_context(path, facts, tensors)

    def get(
        self,
        users: Sequence[UserId] | Tensor,
        histories: Sequence[str],
        *,
        refused: Literal["raise", "missing"] = "raise",
    ) -> StoredContexts:
        """The contexts of those users that have one of their present history.

        Args:
            users: n ids.
            histories: n fingerprints; a user whose context is of another history is not found.
            refused: what to do about a file that is damaged, or of another version or dtype:
                "raise", or take it as "missing" and log a warning, for a server, which encodes the
                user again and so replaces it.

        Raises:
            ValueError: counts that differ, or a user id that is neither an int nor a str.
            ContextError: a file was refused; it is named, with what was found and expected.
        """
        users = _plain(users)
        _require_counts(users, histories)
        paths = [context_path(self.folder, user) for user in users]
        read: list[_Context | None] = []
        for path, user, history in zip(paths, users, histories, strict=True):
            try:
                read.append(self._read(path, user, history))
            except ContextError as error:
                if refused == "raise":
                    raise
                _log.warning("%s", error)
                read.append(None)
        found = [context for context in read if context is not None]
        mask = torch.tensor([context is not None for context in read], dtype=torch.bool)
        return StoredContexts(_joined(found) if found else None, mask)

    def discard(self, users: Sequence[UserId] | Tensor) -> None:
        """Removes the contexts of users, where they have any."""
        for path in [context_path(self.folder, user) for user in _plain(users)]:
            path.unlink(missing_ok=True)

    def _read(self, path: Path, user: UserId, history: str) -> _Context | None:
        try:
            facts, tensors = read_context(path, user)
        except FileNotFoundError:
            return None
        for name in ("version", "dtype"):
            found, expected = getattr(facts, name), getattr(self, name)
            if found != expected:
                raise ContextError(
                    f"{path}, the context of user {user!r}, is of {name} {found}, expected "
                    f"{expected}: encode the user's history again, which replaces it, or give "
                    f"each {name} a folder of its own"
                )
        return (facts, tensors) if facts.history == history else None


def _joined(found: Sequence[_Context]) -> ContextCache:
    """One cache of the contexts of several files."""
    facts = [of for of, _ in found]
    names = found[0][1].keys()
    joined = {
        name: torch.cat([tensors[name] for _, tensors in found], dim=0 if name == "summary" else 1)
        for name in names
    }
    return ContextCache(
        keys=unpack_layers(joined, "keys"),
        values=unpack_layers(joined, "values"),
        offsets=torch.tensor([0, *(of.num_tokens for of in facts)]).cumsum(0),
        num_history=torch.tensor([of.num_history for of in facts]),
        summary=joined.get("summary"),
    )


def _plain(users: Iterable[UserId] | Tensor) -> list[UserId]:
    return users.tolist() if isinstance(users, Tensor) else list(users)


def _require_counts(users: Sequence[UserId], histories: Sequence[str]) -> None:
    if len(users) != len(histories):
        raise ValueError(f"{len(users)} users with {len(histories)} histories: give one of each")
