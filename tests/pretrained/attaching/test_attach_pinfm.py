"""A PinFM module attached to CTR models, against itself for one impression at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from tests.pretrained.attaching.attach_cases import (
    CONFIG as GPSD,
)
from tests.pretrained.attaching.attach_cases import (
    KEYS,
    MAX_HISTORY,
    NUM_ITEMS,
    SHAPES,
    build,
    impressions,
    loss,
    save_artefact,
    schema,
    scores,
    vocabularies,
)
from tests.pretrained.attaching.pinfm_cases import (
    CONFIG,
    DIM,
    by_definition,
    plain,
    save_pinfm,
    table,
    with_keys,
)
from torchrec_gr import attach_pretrained, attachment, detach_pretrained
from torchrec_gr.pretrained import Pretrained, untrained_module
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.pretrained.tuning.tuning_objective import TuningTap
from torchrec_gr.training.freeze import frozen_names

WIDEN = {"net": "hidden"}
TUNINGS = {
    "default": None,
    "token": PinFMTuning(learnable_token=True),
    "mean": PinFMTuning(fusion="mean"),
    "last": PinFMTuning(fusion="last"),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return save_pinfm(tmp_path_factory.mktemp("pinfm") / "artefact")


def attach(name: str, artefact: Pretrained, **options: Any) -> Any:
    options = {"strategy": "full", "widen": WIDEN.get(name), **KEYS, **options}
    return attach_pretrained(build(name), artefact, **options)


def expected(model: Any, batch: Any, content: Tensor | None = None) -> Tensor:
    tables = (table(model, f"pretrained_{name}") for name in ("item", "category"))
    return by_definition(model.pretrained.body.encoder, batch, *tables, content)


@pytest.mark.parametrize("deduplicate", [True, False])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_vectors_are_the_definition(
    shape: str, tuning: str, deduplicate: bool, artefact: Pretrained
) -> None:
    model = attach("dlrm", artefact, tuning=TUNINGS[tuning], deduplicate=deduplicate)
    batch = impressions(*SHAPES[shape])
    vectors = model.pretrained(batch.sparse_features)
    torch.testing.assert_close(vectors, expected(model, batch), atol=1e-5, rtol=1e-5)
    items = batch.sparse_features["item_id"]
    raw = table(model, "pretrained_item")[items.values()]
    assert torch.equal(vectors[items.lengths() > 0, DIM:], raw)  # bit for bit, in its own row
    assert shape == "nothing" or vectors.std() > 0.1


@pytest.mark.parametrize("name", ["dlrm", "dcn", "net"])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_predictions_are_the_same_bits(name: str, tuning: str, artefact: Pretrained) -> None:
    model, batch = build(name), impressions(*SHAPES["filled"])
    before, names = scores(name, model, batch), list(model.state_dict())
    attach_pretrained(
        model, artefact, **KEYS, strategy="full", widen=WIDEN.get(name), tuning=TUNINGS[tuning]
    )
    assert torch.equal(scores(name, model, batch), before)
    widened = [n for n in model.state_dict() if n.endswith("widening.weight")]
    assert model.state_dict()[widened[0]].shape[1] == 2 * DIM
    detach_pretrained(model)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_deduplication_changes_neither_scores_nor_gradients(
    shape: str, tuning: str, artefact: Pretrained
) -> None:
    batch, results = impressions(*SHAPES[shape]), []
    for deduplicate in (True, False):
        torch.manual_seed(0)
        model = attach("dcn", artefact, tuning=TUNINGS[tuning], deduplicate=deduplicate)
        (name,) = [n for n in model.state_dict() if n.endswith("widening.weight")]
        nn.init.normal_(dict(model.named_parameters())[name])
        logits = scores("dcn", model, batch)
        logits.sigmoid().sum().backward()
        results.append((logits, {n: w.grad for n, w in model.named_parameters()}))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-6, rtol=1e-6)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["dlrm", "dcn", "net", "train"])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_one_step_reaches_every_new_parameter(name: str, tuning: str, artefact: Pretrained) -> None:
    model = attach(name, artefact, tuning=TUNINGS[tuning])
    batch = impressions(*SHAPES["mixed"])
    new = set(attachment(model).dense) - frozen_names(model)
    new |= {n for n, _ in model.named_parameters() if ".pretrained_" in n}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        loss(name, model, batch).backward()
        reached = {n for n, w in model.named_parameters() if w.grad is not None and w.grad.any()}
        assert not step or reached >= new
        optimizer.step()
    unread = ("body.encoder.target.", "body.encoder.contrast.")
    assert frozen_names(model) == {
        n for n, _ in model.named_parameters() if any(part in n for part in unread)
    }


def test_the_last_candidates_of_one_user(artefact: Pretrained) -> None:
    """10,000 candidates of one history, encoded once."""
    num, model = 10_000, attach("dlrm", artefact).eval()
    candidates = torch.randint(NUM_ITEMS, (num,)).tolist()
    seen: list[list[int]] = []
    model.pretrained.body.encoder.layers[0].register_forward_hook(
        lambda _, inputs, __: seen.append(list(inputs[0].shape))
    )
    kjt = impressions([[3, 1, 2]] * num, candidates).sparse_features
    with torch.no_grad():
        vectors = model.pretrained(kjt)
        few = model.pretrained(impressions([[3, 1, 2]] * 3, candidates[-3:]).sparse_features)
    assert seen[0] == [num + 3, DIM]
    torch.testing.assert_close(vectors[-3:], few, atol=1e-6, rtol=1e-6)
    assert torch.equal(vectors[:, DIM:], table(model, "pretrained_item")[candidates])


def test_requests_by_their_id(artefact: Pretrained) -> None:
    tuning = PinFMTuning(request_key="request")
    model = attach("dlrm", artefact, tuning=tuning)
    histories: list[list[int]] = [[1, 2], [3], [1, 2], [], [1, 2], [3], []]
    candidates: list[int | None] = [5, 6, 7, 8, 9, 1, None]
    plain_batch = impressions(histories, candidates)
    requests = [[70], [-4], [70], [8], [71], [-4], []]
    batch = with_keys(plain_batch, request=requests)
    seen: list[tuple[list[int], list[int]]] = []
    encoder = model.pretrained.body.encoder
    encode = encoder.encode
    encoder.encode = lambda *args, **kw: (
        seen.append((args[2].tolist(), args[3].tolist())) or (encode(*args, **kw))
    )
    vectors = model.pretrained(batch.sparse_features)
    del encoder.encode
    assert seen == [([2, 1, 0, 2, 0], [2, 2, 1, 1, 0])]
    torch.testing.assert_close(vectors, expected(model, plain_batch), atol=1e-5, rtol=1e-5)

    requests[4] = [-4]
    with pytest.raises(ValueError, match=r"request -4 .* row 1 has a history of 1 .* row 4 of 2"):
        model.pretrained(with_keys(plain_batch, request=requests).sparse_features)
    requests[4] = [70, 71]
    with pytest.raises(ValueError, match="'request' holds the request's id, one a row"):
        model.pretrained(with_keys(plain_batch, request=requests).sparse_features)
    with pytest.raises(ValueError, match=r"no keys \['request'\]"):
        model(plain_batch.dense_features, plain_batch.sparse_features)


def test_content_is_summed_into_the_candidates_token(artefact: Pretrained) -> None:
    tuning = PinFMTuning(content={"brand": 5, "shop": 4}, learnable_token=True)
    model = attach("dlrm", artefact, tuning=tuning, strategy="sparse-freeze")
    batch = impressions([[1, 2], [1, 2], [], [4]], [3, 5, 6, None])
    brands, shops = [[4], [], [0], [1]], [[1], [2], [], []]
    rows = [table(model, f"pretrained_content_{key}") for key in ("brand", "shop")]
    assert [list(weight.shape) for weight in rows] == [[5, DIM], [4, DIM]]
    content = torch.zeros(4, 2 * DIM)
    for part, given in enumerate((brands, shops)):
        for row, ids in enumerate(given):
            if ids:
                content[row, part * DIM : (part + 1) * DIM] = rows[part][ids[0]].detach()
    batch = with_keys(batch, brand=brands, shop=shops)
    vectors = model.pretrained(batch.sparse_features)
    torch.testing.assert_close(vectors, expected(model, batch, content), atol=1e-5, rtol=1e-5)
    vectors.sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in rows)
    assert attachment(model).tables == ("pretrained_item", "pretrained_category")
    tables = {n for n in frozen_names(model) if ".embeddings." in n}
    assert len(tables) == 2
    assert not any("content" in n for n in frozen_names(model))


def replaced(model: Any, batch: Any) -> list[int]:
    """The item of each row's vector, by its raw embedding."""
    own = model.pretrained(batch.sparse_features)[:, None, DIM:]
    return (own == table(model, "pretrained_item")).all(dim=2).int().argmax(dim=1).tolist()


