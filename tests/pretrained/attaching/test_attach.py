"""An attached module against itself written out for one impression at a time."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torchrec.datasets.utils import Batch

from tests.pretrained.attaching.attach_cases import (
    KEYS,
    MAX_HISTORY,
    NUM_CATEGORIES,
    NUM_ITEMS,
    SHAPES,
    build,
    impressions,
    loss,
    save_artefact,
    scores,
    vocabularies,
)
from torchrec_gr import attach_pretrained, attachment
from torchrec_gr.models.gpsd import GPSDDecoder
from torchrec_gr.modules.attention_rows import AttentionRows
from torchrec_gr.pretrained import Pretrained
from torchrec_gr.sequences.visibility import causal
from torchrec_gr.training.freeze import frozen_names

MODELS = ["dlrm", "dcn", "projection", "deepfm", "train", "net"]
WIDEN = {"net": "hidden"}


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return save_artefact(tmp_path_factory.mktemp("attach") / "artefact")


def attach(name: str, artefact: Pretrained, **options: object) -> nn.Module:
    options = {"strategy": "full", "widen": WIDEN.get(name), **KEYS, **options}
    return attach_pretrained(build(name), artefact, **options)  # type: ignore[arg-type]


def vectors(model: nn.Module, batch: Batch) -> Tensor:
    """What the attached module of a TorchRec model gives."""
    return model.pretrained(batch.sparse_features)


def table(artefact: Pretrained, name: str) -> Tensor:
    return torch.cat([piece.weight for piece in artefact.tables[name].pieces()])


def by_definition(decoder: GPSDDecoder, items: Tensor, categories: Tensor, batch: Batch) -> Tensor:
    """Each impression alone: its newest events, its candidate behind them, one forward each."""
    kjt = batch.sparse_features.to_dict()
    columns = {key: column.to_dense() for key, column in kjt.items()}
    found = []
    for row in range(len(batch.labels)):
        if not len(columns["item_id"][row]):
            found.append(torch.zeros(items.shape[1]))
            continue
        past = items[columns["past_item"][row]] + categories[columns["past_category"][row]]
        own = items[columns["item_id"][row]] + categories[columns["category_id"][row]]
        segments = decoder.segments.weight
        tokens = torch.cat([past[-MAX_HISTORY:] + segments[0], own + segments[1]])
        offsets = torch.tensor([0, len(tokens)])
        rotation = decoder.rotary(torch.arange(len(tokens)))
        for layer in decoder.layers:
            rows = AttentionRows(offsets, offsets, causal(offsets), MAX_HISTORY + 1, rotation)
            tokens = layer(tokens, rows)
        found.append(decoder.final_norm(tokens)[-1])
    return torch.stack(found)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("strategy", ["none", "sparse-freeze", "full"])
def test_predictions_are_the_same_bits(name: str, strategy: str, artefact: Pretrained) -> None:
    for training in (True, False):
        model = build(name).train(training)
        batch = impressions(*SHAPES["filled"])
        before, names = scores(name, model, batch), list(model.state_dict())
        own = type(model)
        options = {"widen": WIDEN.get(name), "strategy": strategy}
        attached = attach_pretrained(model, artefact, **KEYS, **options)  # type: ignore[arg-type]
        assert attached is model
        assert isinstance(model, own)
        assert torch.equal(scores(name, model, batch), before)
        assert [n for n in model.state_dict() if n in names] == names


@pytest.mark.parametrize("deduplicate", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_are_the_definition(shape: str, deduplicate: bool, artefact: Pretrained) -> None:
    model = attach("dlrm", artefact, deduplicate=deduplicate)
    batch = impressions(*SHAPES[shape])
    decoder = model.pretrained.body.encoder.decoder
    items, categories = table(artefact, "item"), table(artefact, "category")
    expected = by_definition(decoder, items, categories, batch)
    torch.testing.assert_close(vectors(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert shape == "nothing" or expected.std() > 0.1


@pytest.mark.parametrize("shape", SHAPES)
def test_deduplication_changes_neither_scores_nor_gradients(
    shape: str, artefact: Pretrained
) -> None:
    batch, results = impressions(*SHAPES[shape]), []
    for deduplicate in (True, False):
        torch.manual_seed(0)
        model = attach("dlrm", artefact, deduplicate=deduplicate)
        nn.init.normal_(model.get_submodule(first_linear(model)).widening.weight)
        logits = scores("dlrm", model, batch)
        logits.sigmoid().sum().backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        results.append((logits, gradients))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-6, rtol=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], atol=1e-5, rtol=1e-5)


def first_linear(model: nn.Module) -> str:
    (name,) = [n for n in model.state_dict() if n.endswith("widening.weight")]
    return name.removesuffix(".widening.weight")


def test_equal_requests_are_encoded_once(artefact: Pretrained) -> None:
    model = attach("dlrm", artefact)
    seen: list[tuple[list[int], list[int]]] = []
    model.pretrained.body.encoder.register_forward_hook(
        lambda _, inputs, __: seen.append((inputs[2].tolist(), inputs[3].tolist()))
    )
    vectors(model, impressions(*SHAPES["mixed"]))
    assert seen == [([3, 0, 2, MAX_HISTORY, 1], [3, 2, 1, 1, 1])]


@pytest.mark.parametrize("name", MODELS)
def test_one_step_reaches_every_new_parameter(name: str, artefact: Pretrained) -> None:
    model = attach(name, artefact)
    batch = impressions(*SHAPES["mixed"])
    new = set(attachment(model).dense)
    new |= {n for n, _ in model.named_parameters() if ".pretrained_" in n}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    widening = first_linear(model) + ".widening.weight"
    for step in range(2):  # the zeros of the widening let nothing through in the first
        optimizer.zero_grad()
        loss(name, model, batch).backward()
        reached = {n for n, w in model.named_parameters() if w.grad is not None and w.grad.any()}
        assert reached >= (new if step else {widening})
        optimizer.step()


def test_tables_are_rebuilt_in_the_rows_of_the_user(artefact: Pretrained) -> None:
    """Another order, an id that the artefact does not know, a row that stands for none."""
    items = vocabularies()["item"].raw_ids.tolist()
    mine = np.array([7777, None, *items[::-1]], dtype=object)
    categories = pa.array(["c3", "c1", None, "c0", "new"])
    given = {"item": mine, "history_category": categories}
    model = attach("dlrm", artefact, vocabularies=given, strategy="sparse-freeze")
    rows = dict(model.named_parameters())
    items_in, categories_in = table(artefact, "item"), table(artefact, "category")
    of_user = rows["pretrained.embeddings.embeddings.pretrained_item.weight"]
    assert torch.equal(of_user[2:], items_in[1:].flip(0))
    assert torch.equal(of_user[1], items_in[0])
    of_user = rows["pretrained.embeddings.embeddings.pretrained_category.weight"]
    assert torch.equal(of_user[:4], categories_in[[4, 2, 0, 1]])
    report = attachment(model).report
    assert report is not None
    assert [(t.rows, t.found, t.unknown) for t in report.tables] == [(31, 30, 1), (5, 4, 1)]
    assert frozen_names(model) == {n for n in rows if ".pretrained_" in n}


def test_a_feature_may_be_left_out(artefact: Pretrained) -> None:
    features = {"item": "past_item", "category": None}
    model = attach("dlrm", artefact, features=features, candidate={"item": "item_id"})
    batch = impressions(*SHAPES["mixed"])
    decoder = model.pretrained.body.encoder.decoder
    nothing = torch.zeros(NUM_CATEGORIES, decoder.segments.weight.shape[1])
    expected = by_definition(decoder, table(artefact, "item"), nothing, batch)
    torch.testing.assert_close(vectors(model, batch), expected, atol=1e-5, rtol=1e-5)


def test_a_hook_gets_the_vectors_before_the_forward(artefact: Pretrained) -> None:
    model, batch = build("net"), impressions(*SHAPES["mixed"])
    before = scores("net", model, batch)
    seen: list[Tensor] = []
    attach_pretrained(model, artefact, **KEYS, hook=seen.append)
    assert torch.equal(scores("net", model, batch), before)
    assert torch.equal(seen[0], model.pretrained(batch.sparse_features))


def test_ids_may_come_from_any_argument(artefact: Pretrained) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = build("net")

        def forward(self, everything: dict[str, Batch]) -> Tensor:
            return self.net(everything["it"])

    batch = impressions(*SHAPES["mixed"])
    torch.manual_seed(0)
    model = attach_pretrained(
        Odd(),
        artefact,
        **KEYS,
        widen="net.hidden",
        kjt=lambda everything: everything["it"].sparse_features,
    )
    assert "pretrained.body.encoder.decoder.final_norm.weight" in model.state_dict()
    assert torch.equal(model({"it": batch}), scores("net", build("net"), batch))


def test_a_copy_is_independent(artefact: Pretrained) -> None:
    model, batch = attach("train", artefact), impressions(*SHAPES["mixed"])
    other = copy.deepcopy(model)
    assert type(other.model) is type(model.model)
    nn.init.normal_(other.get_submodule(first_linear(other)).widening.weight)
    assert torch.equal(scores("train", model, batch), scores("train", build("train"), batch))
    moved = scores("train", other, batch)
    assert not torch.equal(moved, scores("train", model, batch))
    with torch.no_grad():
        model.model.pretrained.body.encoder.decoder.final_norm.weight.zero_()
    assert torch.equal(scores("train", other, batch), moved)


def test_an_attachment_names_what_is_new_and_how_it_trains(artefact: Pretrained) -> None:
    model = attach("train", artefact, strategy="full-slow")
    of = attachment(model)
    assert of.tables == ("pretrained_item", "pretrained_category")
    own = set(build("train").state_dict())
    tables = {n for n in model.state_dict() if ".pretrained_" in n}
    assert set(of.dense) == set(model.state_dict()) - own - tables
    assert set(of.dense) - set(of.loaded) == {first_linear(model) + ".widening.weight"}
    assert [(g.patterns, g.lr_scale) for g in of.parameter_groups()] == [
        (of.tables, 0.1),
        (tuple(of.loaded), 0.1),
    ]
    (thawed,) = attachment(attach("net", artefact, strategy="sparse-thaw")).parameter_groups(
        thaw_after=7
    )
    assert (thawed.patterns, thawed.frozen_steps) == (of.tables, 7)
    assert attachment(attach("net", artefact, strategy="none")).parameter_groups() == ()
    with pytest.raises(ValueError, match="no pretrained module is attached"):
        attachment(build("dlrm"))


def test_unequal_keys_and_two_candidates_are_refused(artefact: Pretrained) -> None:
    model, batch = attach("dlrm", artefact), impressions(*SHAPES["mixed"])
    kjt = batch.sparse_features
    lengths = kjt.lengths().view(len(kjt.keys()), -1).clone()
    lengths[1, 0], lengths[1, 1] = 2, 1
    with pytest.raises(ValueError, match="'past_item' and 'past_category' must have as many"):
        model(batch.dense_features, type(kjt)(kjt.keys(), kjt.values(), lengths=lengths.flatten()))
    lengths = kjt.lengths().view(len(kjt.keys()), -1).clone()
    lengths[3:, 0], lengths[3:, 1] = 2, 0
    with pytest.raises(ValueError, match="'item_id' holds the candidate's own id, one a row"):
        model(batch.dense_features, type(kjt)(kjt.keys(), kjt.values(), lengths=lengths.flatten()))
    with pytest.raises(ValueError, match=r"no keys \['category_id'\]"):
        model(batch.dense_features, kjt.split([4, 1])[0])


ERRORS = {
    "strategy": ("dlrm", {"strategy": "sparse-frozen"}, "unknown strategy 'sparse-frozen'"),
    "feature": ("dlrm", {"features": {"itm": "past_item"}}, "did you mean 'item'"),
    "not mapped": (
        "dlrm",
        {"features": {"item": "past_item"}},
        r"nothing was said of the artefact's history features \['history_category'\]",
    ),
    "table": ("dlrm", {"vocabularies": {"itme": [1]}}, "did you mean 'item'"),
    "no overlap": ("dlrm", {"vocabularies": {"item": np.arange(30)}}, "no id"),
    "unknown model": ("net", {"widen": None}, r"name the Linear .* one of \['hidden', 'head'\]"),
    "linear": ("net", {"widen": "hiden"}, "did you mean 'hidden'"),
    "both": ("net", {"hook": print}, "widen and hook were both given"),
    "outside": ("train", {"widen": "loss_fn"}, "unknown Linear in widen"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_leave_the_model_as_it_was(case: str, artefact: Pretrained) -> None:
    name, options, message = ERRORS[case]
    model = build(name)
    options = {**KEYS, "widen": WIDEN.get(name), **options}
    with pytest.raises(ValueError, match=message):
        attach_pretrained(model, artefact, **options)  # type: ignore[arg-type]
    own = build(name)
    assert type(model) is type(own)
    assert list(model.state_dict()) == list(own.state_dict())
    assert all(type(a) is type(b) for a, b in zip(model.modules(), own.modules(), strict=True))


def test_what_cannot_be_attached_to_is_refused(artefact: Pretrained) -> None:
    model = attach("dlrm", artefact)
    with pytest.raises(ValueError, match="attached to this AttachedDLRM already"):
        attach_pretrained(model, artefact, **KEYS)
    with pytest.raises(ValueError, match="give kjt="):
        attach_pretrained(nn.Sequential(nn.Linear(3, 3)), artefact, **KEYS)
    taken = build("net")
    taken.pretrained = True
    with pytest.raises(ValueError, match="has an attribute 'pretrained' already"):
        attach_pretrained(taken, artefact, **KEYS, widen="hidden")
    pair = nn.ModuleList([build("dlrm"), build("deepfm")])
    with pytest.raises(ValueError, match="holds 2 models"):
        attach_pretrained(pair, artefact, **KEYS)


def test_a_folder_is_as_good_as_an_artefact(artefact: Pretrained) -> None:
    model = attach_pretrained(build("dlrm"), str(artefact.path), **KEYS)
    assert attachment(model).tables == ("pretrained_item", "pretrained_category")


def test_rows_of_the_artefact_are_as_many(artefact: Pretrained) -> None:
    model = attach("dlrm", artefact, strategy="none")
    shape = model.pretrained.embeddings.embeddings["pretrained_item"].weight.shape
    assert shape == (NUM_ITEMS, 16)
    assert Path(artefact.path).is_dir()
