"""Encoders of user histories to serve from a store, and requests to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from torchrec_gr.embeddings.multi_hash import MultiHashEmbeddingCollection
from torchrec_gr.embeddings.multi_hash_config import MultiHashEmbeddingConfig
from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.models.pinfm_config import PinFMConfig, PinFMFusion, Trunk
from torchrec_gr.pretrained.attaching.impression_encoder import ImpressionBody, ImpressionEncoder

DIM, MAX_HISTORY, NUM_ITEMS, NUM_SURFACES = 16, 6, 50, 4
EARLY = PinFMFusion()
KEYS = ("past_item", "past_surface", "item")


def encoder(
    fusion: PinFMFusion = EARLY,
    *,
    trunk: Trunk = "gpt2",
    hashed: bool = False,
    seed: int = 0,
) -> ImpressionEncoder:
    """A PinFM module of random weights over histories of items and surfaces.

    Args:
        hashed: items are raw ids of any value, in a multi-hash table.
    """
    torch.manual_seed(seed)
    config = PinFMConfig(
        dim=DIM, num_layers=2, num_heads=2, trunk=trunk, max_positions=MAX_HISTORY, init_std=0.5
    )
    tables = [("item", NUM_ITEMS, ["past_item", "item"]), ("surface", NUM_SURFACES, KEYS[1:2])]
    body = ImpressionBody(
        PinFMEncoder(config, fusion),
        dim=2 * DIM,
        history=KEYS[:2],
        candidates=KEYS[2:],
        max_history=MAX_HISTORY,
        deduplicate=True,
    )
    embeddings = EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name=name, embedding_dim=DIM, num_embeddings=rows, feature_names=list(keys)
            )
            for name, rows, keys in tables[int(hashed) :]
        ]
    )
    items = MultiHashEmbeddingConfig(
        name="item",
        embedding_dim=DIM,
        num_embeddings=20,
        feature_names=["past_item", "item"],
        num_hashes=4,
    )
    hashed_items = MultiHashEmbeddingCollection([items]) if hashed else None
    return ImpressionEncoder(embeddings, body, hashed_items).eval()


def requests(
    histories: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]
) -> KeyedJaggedTensor:
    """One row a request; an event's surface follows from its item."""
    rows = {
        "past_item": histories,
        "past_surface": [[item % NUM_SURFACES for item in row] for row in histories],
        "item": candidates,
    }
    return KeyedJaggedTensor(
        keys=list(rows),
        values=torch.tensor([v for key in rows.values() for row in key for v in row]).long(),
        lengths=torch.tensor([len(row) for key in rows.values() for row in key]),
    )


def expected(module: ImpressionEncoder, ids: KeyedJaggedTensor) -> Tensor:
    """What the encoder itself gives for one request after another, each with one candidate."""
    vectors = [torch.empty(0, 2 * DIM)]
    for row in range(ids.stride()):
        history = ids["past_item"].to_dense()[row].tolist()[-MAX_HISTORY:]
        for item in ids["item"].to_dense()[row].tolist():
            alone = requests([history], [[item]])
            found = dict(module.embeddings(alone)) if module.embeddings is not None else {}
            found |= module.items(alone) if module.items is not None else {}
            vectors.append(
                module.body.encoder(
                    [_plain(found[key]) for key in KEYS[:2]],
                    [_plain(found["item"])],
                    torch.tensor([len(history)]),
                    torch.tensor([1]),
                )
            )
    return torch.cat(vectors).detach()


def _plain(feature: JaggedTensor) -> JaggedTensor:
    return JaggedTensor(feature.values(), lengths=feature.lengths().long())
