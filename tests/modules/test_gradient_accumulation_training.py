"""Steps of training in pieces: two processes average once, tables are updated once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.parallel import DistributedDataParallel

from tests.modules.accumulation_cases import Batch, Sequences, loss_body, whole_batch
from tests.training.toy import ToyLog, sharded, toy_model, whole
from torchrec_gr.modules.gradient_accumulation import accumulate
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.training.process_group import process_group


class _InPieces(nn.Module):
    """A model whose forward takes its rows in pieces."""

    def __init__(self, num_rows: list[int]) -> None:
        super().__init__()
        self.sequences = Sequences(float64=True)
        self.num_rows = num_rows

    def forward(self, batch: Batch) -> Tensor:
        body = loss_body(self.sequences)
        return accumulate(body, batch.pieces(self.num_rows), self.sequences.parameters())[0]


def _train_under_ddp(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    batch = Batch(float64=True)
    values, batch.lengths, batch.labels = batch.pieces([4, 5])[rank]
    batch.values = values.detach().requires_grad_()
    model = DistributedDataParallel(_InPieces([3, 1] if rank == 0 else [0, 5]))
    for _ in range(2):  # a step after a step
        model.zero_grad()
        batch.values.grad = None
        model(batch).backward()
    names = {name: p.grad for name, p in model.module.sequences.named_parameters()}
    torch.save({**names, "values": batch.values.grad}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_average_once(tmp_path: Path) -> None:
    multiprocessing.spawn(_train_under_ddp, args=(tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    model, batch = Sequences(float64=True), Batch(float64=True)
    whole_batch(model, batch)[0].backward()
    assert model.unused.grad is None
    model.unused.grad = torch.zeros(3, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        for rank in ranks:
            if parameter.grad is None:
                assert rank[name] is None
            else:
                torch.testing.assert_close(2 * rank[name], parameter.grad)
    torch.testing.assert_close(torch.cat([rank["values"] for rank in ranks]), batch.values.grad)


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    """A process group of this process alone."""
    with process_group("cpu"):
        yield


class _RankerBody(nn.Module):
    """The toy ranker's loss over each request's mean history item and its candidates."""

    def __init__(self, num_pieces: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(16, 16)
        self.head = nn.Linear(16, 1)
        self.num_pieces = num_pieces

    def forward(self, embeddings: Any, batch: RequestBatch) -> Tensor:
        rows = embeddings["cand"].values()
        history = embeddings["hist"].values().mean(dim=0).expand_as(rows)
        assert batch.labels is not None
        inputs = (rows, history, batch.labels)
        if self.num_pieces == 0:
            return self.loss(inputs, 0)[0] / len(rows)
        pieces = list(zip(*(x.tensor_split(self.num_pieces) for x in inputs), strict=True))
        return accumulate(self.loss, pieces, self.parameters())[0] / len(rows)

    def loss(self, piece: tuple[Tensor, ...], number: int) -> tuple[Tensor, Tensor]:
        rows, history, labels = piece
        logits = self.head(self.hidden(torch.cat([rows, history], dim=1)).tanh())
        return binary_cross_entropy_with_logits(logits, labels, reduction="sum"), logits


def _trained_ranker(num_pieces: int, optimizer: str) -> tuple[dict[str, Tensor], list[Tensor]]:
    model = toy_model("requests")
    model.body = _RankerBody(num_pieces)
    ranker, optimizers = sharded(model, optimizer=optimizer)
    first = {name: whole(value).clone() for name, value in ranker.state_dict().items()}
    log, losses = ToyLog(), []
    for step in range(3):
        optimizers.set_step(step + 2)
        optimizers.zero_grad()
        loss = ranker(log.requests(range(7 * step, 7 * step + 7)))
        loss.backward()
        optimizers.step()
        losses.append(loss.detach())
    trained = {name: whole(value) for name, value in ranker.state_dict().items()}
    moved = [name for name, value in trained.items() if not torch.equal(value, first[name])]
    assert "embeddings.embeddings.item.weight" in moved
    return trained, losses


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "adamw"])
def test_a_table_makes_one_step_a_step(optimizer: str) -> None:
    """Adagrad's row would move further in two half steps than in one: it divides by the root."""
    expected = _trained_ranker(0, optimizer)
    torch.testing.assert_close(_trained_ranker(4, optimizer), expected, rtol=1e-4, atol=1e-6)
