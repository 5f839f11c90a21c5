"""An attached model scores as before when its histories come from a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.datasets.utils import Batch
from torchrec.sparse.jagged_tensor import JaggedTensor

from tests.pretrained.attaching.attach_cases import (
    KEYS,
    SHAPES,
    build,
    impressions,
    save_artefact,
    scores,
    vocabularies,
)
from tests.pretrained.attaching.pinfm_cases import CONFIG, HASHED, save_pinfm, with_keys
from torchrec_gr import attach_pretrained
from torchrec_gr.modules.context_cache import ContextCache
from torchrec_gr.pretrained import Pretrained
from torchrec_gr.pretrained.serving.cached_encoder import CachedEncoder
from torchrec_gr.pretrained.serving.context_store import ContextStore
from torchrec_gr.pretrained.serving.module_version import encoder_version
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning

CLOSE = {"atol": 1e-5, "rtol": 0.0}
TUNINGS: dict[str, PinFMTuning] = {
    "plain": PinFMTuning(),
    "token and content": PinFMTuning(
        learnable_token=True, content={"topic": 5}, alignment_weight=0.1
    ),
    "mean": PinFMTuning(fusion="mean"),
    "cold start": PinFMTuning(replace_candidate=0.5, age_key="age", request_key="request"),
}


@pytest.fixture(scope="module", params=["stock", "hashed"])
def artefact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = CONFIG if request.param == "stock" else HASHED
    return save_pinfm(tmp_path_factory.mktemp("pinfm") / "artefact", config)


def attached(artefact: Pretrained, tuning: PinFMTuning, **arguments: Any) -> Any:
    model: nn.Module = attach_pretrained(
        build("dlrm"), artefact, **KEYS, tuning=tuning, **arguments
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "widening" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def models(artefact: Pretrained) -> dict[str, Any]:
    return {name: attached(artefact, tuning) for name, tuning in TUNINGS.items()}


def batch_of(shape: str) -> Batch:
    """Who has a history is a user of its own; a request is one history."""
    histories, candidates = SHAPES[shape]
    distinct = [tuple(history) for history in histories]
    users = [[100 + distinct.index(history)] for history in distinct]
    one_each: Mapping[str, list[list[int]]] = {
        "who": users,
        "request": users,
        "topic": [[] if item is None else [item % 5] for item in candidates],
        "age": [[3]] * len(users),
    }
    return with_keys(impressions(histories, candidates), **one_each)


def cached(model: Any, folder: Path) -> CachedEncoder:
    store = ContextStore(folder, encoder_version(model.pretrained))
    return CachedEncoder(model.pretrained, store, "who")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tuning", TUNINGS)
def test_scores_as_before(
    models: dict[str, Any],
    tuning: str,
    shape: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = models[tuning], batch_of(shape)
    before, module = scores("dlrm", model, batch), model.pretrained
    encoder, encoded = module.body.encoder, []
    context = encoder.context

    def counted(history: list[JaggedTensor], num_history: Tensor) -> ContextCache:
        encoded.append(int(num_history.sum()))
        return context(history, num_history)

    monkeypatch.setattr(encoder, "context", counted)
    model.pretrained = cached(model, tmp_path)
    try:
        first = scores("dlrm", model, batch)
        num_events = sum(encoded)
        again = scores("dlrm", model, batch)
    finally:
        model.pretrained = module
    torch.testing.assert_close(first, before, **CLOSE)
    torch.testing.assert_close(again, first, **CLOSE)
    assert sum(encoded) == num_events, "a history was encoded again"


def test_the_weights_are_not_moved(artefact: Pretrained, tmp_path: Path) -> None:
    """Nothing of what is served trains, or is written to."""
    model = attached(artefact, PinFMTuning())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    version = encoder_version(model.pretrained)
    model.pretrained = cached(model, tmp_path)
    scores("dlrm", model, batch_of("mixed"))
    assert encoder_version(model.pretrained.encoder) == version
    after = {
        name.replace("pretrained.encoder.", "pretrained."): v
        for name, v in model.state_dict().items()
    }
    for name, value in before.items():
        assert torch.equal(after[name], value)


def test_what_cannot_be_served(tmp_path: Path) -> None:
    artefact = save_pinfm(tmp_path / "artefact")
    model = attached(artefact, TUNINGS["token and content"])
    model.pretrained = cached(model, tmp_path / "store")
    batch = batch_of("mixed")
    for key in ("who", "topic"):
        kjt = batch.sparse_features
        rows = {k: [v.tolist() for v in kjt[k].to_dense()] for k in ("who", "topic")}
        rows[key][0] = []
        plain = impressions(*SHAPES["mixed"])
        with pytest.raises(ValueError, match=f"key '{key}' must have one value in each row"):
            scores("dlrm", model, with_keys(plain, **rows))
    assert not (tmp_path / "store").exists()
    gpsd: Any = attach_pretrained(build("dlrm"), save_artefact(tmp_path / "gpsd"), **KEYS).eval()
    with pytest.raises(ValueError, match="has no contexts to keep"):
        CachedEncoder(gpsd.pretrained, ContextStore(tmp_path, "v"), "who")


def test_raw_ids_of_rows_belong_to_the_version(tmp_path: Path) -> None:
    """The same weights over another vocabulary give other keys and values."""
    artefact = save_pinfm(tmp_path / "artefact", HASHED)
    ids = vocabularies()["item"].row_ids().to_pylist()
    models = [
        attached(artefact, PinFMTuning(), vocabularies={"item": rows})
        for rows in (ids, [ids[0], *ids[:0:-1]], ids)
    ]
    there, turned, again = (encoder_version(model.pretrained) for model in models)
    assert there == again != turned


def test_the_fusion_belongs_to_the_version(tmp_path: Path) -> None:
    artefact = save_pinfm(tmp_path / "artefact")
    mean = attached(artefact, PinFMTuning(fusion="mean"))
    before = encoder_version(mean.pretrained)
    encoder = mean.pretrained.body.encoder
    encoder.fusion = dataclasses.replace(encoder.fusion, kind="last")
    assert encoder_version(mean.pretrained) != before
