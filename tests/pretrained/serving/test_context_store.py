"""Contexts come back to their users, and nothing that is not theirs is ever taken for theirs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.modules.test_context_cache import contexts
from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.pretrained.serving.context_file import ContextError, UserId, context_path
from torchrec_gr.pretrained.serving.context_store import ContextStore
from torchrec_gr.pretrained.serving.packed_contexts import ContextDtype

DTYPES: tuple[ContextDtype, ...] = ("fp32", "bf16", "int8")
USERS: list[UserId] = [7, "7", "../../etc/passwd", "a/b\\c", "Zoë 🦊\n", "", -(2**63), "x" * 5000]
HISTORIES = [f"h{row}" for row in range(len(USERS))]
LENGTHS = [3, 0, 1, 5, 2, 2, 1, 4]


def assert_close(found: ContextCache, given: ContextCache, dtype: ContextDtype) -> None:
    assert torch.equal(found.offsets, given.offsets)
    assert torch.equal(found.num_history, given.num_history)
    pairs = zip((*found.keys, *found.values), (*given.keys, *given.values), strict=True)
    for x, y in pairs:
        bound = {"fp32": 0 * y, "bf16": y.abs() / 256, "int8": 0 * y}[dtype]
        if dtype == "int8":
            bound = bound + y.abs().amax(dim=2, keepdim=True) / 253.9
        assert x.dtype == torch.float32
        assert ((x - y).abs() <= bound).all()
    assert (found.summary is None) == (given.summary is None)
    if found.summary is not None and given.summary is not None:
        assert torch.equal(found.summary, given.summary)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("summary", [False, True])
def test_round_trip(tmp_path: Path, dtype: ContextDtype, summary: bool) -> None:
    given = contexts(LENGTHS, summary=summary)
    ContextStore(tmp_path, "v1", dtype).put(USERS, HISTORIES, given)
    stored, found = ContextStore(tmp_path, "v1", dtype).get(USERS, HISTORIES)
    assert found.all()
    assert stored is not None
    assert_close(stored, given, dtype)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == len(USERS)
    assert all(re.fullmatch(r"[0-9a-f]{62}\.safetensors", path.name) for path in files)


def test_late_fusion_alone(tmp_path: Path) -> None:
    given, store = contexts([2, 0], summary=True, layers=0), ContextStore(tmp_path, "v1", "int8")
    store.put(["a", "b"], ["1", "2"], given)
    stored, _ = store.get(["a", "b"], ["1", "2"])
    assert stored is not None
    assert_close(stored, given, "int8")


def test_some_are_found_in_the_order_of_the_question(tmp_path: Path) -> None:
    given, store = contexts([2, 3, 1]), ContextStore(tmp_path, "v1")
    store.put(torch.tensor([10, 20, 30]), ["a", "b", "c"], given)
    stored, found = store.get([30, 99, 10, "10", 30], ["c", "c", "a", "a", "c"])
    assert found.tolist() == [True, False, True, False, True]
    assert stored is not None
    assert_close(stored, given.select(torch.tensor([2, 0, 2])), "fp32")


def test_nobody_is_found(tmp_path: Path) -> None:
    store = ContextStore(tmp_path / "not there yet", "v1")
    for users in ([], [1, 2]):
        stored, found = store.get(users, ["h"] * len(users))
        assert stored is None
        assert found.tolist() == [False] * len(users)


def test_a_changed_history_is_not_found_until_it_is_stored(tmp_path: Path) -> None:
    before, after, store = contexts([2]), contexts([3]), ContextStore(tmp_path, "v1")
    store.put([1], ["before"], before)
    assert not store.get([1], ["after"]).found.any()
    store.put([1], ["after"], after)
    assert not store.get([1], ["before"]).found.any()
    stored, _ = store.get([1], ["after"])
    assert stored is not None
    assert_close(stored, after, "fp32")
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    ("version", "dtype", "message"),
    [
        ("v2", "bf16", r"user 5, is of version v1, expected v2: encode the user's history again"),
        ("v1", "int8", r"user 5, is of dtype bf16, expected int8: encode the user's history again"),
    ],
)
def test_another_version_or_dtype_is_refused(
    tmp_path: Path,
    version: str,
    dtype: ContextDtype,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ContextStore(tmp_path, "v1", "bf16").put([5, 6], ["h", "h"], contexts([2, 3]))
    other = ContextStore(tmp_path, version, dtype)
    with pytest.raises(ContextError, match=message):
        other.get([5], ["h"])
    with pytest.raises(ContextError, match=message):  # though the history has changed as well
        other.get([5], ["another"])
    with caplog.at_level(logging.WARNING):
        stored, found = other.get([5, 6], ["h", "h"], refused="missing")
    assert stored is None
    assert not found.any()
    assert len(caplog.messages) == 2
    assert re.search(message, caplog.messages[0])
    other.put([5], ["h"], contexts([2]))
    assert other.get([5], ["h"]).found.all()


def test_discard(tmp_path: Path) -> None:
    store = ContextStore(tmp_path, "v1")
    store.put([1, 2], ["h", "h"], contexts([1, 1]))
    store.discard([2, 3])
    assert store.get([1, 2], ["h", "h"]).found.tolist() == [True, False]


def _one(folder: Path) -> tuple[ContextStore, Path]:
    store = ContextStore(folder, "v1", "int8")
    store.put([5], ["h"], contexts([4]))
    return store, context_path(folder, 5)


def _refused(store: ContextStore, path: Path) -> str:
    """The message, which names the file; a server takes the file as missing and replaces it."""
    with pytest.raises(ContextError, match="encode the user's history again") as caught:
        store.get([5], ["h"])
    assert str(path) in str(caught.value)
    assert not store.get([5], ["h"], refused="missing").found.any()
    return str(caught.value)


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    store, path = _one(tmp_path)
    whole = path.read_bytes()
    for size in {0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1}:
        path.write_bytes(whole[:size])
        _refused(store, path)
    path.write_bytes(whole + b"\0")
    _refused(store, path)
    path.write_bytes(whole)
    assert store.get([5], ["h"]).found.all()


def test_any_changed_byte_is_refused(tmp_path: Path) -> None:
    """But for those of a file's header that are mere spaces."""
    store, path = _one(tmp_path)
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 7), len(whole) - 1]:
        if whole[place : place + 1] == b" ":
            continue
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        _refused(store, path)


