"""What a model's name says, and what it cannot."""

from __future__ import annotations

import pytest

from pipelines.configuration.model_name import ModelName, parse_model


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("dlrm", ModelName("dlrm")),
        ("wukong+pinfm", ModelName("wukong", "pinfm")),
        ("gpsd@wide", ModelName("gpsd", None, "wide")),
        ("dlrm_dcn+pinfm", ModelName("dlrm_dcn", "pinfm")),
        ("mine.models:build+pinfm@wide", ModelName("mine.models:build", "pinfm", "wide")),
    ],
)
def test_a_name_is_a_ranker_a_module_and_a_variant(name: str, parts: ModelName) -> None:
    assert parse_model(name, ["wide"]) == parts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dlmr+pinfm", "unknown model 'dlmr': did you mean 'dlrm'"),
        ("dlrm+pinmf", r"unknown module of model 'dlrm\+pinmf' 'pinmf': did you mean 'pinfm'"),
        ("dlrm+", "unknown module"),
        ("dlrm@wied", "unknown variant of model 'dlrm@wied' 'wied': did you mean 'wide'"),
        ("dlrm@", "unknown variant"),
        ("din+pinfm", r"EmbeddingBagCollection, such as 'dlrm\+pinfm'; din has none"),
        ("gpsd+pinfm", r"impression-level ranker, such as 'dlrm\+pinfm'"),
    ],
)
def test_a_wrong_word_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_model(name, ["wide"])


def test_what_is_pretrained_for_a_model_and_what_it_can_take() -> None:
    assert [parse_model(n).pretrains for n in ("dlrm", "gpsd", "dlrm+pinfm")] == [
        "gpsd",
        "gpsd",
        "pinfm",
    ]
    assert not parse_model("dlrm").has_transferable_dense
    assert parse_model("dlrm+pinfm").has_transferable_dense