def test_candidates_are_replaced_in_training_alone(artefact: Pretrained) -> None:
    torch.manual_seed(0)
    num = 300
    batch = impressions([[1, 2]] * num, [3] * num)
    for share in (0.0, 0.1, 1.0):
        model = attach("dlrm", artefact, tuning=PinFMTuning(replace_candidate=share))
        assert (model.pretrained.item_ids is not None) == (share > 0)
        found = replaced(model.train(), batch)
        other = [item for item in found if item != 3]
        assert abs(len(other) / num - share * 28 / 29) < 0.06
        assert 0 not in other
        assert len(set(other)) >= min(len(other), 20) * 0.6
        assert replaced(model.eval(), batch) == [3] * num


def test_only_the_items_id_is_replaced(artefact: Pretrained) -> None:
    """Side features and history are as they were: the vectors are those of the drawn items."""
    torch.manual_seed(0)
    model = attach("dlrm", artefact, tuning=PinFMTuning(replace_candidate=1.0)).train()
    batch = impressions(*SHAPES["filled"])
    vectors = model.pretrained(batch.sparse_features)
    items = (vectors[:, None, DIM:] == table(model, "pretrained_item")).all(2).int().argmax(1)
    kjt = batch.sparse_features
    values = kjt.values().clone()
    first, last = kjt.offset_per_key()[3:5]
    values[first:last] = items[kjt["item_id"].lengths() > 0]
    drawn = type(kjt)(kjt.keys(), values, lengths=kjt.lengths())
    assert torch.equal(model.eval().pretrained(drawn), vectors)


