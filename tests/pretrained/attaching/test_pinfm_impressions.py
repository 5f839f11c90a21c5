"""PinFM over an impression log: requests found, encoded once, and every row gets its own answer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from tests.models.dense_pinfm import assert_near, dense_answer, gradients_of
from torchrec_gr.models.pinfm import PinFMEncoder, PinFMOutput
from torchrec_gr.models.pinfm_config import PinFMConfig, PinFMFusion, Trunk
from torchrec_gr.pretrained.attaching.impression_encoder import ImpressionBody, ImpressionEncoder

DIM, MOST_EVENTS = 16, 12


def _impression_encoder(trunk: Trunk, *, deduplicate: bool = True) -> ImpressionEncoder:
    torch.manual_seed(0)
    config = PinFMConfig(dim=DIM, num_layers=2, num_heads=2, trunk=trunk, max_positions=MOST_EVENTS)
    encoder = PinFMEncoder(config, PinFMFusion(learnable_token=True))
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.6)
    tables = [
        EmbeddingConfig(
            name=name, embedding_dim=DIM, num_embeddings=9, feature_names=[f"history_{name}", name]
        )
        for name in ("item", "category")
    ]
    body = ImpressionBody(
        encoder,
        dim=encoder.out_dim,
        history=["history_item", "history_category"],
        candidates=["item", "category"],
        max_history=MOST_EVENTS,
        deduplicate=deduplicate,
    )
    return ImpressionEncoder(EmbeddingCollection(tables=tables), body)


def _impressions() -> tuple[KeyedJaggedTensor, list[list[tuple[int, int]]], list[int | None]]:
    """Rows of few users, mixed; one row has no candidate. Also: each row's history, and its item.

    One of the histories is another's begin, one differs from another in a category alone.
    """
    draw = torch.Generator().manual_seed(3)
    longest = [(int(i), int(i) * 5 % 9) for i in torch.randint(9, (9,), generator=draw)]
    histories = [[], longest[:1], longest[:6], longest, [*longest[:8], (longest[8][0], 8)]]
    rows = [histories[int(u)] for u in torch.randint(len(histories), (40,), generator=draw)]
    items: list[int | None] = torch.randint(9, (40,), generator=draw).tolist()
    items[17] = None
    values = [event[0] for row in rows for event in row], [e[1] for row in rows for e in row]
    scored = [item for item in items if item is not None]
    kjt = KeyedJaggedTensor(
        keys=["history_item", "item", "history_category", "category"],
        values=torch.tensor([*values[0], *scored, *values[1], *(i * 2 % 9 for i in scored)]),
        lengths=torch.tensor([*map(len, rows), *(int(i is not None) for i in items)] * 2),
    )
    return kjt, rows, items


def _impressions_alone(
    encoder: ImpressionEncoder, rows: list[list[tuple[int, int]]], items: list[int | None]
) -> Tensor:
    tables = [table.weight for table in encoder.embeddings.embeddings.values()]
    answers = []
    for events, item in zip(rows, items, strict=True):
        if item is None:
            answers.append(tables[0].new_zeros(1, 2 * DIM))
            continue
        ids = [[event[feature] for event in events] for feature in range(2)]
        history = [
            table[torch.tensor(i, dtype=torch.int64)] for table, i in zip(tables, ids, strict=True)
        ]
        candidates = [tables[0][[item]], tables[1][[item * 2 % 9]]]
        answers.append(dense_answer(encoder.body.encoder, history, candidates))
    return torch.cat(answers)


@pytest.mark.parametrize("trunk", ["gpt2", "hstu"])
def test_impressions_that_share_a_request_learn_as_each_alone(trunk: Trunk) -> None:
    """Labels stand where the log has them; tables' gradients of all duplicates sum."""
    encoder = _impression_encoder(trunk)
    exact_encoder = copy.deepcopy(encoder).double()
    kjt, rows, items = _impressions()
    draw = torch.Generator().manual_seed(4)
    labels = torch.randint(2, (len(rows),), generator=draw).double()
    head = torch.randn(2 * DIM, generator=draw)

    def gradients(vectors: Tensor, of: ImpressionEncoder) -> list[Tensor]:
        loss = binary_cross_entropy_with_logits(vectors @ head.to(vectors), labels.to(vectors))
        return gradients_of(loss, list(of.parameters()))

    ours, exact = encoder(kjt), _impressions_alone(exact_encoder, rows, items)
    assert_near(ours, exact, "values")
    names, expected = dict(encoder.named_parameters()), gradients(exact, exact_encoder)
    for name, a, b in zip(names, gradients(ours, encoder), expected, strict=True):
        assert_near(a, b, name)


def test_candidates_come_back_in_their_order_bit_for_bit() -> None:
    encoder = _impression_encoder("gpt2")
    kjt, _, items = _impressions()
    vectors = encoder(kjt)
    table = encoder.embeddings.embeddings["item"].weight
    for vector, item in zip(vectors, items, strict=True):
        expected = torch.zeros(DIM) if item is None else table[item]
        assert torch.equal(vector[DIM:], expected)


def test_each_history_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    kjt, rows, _ = _impressions()
    num_tokens = []
    forward = PinFMEncoder.encode

    def counting(self: PinFMEncoder, history: list[JaggedTensor], *given: Tensor) -> PinFMOutput:
        num_tokens.append(len(history[0].values()))
        return forward(self, history, *given)

    monkeypatch.setattr(PinFMEncoder, "encode", counting)
    grouped, apart = (
        _impression_encoder("gpt2", deduplicate=deduplicate)(kjt) for deduplicate in (True, False)
    )
    assert num_tokens == [sum(map(len, {tuple(row) for row in rows})), sum(map(len, rows))]
    torch.testing.assert_close(grouped, apart, atol=1e-5, rtol=1e-5)
