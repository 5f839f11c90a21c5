"""What comes from the store is what the encoder gives, and only what is in it is left out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.pretrained.serving.context_cases import (
    DIM,
    MAX_HISTORY,
    NUM_ITEMS,
    encoder,
    expected,
    requests,
)
from torchrec_gr.models.gpsd import GPSDConfig, GPSDEncoder
from torchrec_gr.models.pinfm_config import PinFMFusion, Trunk
from torchrec_gr.pretrained.attaching.impression_encoder import ImpressionEncoder
from torchrec_gr.pretrained.serving.context_file import context_path
from torchrec_gr.pretrained.serving.context_server import ContextServer
from torchrec_gr.pretrained.serving.context_store import ContextStore
from torchrec_gr.pretrained.serving.module_version import encoder_version
from torchrec_gr.pretrained.serving.packed_contexts import ContextDtype

CLOSE = {"atol": 2e-6, "rtol": 0.0}
HISTORIES = [[1, 2, 3], [], [7], [1, 2, 3], list(range(10, 19)), [9, 9]]
CANDIDATES = [[5, 6], [5], [], [0, 49, 5, 5], [8], [30, 31, 32]]
USERS: list[int | str] = [1, 2, 3, 4, "five", "six/6"]
FUSIONS = [
    PinFMFusion(),
    PinFMFusion(learnable_token=True),
    PinFMFusion("mean"),
    PinFMFusion("last"),
]


def server(module: ImpressionEncoder, folder: Path, dtype: ContextDtype = "fp32") -> ContextServer:
    return ContextServer(module, ContextStore(folder, encoder_version(module), dtype))


def only_crosses(module: ImpressionEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing may be encoded, and no event be looked up."""

    def refuse(*_: object) -> None:
        raise AssertionError("a history was encoded")

    def no_history(ids: KeyedJaggedTensor) -> Any:
        assert ids["past_item"].values().numel() == 0, "a history was looked up"
        return look_up(ids)

    look_up = module.embeddings.forward  # type: ignore[union-attr]
    monkeypatch.setattr(module.body.encoder, "context", refuse)
    monkeypatch.setattr(module.embeddings, "forward", no_history)