def test_output_is_dropped_by_the_items_age(artefact: Pretrained) -> None:
    torch.manual_seed(0)
    model = attach("dlrm", artefact, tuning=PinFMTuning(age_key="age"))
    ages = [[0], [6], [7], [27], [28], [4000], [], [-1]]
    batch = impressions([[1, 2]] * 8, [3] * 8)
    kept, runs = torch.zeros(8), 50
    whole = model.eval().pretrained(with_keys(batch, age=ages).sparse_features)
    model.train()
    for _ in range(runs):
        vectors = model.pretrained(with_keys(batch, age=ages).sparse_features)
        kept += (vectors != 0).float().mean(dim=1) / runs
        assert torch.equal(vectors[4:], whole[4:])
    assert torch.allclose(kept, torch.tensor([0.3, 0.3, 0.5, 0.5, 1, 1, 1, 1]), atol=0.06)
    with pytest.raises(ValueError, match="'age' holds the item's age, one a row"):
        model.pretrained(with_keys(batch, age=[[1, 2], *ages[1:]]).sparse_features)


def test_what_is_loaded_and_what_is_new(artefact: Pretrained) -> None:
    tuning = PinFMTuning(learnable_token=True, content={"brand": 3}, next_token_weight=1.0)
    model = attach("dlrm", artefact, tuning=tuning, strategy="full-slow")
    attached = attachment(model)
    body = "pretrained.body.encoder"
    new = {f"{body}.{n}" for n in ("no_history", "token", "content.weight", "content.bias")}
    encoder = {f"{body}.{name}" for name, _ in model.pretrained.body.encoder.named_parameters()}
    assert set(attached.loaded) == encoder - new
    assert attached.report is not None
    notes = {p.name: p.note for p in attached.report.parameters if p.status == "left"}
    fresh = {*new, "pretrained.embeddings.embeddings.pretrained_content_brand.weight"}
    assert {name for name, note in notes.items() if note == "new"} == fresh
    for name in attached.loaded:
        source = artefact.dense(name.removeprefix("pretrained."))
        assert torch.equal(dict(model.named_parameters())[name], source)
    slow = [pattern for group in attached.parameter_groups() for pattern in group.patterns]
    assert set(slow) == {*attached.loaded, "pretrained_item", "pretrained_category"}