def _rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Alters what a file says of itself, and leaves its checksum."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts = json.loads(metadata["context"])
    change(facts)
    save_file(tensors, path, {**metadata, "context": json.dumps(facts)})


@pytest.mark.parametrize("fact", ["version", "user", "history", "dtype", "num_history", "format"])
def test_altered_facts_are_refused(tmp_path: Path, fact: str) -> None:
    store, path = _one(tmp_path)
    _rewrite(path, lambda facts: facts.update({fact: "other"}))
    assert "was altered" in _refused(store, path)


def test_what_is_no_context_is_refused(tmp_path: Path) -> None:
    store, path = _one(tmp_path)
    save_file({"keys": torch.ones(2)}, path)
    assert "is no context that can be read" in _refused(store, path)
    save_file({"keys": torch.ones(2)}, path, {"context": "[", "checksum": ""})
    assert "is no context that can be read" in _refused(store, path)
    path.write_bytes(b"\x80\x04\x95" * 100)  # a pickle is not even looked into
    _refused(store, path)
    path.unlink()
    path.mkdir()
    _refused(store, path)


def test_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, path = _one(tmp_path)
    monkeypatch.setattr("torchrec_gr.pretrained.serving.context_file.FORMAT", 2)
    assert "is of format 1, not 2" in _refused(store, path)


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """Two writers and a reader of one user at a time."""
    cache, store = contexts([200]), ContextStore(tmp_path, "v1")
    store.put([5], ["h"], cache)

    def write(_: int) -> None:
        for _ in range(20):
            store.put([5], ["h"], cache)

    with ThreadPoolExecutor(2) as threads:
        writing = threads.map(write, range(2))
        for _ in range(40):
            stored, _ = store.get([5], ["h"])
            assert stored is not None
            assert torch.equal(stored.keys[0], cache.keys[0])
        list(writing)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [context_path(tmp_path, 5)]


def test_another_users_file_is_refused(tmp_path: Path) -> None:
    store, path = _one(tmp_path)
    store.put(["mallory"], ["h"], contexts([4]))
    context_path(tmp_path, "mallory").replace(path)
    assert "is the context of user 'mallory', not 5" in _refused(store, path)


@pytest.mark.parametrize(
    ("users", "histories", "lengths", "message"),
    [
        ([1, 2], ["h"], [1, 1], "2 users with 1 histories"),
        ([1, 2], ["h", "h"], [1], "2 users with contexts of 1 requests"),
        ([1, 2.5], ["h", "h"], [1, 1], r"ints or strs, got 2.5, a float"),
        ([1, None], ["h", "h"], [1, 1], r"ints or strs, got None"),
        ([1, True], ["h", "h"], [1, 1], r"ints or strs, got True, a bool"),
    ],
)
def test_what_cannot_be_stored(
    tmp_path: Path, users: list[Any], histories: list[str], lengths: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ContextStore(tmp_path / "s", "v1").put(users, histories, contexts(lengths))
    assert not (tmp_path / "s").exists()


def test_a_write_that_fails_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, path = _one(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        store.put([5], ["h2"], contexts([1]))
    assert store.get([5], ["h"]).found.all()
    assert [other for other in tmp_path.rglob("*") if other.is_file()] == [path]


def test_settings() -> None:
    with pytest.raises(ValueError, match="version is empty"):
        ContextStore("x", "")
    with pytest.raises(ValueError, match="expected one of"):
        ContextStore("x", "v", "fp16")  # type: ignore[arg-type]
