r"""Plugs a pretrained sequence module into TorchRec's DLRM, sharded and half trained, on KuaiRand.

    python -m examples.attach_dlrm_kuairand --data-dir DIR
    python -m examples.attach_dlrm_kuairand --data-dir DIR --pretrained runs/pretrain

Without --pretrained, the module is pretrained for one epoch first.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from pipelines import pretrain
from pipelines.configuration.command_line import report_errors
from torchrec_gr import attach_pretrained, attachment
from torchrec_gr.data.datasets import load_dataset
from torchrec_gr.data.loader import RequestLoader
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.metrics import auc
from torchrec_gr.models.table_configs import embedding_bag_configs
from torchrec_gr.modules.impression_ranker import ImpressionRanker
from torchrec_gr.pretrained import load_pretrained
from torchrec_gr.sequences.request_batch import ImpressionBatch
from torchrec_gr.training.evaluation import Predictions, evaluate
from torchrec_gr.training.optimizer import (
    DenseOptimizer,
    Schedule,
    ScheduledOptimizer,
    TableOptimizer,
    build_optimizer,
)
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard

DIM = 16
TABLES, DENSE = TableOptimizer(lr=0.02), DenseOptimizer(lr=1e-3, weight_decay=0.0)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="KuaiRand-Pure's files")
    parser.add_argument("--pretrained", type=Path, help="an artefact, or a run that has one")
    parser.add_argument("--out", type=Path, default=Path("runs/attach"), help="for what is made")
    parser.add_argument("--steps", type=int, default=125, help="before attaching, and after")
    parser.add_argument("--test-batches", type=int, help="to score; default: all")
    options = parser.parse_args(arguments)
    with report_errors(), process_group("cpu") as device:
        run(options, device)


def run(options: argparse.Namespace, device: torch.device) -> None:
    """Trains, attaches, trains on; and beside it the same without the module."""
    pretrained = load_pretrained(options.pretrained or pretrained_run(options))
    work_dir = options.out / "data"
    log = prepare(load_dataset("kuairand-pure", options.data_dir, work_dir), work_dir)

    # A DLRM that works: sharded, trained for a while.
    model = sharded_dlrm(log, device)
    optimizer = build_optimizer(model, TABLES, DENSE, Schedule())
    train(model, optimizer, batches(log, first=0, steps=options.steps))
    before = score(model, log, options.test_batches)
    print(f"DLRM after {options.steps} steps: test AUC {auc_of(before):.4f}")

    # Plug the module in. This log calls its keys as the artefact does; where yours do not, say so:
    # features={"video_id": "my_history_key"}, vocabularies={"video_id": my_raw_ids}.
    history = pretrained.schema.of("history")
    model = attach_pretrained(
        model,
        pretrained,
        features={f.name: f.name for f in history},
        candidate={f.name: f.column for f in history if pretrained.schema.candidate_of(f.name)},
        vocabularies={f.table: log.vocabularies[f.table] for f in history},
        strategy="full-freeze",
    )
    print(attachment(model).report)
    attached = score(model, log, options.test_batches)
    same = np.array_equal(attached.logits, before.logits)
    print(f"attached: test AUC {auc_of(attached):.4f}, scores bit-equal: {same}")

    # Train on: the tables and their optimizer state are the same, the dense state is taken over.
    earlier, optimizer = optimizer, build_optimizer(model, TABLES, DENSE, Schedule())
    optimizer.take_over(earlier)
    train(model, optimizer, batches(log, first=options.steps, steps=options.steps))
    after = score(model, log, options.test_batches)
    print(f"{options.steps} steps later: test AUC {auc_of(after):.4f}")

    model = sharded_dlrm(log, device)
    optimizer = build_optimizer(model, TABLES, DENSE, Schedule())
    train(model, optimizer, batches(log, first=0, steps=2 * options.steps))
    without = score(model, log, options.test_batches)
    print(f"DLRM alone after as many: test AUC {auc_of(without):.4f}")


def pretrained_run(options: argparse.Namespace) -> Path:
    """Pretrains a small module."""
    run_dir = options.out / "pretrain"
    config = options.out / "pretrain.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("{pretrain: {epochs: 1}, transformer: {num_layers: 2, num_heads: 2}}")
    what = ["--data", "kuairand-pure", "--data-dir", str(options.data_dir)]
    pretrain.main([*what, "--config", str(config), "--out", str(run_dir)])
    return run_dir


def sharded_dlrm(log: PreparedLog, device: torch.device) -> DistributedModelParallel:
    """TorchRec's own."""
    torch.manual_seed(0)
    tables = embedding_bag_configs(log.schema, log.table_rows, DIM, init_std=0.01)
    dlrm = DLRM(
        EmbeddingBagCollection(tables=tables),
        dense_in_features=1 + len(log.dense_names),
        dense_arch_layer_sizes=[64, DIM],
        over_arch_layer_sizes=[256, 128, 1],
    )
    return shard(ImpressionRanker(dlrm), device=device, table_optimizer=TABLES)


def batches(log: PreparedLog, *, first: int, steps: int) -> Iterator[ImpressionBatch]:
    """Steps of the training rows, epoch after epoch."""
    loader = RequestLoader(log, "train", batch_size=512, view="impressions", seed=0)
    epoch, step = divmod(first, loader.num_steps)
    while steps > 0:
        loader.seek(epoch, step)
        yield from itertools.islice(loader, steps)
        steps -= loader.num_steps - step
        epoch, step = epoch + 1, 0


def train(
    model: DistributedModelParallel,
    optimizer: ScheduledOptimizer,
    data: Iterator[ImpressionBatch],
) -> None:
    """Trains in TorchRec's pipeline."""
    pipeline = TrainPipelineSparseDist(model, optimizer, model.device)
    with contextlib.suppress(StopIteration):
        while True:
            pipeline.progress(data)
    pipeline.detach()


def score(model: DistributedModelParallel, log: PreparedLog, num: int | None) -> Predictions:
    """Scores test rows."""
    loader = RequestLoader(log, "test", batch_size=4096, view="impressions")
    return evaluate(model, itertools.islice(loader, num), model.device)


def auc_of(predictions: Predictions) -> float:
    """Of the label."""
    return auc(predictions.labels[:, 0], predictions.logits[:, 0])


if __name__ == "__main__":
    main()