def test_frozen_trains_only_what_is_new(artefact: Pretrained, tmp_path: Path) -> None:
    gpsd = attach("dlrm", save_artefact(tmp_path / "gpsd"), strategy="frozen")
    assert not any(weight.requires_grad for weight in gpsd.pretrained.parameters())
    model = attach("dlrm", artefact, tuning=PinFMTuning(learnable_token=True), strategy="frozen")
    trained = {n for n, w in model.pretrained.named_parameters() if w.requires_grad}
    assert trained == {"body.encoder.no_history", "body.encoder.token"}


def test_positives_are_found_in_the_users_rows(artefact: Pretrained) -> None:
    """The artefact's rows 1 and 3 are "c0" and "c2"."""
    tuning = PinFMTuning(next_token_weight=1.0)
    model = attach("dlrm", artefact, tuning=tuning)
    assert model.pretrained.body.objective.positives == {"past_category": (1, 3)}
    mine = {"category": pa.array(["c2", None, "other", "c0", "c1"])}
    model = attach("dlrm", artefact, tuning=tuning, vocabularies=mine)
    assert model.pretrained.body.objective.positives == {"past_category": (0, 3)}
    features = {"item": "past_item", "category": None}
    with pytest.raises(ValueError, match="'history_category' says which events are positive"):
        attach("dlrm", artefact, tuning=tuning, features=features, candidate={"item": "item_id"})


def test_the_tap_gets_the_vectors_and_the_losses(artefact: Pretrained) -> None:
    tuning = PinFMTuning(
        next_token_weight=1.0, alignment_weight=0.5, content={"brand": 3}, replace_candidate=0.5
    )
    model = attach("dlrm", artefact, tuning=tuning).train()
    batch = with_keys(impressions(*SHAPES["mixed"]), brand=[[1]] * 8)
    tap = model.pretrained.body.tap = TuningTap()
    vectors = model.pretrained(batch.sparse_features)
    seen, auxiliary = tap.take()
    assert seen is vectors
    assert auxiliary is not None
    assert auxiliary > 0
    auxiliary.backward()
    for name in ("target.layers.0.weight", "contrast.log_temperature", "content.weight"):
        assert model.pretrained.body.encoder.get_parameter(name).grad is not None, name
    model.eval().pretrained(batch.sparse_features)
    with pytest.raises(RuntimeError):
        tap.take()


def test_users_are_those_of_the_requests(artefact: Pretrained) -> None:
    """Who is not named is a user of their own. Where all are replaced, nothing is left to align."""
    tuning = PinFMTuning(
        next_token_weight=1.0,
        alignment_weight=1.0,
        content={"brand": 3},
        replace_candidate=1.0,
        user_key="user",
    )
    model = attach("dlrm", artefact, tuning=tuning).train()
    histories: list[list[int]] = [[1, 2], [3], [1, 2], [], [3, 3], []]
    batch = impressions(histories, [5, 6, 7, 8, 9, None])
    batch = with_keys(batch, user=[[7], [2**40], [7], [], [2**40], []], brand=[[1]] * 6)
    body, seen = model.pretrained.body, {}
    objective = body.objective.forward
    body.objective.forward = lambda *args, **kw: seen.update(kw) or objective(*args, **kw)
    body.tap = TuningTap()
    torch.manual_seed(2)  # none draws its own id
    model.pretrained(batch.sparse_features)
    assert seen["num_history"].tolist() == [2, 1, 0, 2]
    assert seen["users"].tolist() == [7, 2**40, -5, 2**40]
    assert seen["history_ids"]["past_item"].tolist() == [1, 2, 3, 3, 3]
    assert len(seen["candidates"]) == len(seen["candidate_ids"]) == len(seen["content"]) == 0
    assert torch.isfinite(body.tap.take()[1])


