"""State dicts from before an attachment, from after it, and taking it off again."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from tests.pretrained.attaching.attach_cases import (
    KEYS,
    SHAPES,
    build,
    impressions,
    loss,
    save_artefact,
    scores,
)
from torchrec_gr import attach_pretrained, detach_pretrained
from torchrec_gr.pretrained import Pretrained

MODELS = ["dlrm", "deepfm", "train", "net"]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return save_artefact(tmp_path_factory.mktemp("attach") / "artefact")


def attach(model: nn.Module, artefact: Pretrained, strategy: str = "full") -> nn.Module:
    widen = "hidden" if hasattr(model, "hidden") else None
    return attach_pretrained(model, artefact, **KEYS, strategy=strategy, widen=widen)  # type: ignore[arg-type]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def train(name: str, model: nn.Module) -> None:
    """Two steps, so that every weight has moved."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(2):
        optimizer.zero_grad()
        loss(name, model, impressions(*SHAPES["mixed"], seed=seed)).backward()
        optimizer.step()


@pytest.mark.parametrize("name", MODELS)
def test_a_state_dict_from_before_loads(name: str, artefact: Pretrained) -> None:
    earlier = build(name, seed=9)
    model = attach(build(name), artefact)
    attached = weights(model)
    result = model.load_state_dict(earlier.state_dict())
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert_equal(weights(model), attached | earlier.state_dict())
    batch = impressions(*SHAPES["mixed"])
    assert torch.equal(scores(name, model, batch), scores(name, earlier, batch))


@pytest.mark.parametrize("name", MODELS)
def test_a_state_dict_from_after_loads_whole(name: str, artefact: Pretrained) -> None:
    trained = attach(build(name), artefact)
    train(name, trained)
    model = attach(build(name, seed=1), artefact, "none")
    model.load_state_dict(trained.state_dict())
    assert_equal(weights(model), weights(trained))


@pytest.mark.parametrize("name", MODELS)
def test_whatever_else_is_missing_is_reported(name: str, artefact: Pretrained) -> None:
    model = attach(build(name), artefact)
    whole, own = model.state_dict(), list(build(name).state_dict())
    new = [key for key in whole if key not in own]
    for missing in (own[0], own[-1]):
        before = {key: whole[key] for key in own if key != missing}
        with pytest.raises(RuntimeError, match=f'Missing key.*"{missing}"'):
            model.load_state_dict(before)
    for missing in new:
        with pytest.raises(RuntimeError, match=f'Missing key.*"{missing}"'):
            model.load_state_dict({key: whole[key] for key in whole if key != missing})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({**{key: whole[key] for key in own}, "more": torch.zeros(1)})


@pytest.mark.parametrize("name", MODELS)
def test_it_comes_off_without_a_trace(name: str, artefact: Pretrained) -> None:
    model = build(name)
    before, batch = copy.deepcopy(model), impressions(*SHAPES["mixed"])
    assert detach_pretrained(attach(model, artefact)) is model
    assert [type(part) for part in model.modules()] == [type(part) for part in before.modules()]
    for ours, theirs in zip(model.modules(), before.modules(), strict=True):
        assert vars(ours).keys() == vars(theirs).keys()
    assert_equal(model.state_dict(), before.state_dict())
    assert torch.equal(scores(name, model, batch), scores(name, before, batch))
    with pytest.raises(ValueError, match="no pretrained module is attached"):
        detach_pretrained(model)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_model_learned_meanwhile_stays(name: str, artefact: Pretrained) -> None:
    model = attach(build(name), artefact)
    train(name, model)
    own = build(name).state_dict()
    learned = {key: value for key, value in weights(model).items() if key in own}
    detach_pretrained(model)
    assert_equal(model.state_dict(), learned)
    assert not any(torch.equal(learned[key], own[key]) for key in own)
    attach(model, artefact)  # and on again
    assert_equal({key: model.state_dict()[key] for key in learned}, learned)
