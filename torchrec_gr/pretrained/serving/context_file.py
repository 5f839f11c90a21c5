"""The file of one user's context: it says itself whose it is, and whether it is as written."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from torchrec_gr.pretrained.serving.tensor_digest import tensor_digest

UserId: TypeAlias = int | str

FORMAT = 1
_FACTS, _CHECKSUM = "context", "checksum"


class ContextError(ValueError):
    """A stored context that is not to be used."""


@dataclasses.dataclass(frozen=True)
class ContextFacts:
    """What a file says of its context.

    Args:
        user: whose.
        history: fingerprint of the events that were encoded.
        version: stamp of the module that encoded them.
        dtype: of keys and values, as `pack_contexts` names it.
        num_tokens, num_history: of the context.
        format: of the file.
    """

    user: UserId
    history: str
    version: str
    dtype: str
    num_tokens: int
    num_history: int
    format: int = FORMAT


def context_path(folder: Path, user: UserId) -> Path:
    """Where a user's context is: the name fits any file system, whatever the id.

    Raises:
        ValueError: the id is neither an int nor a str.
    """
    if type(user) not in (int, str):
        raise ValueError(f"user ids are ints or strs, got {user!r}, a {type(user).__name__}")
    name = hashlib.sha256(json.dumps(user).encode()).hexdigest()  # 5 and "5" are two users
    return folder / name[:2] / f"{name[2:]}.safetensors"


def write_context(path: Path, facts: ContextFacts, tensors: Mapping[str, Tensor]) -> None:
    """Puts a file in place whole, or not at all; an earlier one is replaced.

    It is not forced on disk: what a power cut leaves of it is refused when it is read.

    Raises:
        OSError: it cannot be written.
    """
    plain = dataclasses.asdict(facts)
    checksum = tensor_digest(plain, sorted(tensors.items()))
    content = save(dict(tensors), {_FACTS: json.dumps(plain), _CHECKSUM: checksum})
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=".partial_", dir=path.parent)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
        os.chmod(
            partial, path.parent.stat().st_mode & 0o666
        )  # mkstemp lets none but its owner read
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def read_context(path: Path, user: UserId) -> tuple[ContextFacts, dict[str, Tensor]]:
    """A user's context, found as it was written; runs no code that the file brings.

    Raises:
        FileNotFoundError: there is none.
        ContextError: it was cut or altered, is of another format, or another user's.
    """
    try:
        with safe_open(path, framework="pt", backend="pread") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        plain: dict[str, Any] = json.loads(metadata[_FACTS])
        if tensor_digest(plain, sorted(tensors.items())) != metadata[_CHECKSUM]:
            raise ContextError(f"{path} was altered: {_AGAIN}")
        if plain["format"] != FORMAT:
            raise ContextError(f"{path} is of format {plain['format']}, not {FORMAT}: {_AGAIN}")
        facts = ContextFacts(**plain)
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ContextError(
            f"{path} is no context that can be read ({type(error).__name__}: {error}): {_AGAIN}"
        ) from error
    if facts.user != user:
        raise ContextError(f"{path} is the context of user {facts.user!r}, not {user!r}: {_AGAIN}")
    return facts, tensors


_AGAIN = "encode the user's history again, which replaces it"