@pytest.mark.parametrize("trunk", ["gpt2", "hstu"])
@pytest.mark.parametrize("fusion", FUSIONS, ids=str)
def test_scores_are_the_encoders(
    fusion: PinFMFusion, trunk: Trunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, ids = encoder(fusion, trunk=trunk), requests(HISTORIES, CANDIDATES)
    found = server(module, tmp_path).score(USERS, ids)
    torch.testing.assert_close(found, expected(module, ids), **CLOSE)
    with_history = [row for row, history in enumerate(HISTORIES) if history]
    ids = requests(*([of[row] for row in with_history] for of in (HISTORIES, CANDIDATES)))
    users = [USERS[row] for row in with_history]
    fresh = server(module, tmp_path / "other").score(users, ids)
    only_crosses(module, monkeypatch)
    assert torch.equal(server(module, tmp_path).score(users, ids), fresh)


def _error(dtype: ContextDtype, fusion: PinFMFusion, folder: Path) -> float:
    module, ids = encoder(fusion), requests(HISTORIES, CANDIDATES)
    first = server(module, folder, dtype).score(USERS, ids)
    again = server(module, folder, dtype).score(USERS, ids)
    return float((again - first).abs().max())


@pytest.mark.parametrize(("dtype", "bound"), [("bf16", 0.02), ("int8", 0.02)])
def test_fewer_bytes_cost_little(dtype: ContextDtype, bound: float, tmp_path: Path) -> None:
    """Hidden states are unit vectors; raw id embeddings are no part of the context."""
    assert 0 < _error(dtype, PinFMFusion(), tmp_path / "early") < bound
    assert _error(dtype, PinFMFusion("mean"), tmp_path / "mean") == 0


def test_some_come_back_among_new_ones(tmp_path: Path) -> None:
    module = encoder()
    serving = server(module, tmp_path)
    serving.score(USERS[4:], requests(HISTORIES[4:], CANDIDATES[4:]))
    order = [5, 0, 3, 4, 1, 2]
    ids = requests([HISTORIES[row] for row in order], [CANDIDATES[row] for row in order])
    found = serving.score([USERS[row] for row in order], ids)
    torch.testing.assert_close(found, expected(module, ids), **CLOSE)


def test_a_request_without_history_gets_the_learned_answer(tmp_path: Path) -> None:
    module = encoder()
    serving = server(module, tmp_path)
    for _ in range(2):
        found = serving.score([1], requests([[]], [[3, 4]]))
        answer = module.body.encoder.no_history
        assert torch.equal(found[:, :DIM], answer.expand(2, -1))
        assert torch.equal(found[:, DIM:], _rows(module, [3, 4]))
    assert not list(tmp_path.rglob("*.safetensors"))


def _rows(module: ImpressionEncoder, items: list[int]) -> Tensor:
    return module.embeddings.embeddings["item"].weight[items]  # type: ignore[union-attr, index]


@pytest.mark.parametrize("fusion", FUSIONS[:3], ids=str)
def test_ten_thousand_candidates(fusion: PinFMFusion, tmp_path: Path) -> None:
    module = encoder(fusion)
    serving = server(module, tmp_path)
    items = torch.randint(NUM_ITEMS, (10_000,)).tolist()
    ids = requests([[1, 2, 3]], [items])
    first, again = serving.score(["u"], ids), serving.score(["u"], ids)
    assert torch.equal(first, again)
    of_each = expected(module, requests([[1, 2, 3]], [range(NUM_ITEMS)]))
    torch.testing.assert_close(first, of_each[items], **CLOSE)


def test_ids_never_seen(tmp_path: Path) -> None:
    """Hashed items are of any value; the store tells their histories apart."""
    module = encoder(hashed=True)
    serving = server(module, tmp_path)
    large = torch.iinfo(torch.int64).max
    ids = requests([[large, -large, 10**12]], [[large - 1, 0, -5]])
    first = serving.score([1], ids)
    torch.testing.assert_close(first, expected(module, ids), **CLOSE)
    assert first.isfinite().all()
    assert torch.equal(serving.score([1], ids), first)
    other = requests([[large, -large, 10**12 + 20]], [[large - 1, 0, -5]])
    torch.testing.assert_close(serving.score([1], other), expected(module, other), **CLOSE)


@pytest.mark.parametrize("changed", [[1, 2, 3, 4], [1, 2], [2, 1, 3], [1, 2, 7], []], ids=str)
def test_a_changed_history_is_encoded_again(changed: list[int], tmp_path: Path) -> None:
    module = encoder()
    serving = server(module, tmp_path)
    serving.score([1], requests([[1, 2, 3]], [[5, 6]]))
    ids = requests([changed], [[5, 6]])
    torch.testing.assert_close(serving.score([1], ids), expected(module, ids), **CLOSE)


def test_events_that_are_not_read_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = encoder()
    serving, read = server(module, tmp_path), list(range(1, MAX_HISTORY + 1))
    first = serving.score([1], requests([[40, *read]], [[5]]))
    only_crosses(module, monkeypatch)
    assert torch.equal(serving.score([1], requests([read], [[5]])), first)


def test_a_new_version_replaces_what_the_old_one_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = requests(HISTORIES[:1], CANDIDATES[:1])
    server(encoder(), tmp_path).score(USERS[:1], ids)
    trained = encoder()
    with torch.no_grad():
        trained.embeddings.embeddings["item"].weight[2] += 1e-3  # type: ignore[union-attr, index]
    serving = server(trained, tmp_path)
    with caplog.at_level(logging.WARNING):
        found = serving.score(USERS[:1], ids)
    assert "is of version" in caplog.text
    torch.testing.assert_close(found, expected(trained, ids), **CLOSE)
    caplog.clear()
    only_crosses(trained, monkeypatch)
    assert torch.equal(serving.score(USERS[:1], ids), found)
    assert not caplog.records


def test_a_damaged_file_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, ids = encoder(), requests(HISTORIES[:1], CANDIDATES[:1])
    serving = server(module, tmp_path)
    first = serving.score(USERS[:1], ids)
    path = context_path(tmp_path, USERS[0])
    path.write_bytes(path.read_bytes()[:-1])
    assert torch.equal(serving.score(USERS[:1], ids), first)
    assert str(path) in caplog.text
    caplog.clear()
    serving.score(USERS[:1], ids)
    assert not caplog.records


def test_a_full_disk_costs_no_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    module, ids = encoder(), requests(HISTORIES, CANDIDATES)
    monkeypatch.setattr("os.replace", full)
    found = server(module, tmp_path).score(USERS, ids)
    torch.testing.assert_close(found, expected(module, ids), **CLOSE)
    assert "contexts are not kept: [Errno 28] No space left" in caplog.text


def test_one_user_with_two_histories_in_a_batch(tmp_path: Path) -> None:
    module, ids = encoder(), requests([[1, 2], [3], [1, 2]], [[5], [6], [7]])
    serving = server(module, tmp_path)
    for _ in range(2):
        found = serving.score(torch.tensor([4, 4, 4]), ids)
        torch.testing.assert_close(found, expected(module, ids), **CLOSE)


def test_what_cannot_be_served(tmp_path: Path) -> None:
    module = encoder()
    serving = server(module, tmp_path)
    with pytest.raises(ValueError, match="1 users with 2 requests"):
        serving.score([1], requests([[1], [2]], [[3], [4]]))
    ids = requests([[1, 2]], [[3]])
    lengths = ids.lengths().clone()
    lengths[1] = 1  # one surface for two items
    uneven = KeyedJaggedTensor(keys=ids.keys(), values=ids.values()[1:], lengths=lengths)
    with pytest.raises(ValueError, match="'past_item' and 'past_surface' must have as many"):
        serving.score([1], uneven)
    assert not list(tmp_path.rglob("*.safetensors"))
    store = ContextStore(tmp_path, "v")
    with pytest.raises(ValueError, match="is in training mode"):
        ContextServer(module.train(), store)
    module.eval().body.encoder = GPSDEncoder(GPSDConfig(dim=DIM), MAX_HISTORY)
    with pytest.raises(ValueError, match="a GPSDEncoder has no contexts to keep"):
        ContextServer(module, store)
