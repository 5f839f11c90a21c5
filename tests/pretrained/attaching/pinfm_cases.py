"""PinFM artefacts over the log of `attach_cases`, and the vectors by definition."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.datasets.utils import Batch
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from tests.pretrained.attaching.attach_cases import MAX_HISTORY, ROWS, schema, vocabularies
from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.models.pinfm_config import PinFMConfig
from torchrec_gr.models.pinfm_pretrainer import PinFMLosses, PinFMPretrainer
from torchrec_gr.pretrained import ModelCard, Pretrained, load_pretrained, save_pretrained
from torchrec_gr.schema.raw_id_keys import raw_id_keys

DIM = 16
CONFIG = PinFMConfig(dim=DIM, num_layers=2, num_heads=2, max_positions=MAX_HISTORY, init_std=0.3)
HASHED = dataclasses.replace(CONFIG, num_hashes=2, hash_rows=13)
POSITIVES = {"history_category": (1, 3)}


def plain(config: PinFMConfig = CONFIG) -> dict[str, Any]:
    """As the pretraining pipeline keeps it."""
    return dataclasses.asdict(config) | {
        "positives": {feature: list(rows) for feature, rows in POSITIVES.items()}
    }


def save_pinfm(folder: Path, config: PinFMConfig = CONFIG) -> Pretrained:
    """A pretrainer of random weights as an artefact."""
    torch.manual_seed(7)
    keys = raw_id_keys(vocabularies()["item"].row_ids()) if config.num_hashes else None
    model = PinFMPretrainer(
        config,
        PinFMLosses(positives=POSITIVES),
        schema(),
        ROWS,
        None if keys is None else torch.from_numpy(keys),
    )
    save_pretrained(
        folder,
        model,
        module="pinfm",
        config=plain(config),
        schema=schema(),
        vocabularies=vocabularies(),
        card=ModelCard(trained_on="nothing"),
    )
    return load_pretrained(folder)


def table(model: nn.Module, name: str) -> Tensor:
    """Rows of a table of an attached model."""
    weights = [w for n, w in model.named_parameters() if n.endswith(f".{name}.weight")]
    assert len(weights) == 1
    return weights[0]


def by_definition(
    encoder: PinFMEncoder,
    batch: Batch,
    items: Tensor,
    categories: Tensor,
    content: Tensor | None = None,
) -> Tensor:
    """Each impression alone: one request of its newest events and its candidate.

    Args:
        items, categories: rows of the tables, by the batch's ids.
        content: [B, content_dim].
    """
    columns = {key: part.to_dense() for key, part in batch.sparse_features.to_dict().items()}
    found = []
    for row in range(len(batch.labels)):
        past = [columns[key][row][-MAX_HISTORY:] for key in ("past_item", "past_category")]
        own = [columns[key][row] for key in ("item_id", "category_id")]
        if not len(own[0]):
            found.append(torch.zeros(2 * DIM))
            continue
        lengths = torch.tensor([len(past[0])]), torch.ones(1, dtype=torch.int64)
        rows = zip((past, own), lengths, strict=True)
        history, candidates = (
            [
                JaggedTensor(values=weights[ids.long()], lengths=length)
                for weights, ids in zip((items, categories), part, strict=True)
            ]
            for part, length in rows
        )
        own_content = None if content is None else content[row : row + 1]
        found.append(encoder(history, candidates, *lengths, own_content)[0])
    return torch.stack(found)


def with_keys(batch: Batch, **added: list[list[int]]) -> Batch:
    """A batch with more keys, of a list of values a row."""
    kjt = batch.sparse_features
    values = [torch.tensor([v for row in rows for v in row]).long() for rows in added.values()]
    lengths = [torch.tensor([len(row) for row in rows]) for rows in added.values()]
    kjt = KeyedJaggedTensor(
        keys=[*kjt.keys(), *added],
        values=torch.cat([kjt.values(), *values]),
        lengths=torch.cat([kjt.lengths(), *lengths]).int(),
    )
    return dataclasses.replace(batch, sparse_features=kjt)
