"""Training steps of an MTGR under TorchRec, and its scores, for the MTGR benchmark."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.models.mtgr_windows import SCHEMA, TABLE_DIM, TABLE_ROWS
from torchrec_gr.models.mtgr import MTGRRanker
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.modules.step_output import StepOutput
from torchrec_gr.sequences.request_batch import RequestBatch
from torchrec_gr.training.optimizer import DenseOptimizer, Schedule, TableOptimizer, build_optimizer
from torchrec_gr.training.sharding import shard

_TABLES = TableOptimizer("rowwise_adagrad", lr=0.01)


def build_model(config: MTGRConfig) -> MTGRRanker:
    """The same weights for the same configuration, wherever it is called."""
    torch.manual_seed(0)
    return MTGRRanker(config, SCHEMA, TABLE_ROWS, TABLE_DIM)


class Training:
    """A model sharded over the process group: row-wise Adagrad fused into its tables, AdamW."""

    def __init__(self, config: MTGRConfig) -> None:
        device = torch.device("cpu")
        self.model = shard(build_model(config), device=device, table_optimizer=_TABLES)
        self.optimizer = build_optimizer(self.model, _TABLES, DenseOptimizer(), Schedule())

    def step(self, batch: RequestBatch) -> None:
        """Forward, backward and update."""
        self.optimizer.zero_grad()
        loss, _ = self.model(batch)
        loss.backward()
        self.optimizer.step()

    def scores(self, batch: RequestBatch) -> tuple[Tensor, StepOutput]:
        """The loss and the step's output, as a step would find them; nothing is trained."""
        with torch.no_grad():
            loss, output = self.model(batch)
        return loss, output