def test_the_order_of_the_schema_does_not_matter(artefact: Pretrained) -> None:
    """The item comes first, whatever its place."""
    body = attach("dlrm", artefact).pretrained.body
    assert body.history == ["past_item", "past_category"]
    assert body.candidates == ["item_id", "category_id"]
    for wrong in ("features", "candidate"):
        options = {**KEYS, wrong: {**KEYS[wrong], "item": None}}
        with pytest.raises(ValueError, match=r"'history_item' is the item|left out of features"):
            attach_pretrained(build("dlrm"), artefact, **options)


def test_an_untrained_module_stands_in_an_artefacts_place(artefact: Pretrained) -> None:
    of = {"schema": schema(), "vocabularies": vocabularies()}
    modules = {"pinfm": plain(), "gpsd": GPSD}
    for kind, config in modules.items():
        untrained = untrained_module(module=kind, config=config, **of)
        torch.manual_seed(3)
        model = attach_pretrained(build("dlrm"), untrained, **KEYS, strategy="none")
        kjt = impressions(*SHAPES["mixed"]).sparse_features
        assert model.pretrained(kjt).shape == (8, 2 * DIM if kind == "pinfm" else DIM)
        assert attachment(model).parameter_groups() == ()
        if kind == "pinfm":
            torch.manual_seed(3)
            other = attach_pretrained(build("dlrm"), artefact, **KEYS, strategy="none")
            ours, theirs = model.state_dict(), other.state_dict()
            assert list(ours) == list(theirs)
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        for strategy in ("full", "sparse-freeze", "frozen"):
            with pytest.raises(ValueError, match=f"'{strategy}' transfers weights, and the unt"):
                attach_pretrained(build("dlrm"), untrained, **KEYS, strategy=strategy)


def test_what_does_not_go_together_is_refused(artefact: Pretrained, tmp_path: Path) -> None:
    gpsd = save_artefact(tmp_path / "gpsd")
    with pytest.raises(ValueError, match="PinFMTuning is for modules of kind 'pinfm'"):
        attach("dlrm", gpsd, tuning=PinFMTuning())
    with pytest.raises(ValueError, match=r"content keys \['category_id'\] are mapped"):
        attach("dlrm", artefact, tuning=PinFMTuning(content={"category_id": 9}))
    other = untrained_module(module="hstu", config={}, schema=schema(), vocabularies={})
    with pytest.raises(ValueError, match="kind 'hstu'; 'gpsd' and 'pinfm' can"):
        attach_pretrained(build("dlrm"), other, **KEYS, strategy="none")
    dynamic = untrained_module(module="pinfm", config=plain(), schema=schema(), vocabularies={})
    mine: dict[str, Any] = {"item": list(range(9)), "category": ["a", "b"]}
    with pytest.raises(ValueError, match="no vocabulary of 'category', so nobody knows which of"):
        attach(
            "dlrm",
            dynamic,
            strategy="none",
            vocabularies=mine,
            tuning=PinFMTuning(next_token_weight=1.0),
        )
    options = {**KEYS, "strategy": "none", "tuning": PinFMTuning(replace_candidate=0.1)}
    with pytest.raises(ValueError, match="a random id would get a row of its own"):
        attach_pretrained(build("dlrm"), dynamic, **options)


def test_a_history_longer_than_the_positions_is_cut(artefact: Pretrained) -> None:
    model = attach("dlrm", artefact)
    assert model.pretrained.body.max_history == CONFIG.max_positions == MAX_HISTORY
    long, short = list(range(20)), list(range(20))[-MAX_HISTORY:]
    vectors = model.pretrained(impressions([long, short], [3, 3]).sparse_features)
    torch.testing.assert_close(vectors[0], vectors[1], atol=1e-6, rtol=1e-6)
