"""Plugs a pretrained sequence module into a CTR model written by hand, in two ways.

    python -m examples.attach_own_model

The data are made up: a shop whose items have other row numbers than where the module was trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipelines import pretrain
from pipelines.configuration.command_line import report_errors
from torchrec_gr import attach_pretrained, attachment

NUM_USERS, NUM_ITEMS, NUM_DENSE, DIM = 50, 200, 3, 16
MY_ITEMS = np.random.default_rng(0).permutation(300)[:NUM_ITEMS]
"""The raw id of each row of the shop's item table."""


class ClickModel(nn.Module):
    """A user, what they clicked, and an item: will they click it?"""

    def __init__(self) -> None:
        super().__init__()
        self.bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name="user", embedding_dim=8, num_embeddings=NUM_USERS, feature_names=["user"]
                ),
                EmbeddingBagConfig(
                    name="item",
                    embedding_dim=8,
                    num_embeddings=NUM_ITEMS,
                    feature_names=["clicked", "item"],
                ),
            ]
        )
        self.hidden = nn.Linear(3 * 8 + NUM_DENSE, 32)
        self.out = nn.Linear(32, 1)

    def forward(self, dense: Tensor, ids: KeyedJaggedTensor) -> Tensor:
        """Logits [B]."""
        return self.out(self.read(dense, ids)).squeeze(1)

    def read(self, dense: Tensor, ids: KeyedJaggedTensor) -> Tensor:
        """The hidden layer, [B, 32]."""
        return self.hidden(torch.cat([self.bags(ids).values(), dense], dim=1)).relu()


class GatedClickModel(ClickModel):
    """Decides by itself what to do with the vector: it scales the hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(DIM, 32, bias=False)
        nn.init.zeros_(self.gate.weight)  # so that it begins as it was
        self.vector: Tensor | None = None

    def take(self, vector: Tensor) -> None:
        """Is called with the module's vectors, [B, DIM], before each forward."""
        self.vector = vector

    def read(self, dense: Tensor, ids: KeyedJaggedTensor) -> Tensor:
        """The hidden layer, [B, 32]."""
        hidden = super().read(dense, ids)
        return hidden if self.vector is None else hidden * (1 + self.gate(self.vector))


def made_up_batch(seed: int, size: int = 256) -> tuple[Tensor, KeyedJaggedTensor, Tensor]:
    """Dense features, ids and labels; each user shows up with several items."""
    rng = np.random.default_rng(seed)
    users = rng.integers(NUM_USERS, size=size)
    num_clicked = users % 7
    clicked = np.concatenate(
        [np.arange(n) * 11 + u for u, n in zip(users, num_clicked, strict=True)]
    )
    items = rng.integers(NUM_ITEMS, size=size)
    ids = KeyedJaggedTensor(
        keys=["user", "clicked", "item"],
        values=torch.from_numpy(np.concatenate([users, clicked % NUM_ITEMS, items])),
        lengths=torch.from_numpy(np.concatenate([users * 0 + 1, num_clicked, users * 0 + 1])),
    )
    labels = torch.from_numpy((users + items) % 3 == 0).float()
    return torch.from_numpy(rng.normal(size=(size, NUM_DENSE))).float(), ids, labels


def train(model: nn.Module, steps: int) -> float:
    """Trains for some steps; gives the last one's loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for seed in range(steps):
        dense, ids, labels = made_up_batch(seed)
        loss = nn.functional.binary_cross_entropy_with_logits(model(dense, ids), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def pretrained_artefact(folder: Path) -> Path:
    """A small module, pretrained on another shop's log."""
    config = folder / "pretrain.yaml"
    config.write_text(
        "{data: synthetic, dims: [16], pretrain: {epochs: 1, num_negatives: 64},"
        " transformer: {num_layers: 2, num_heads: 2},"
        " data_options: {num_users: 200, num_items: 300, num_impressions: 2000, num_organic: 4000}}"
    )
    pretrain.main(["--config", str(config), "--out", str(folder / "pretrain")])
    return folder / "pretrain"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=50, help="before attaching, and after")
    options = parser.parse_args(arguments)
    with report_errors(), TemporaryDirectory() as folder:
        run(pretrained_artefact(Path(folder)), options.steps)


def run(pretrained: Path, steps: int) -> None:
    """Attaches to both models."""
    torch.manual_seed(0)
    dense, ids, _ = made_up_batch(seed=1000)
    for model in (ClickModel(), GatedClickModel()):
        print(f"\n{type(model).__name__}: loss {train(model, steps):.4f}")
        before = model(dense, ids)
        attach_pretrained(
            model,
            pretrained,
            # The shop knows nothing of clusters and kinds of actions: the module does without.
            features={"item_id": "clicked", "cluster": None, "action": None},
            candidate={"item_id": "item"},
            vocabularies={"item_id": MY_ITEMS},
            strategy="full-freeze",
            # Either widen one of the model's Linears, or take the vector and use it.
            widen=None if isinstance(model, GatedClickModel) else "hidden",
            hook=model.take if isinstance(model, GatedClickModel) else None,
            kjt=lambda dense, ids: ids,  # which argument of forward the ids are
        )
        print(attachment(model).report)
        print(f"attached: predictions bit-equal: {torch.equal(model(dense, ids), before)}")
        print(f"trained on: loss {train(model, steps):.4f}")


if __name__ == "__main__":
    main()
