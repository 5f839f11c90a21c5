r"""LUM's three steps: a model of the users, their answers cached, DLRM with and without them.

    python -m pipelines.lum --data kuairand-pure --data-dir DIR --out runs/lum

Step 1 learns which item a user takes under a condition, such as a tag. Step 2 asks every user under
the most frequent conditions, at the beginning of each day, from the events before it alone. Step 3
trains DLRM twice from one seed, alone and with the answers as features. The conditions and all
sizes are under `lum` in the file of --config. Stopped and started again with the same --out, it
goes on where it was.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import torch
import torch.distributed as dist

from pipelines.configuration.command_line import parse, report_errors
from pipelines.configuration.model_name import ModelName
from pipelines.configuration.settings import Settings
from pipelines.finetune import EpochResult, finetune
from pipelines.results.rows import write_atomically
from pipelines.stages.lum_cache import LUMCache, ask, frequent_conditions, load_cache, save_cache
from pipelines.stages.lum_moments import UserMoments, row_entries, user_moments
from pipelines.stages.open_log import open_log
from pipelines.stages.pretrainers import readable_splits
from pipelines.stages.rankers import Ranker, RankerBuilder, build_ranker, impression_model
from pipelines.stages.reading import RowReading
from pipelines.stages.run_folder import describe_run
from pipelines.stages.transferring import FirstWeights, bring_in, move_weights, open_weights
from torchrec_gr.data.log_source import TEST
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.sequence_loader import SequenceLoader
from torchrec_gr.data.step_loader import fingerprint
from torchrec_gr.models.lum import LUMPretrainer
from torchrec_gr.models.lum_config import LUMConfig
from torchrec_gr.models.lum_features import LUMFeatures, LUMRanker
from torchrec_gr.pretrained.serving.tensor_digest import tensor_digest
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.training.checkpoint import latest_checkpoint
from torchrec_gr.training.optimizer import Schedule, build_optimizer
from torchrec_gr.training.process_group import process_group
from torchrec_gr.training.sharding import shard
from torchrec_gr.training.together import on_first
from torchrec_gr.training.trainer import Trainer

VANILLA, WITH_LUM = "dlrm", "dlrm-with-lum"
AUCS = "auc.json"


def run_lum(
    log: PreparedLog, settings: Settings, out: Path, *, seed: int, device: torch.device
) -> dict[str, list[dict[str, float]]]:
    """All three steps, or what of them is left in `out`.

    Args:
        log: the histories and impressions.
        settings: of LUM, and of DLRM and its training.
        out: for runs and cache.
        seed: of initial weights, order and negatives, for LUM and both rankers.
        device: where to train.

    Returns:
        Of `VANILLA` and of `WITH_LUM` the AUC of each split that is not trained on, by epoch.

    Raises:
        ValueError: what the steps refuse.
    """
    config = lum_config(settings, log.schema)
    moments = user_moments(log)
    entries = torch.from_numpy(row_entries(log, settings.history_as_of, moments))
    learn(log, settings, config, out / "lum", seed, device)
    cache = cached_answers(log, settings, config, moments, out)
    builders: dict[str, RankerBuilder] = {
        VANILLA: build_ranker,
        WITH_LUM: functools.partial(build_lum_ranker, cache, entries),
    }
    return {
        name: _rank(log, settings, out / name, build, seed, device)
        for name, build in builders.items()
    }


def lum_config(settings: Settings, schema: FeatureSchema) -> LUMConfig:
    """The configuration of step 1, with room for the longest row.

    Raises:
        ValueError: neither the settings name a condition nor has the schema a side target.
    """
    stage = settings.lum
    conditions = stage.conditions or tuple(filter(None, [schema.side_target]))
    if not conditions:
        raise ValueError(
            f"log {schema.name!r} has no side target to be LUM's condition: set lum.conditions to "
            f"history features, of {', '.join(f.name for f in schema.of('history'))}"
        )
    longest = max(stage.trunk.max_seq_len, 2 * (schema.max_history + 1))
    trunk = dataclasses.replace(stage.trunk, max_seq_len=longest)
    return LUMConfig(conditions=conditions, trunk=trunk)


def learn(
    log: PreparedLog,
    settings: Settings,
    config: LUMConfig,
    run_dir: Path,
    seed: int,
    device: torch.device,
) -> None:
    """Step 1, or what of it is left in `run_dir`."""
    stage = settings.lum.training
    torch.manual_seed(seed)
    model = LUMPretrainer(config, log.schema, log.table_rows)
    loader = SequenceLoader(
        log,
        batch_size=stage.batch_size,
        num_negatives=stage.num_negatives,
        seed=seed,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        splits=readable_splits(log, settings.pretrain_users[0]),
        segment_length=log.schema.max_history + 1,
    )
    sharded = shard(model, device=device, table_optimizer=stage.tables, sharding=settings.sharding)
    schedule = Schedule(stage.warmup_steps, loader.num_steps * stage.epochs)
    trainer = Trainer(
        sharded,
        build_optimizer(sharded, stage.tables, stage.dense, schedule),
        loader,
        run_dir=run_dir,
        checkpoint_steps=settings.checkpoint_steps,
        bf16=settings.precision == "bf16",
        name="lum",
    )
    if dist.get_rank() == 0:
        describe_run(run_dir, log, {"settings": settings, "config": config, "seed": seed})
    trainer.resume()
    while trainer.progress.epoch < stage.epochs:
        progress = trainer.train_epoch()
        if dist.get_rank() == 0:
            print(
                f"lum: epoch {progress.epoch + 1} of {stage.epochs}, "
                f"loss {progress.mean_loss:.4f}, {progress.seconds:.0f} s",
                flush=True,
            )


def cached_answers(
    log: PreparedLog, settings: Settings, config: LUMConfig, moments: UserMoments, out: Path
) -> LUMCache:
    """Step 2: the first process asks, unless the answers are in `out / "cache"`; all read them."""
    model = LUMPretrainer(config, log.schema, log.table_rows)
    move_weights(model, open_weights(out / "lum"), "full", log.vocabularies)
    splits = readable_splits(log, settings.pretrain_users[0])
    conditions = frequent_conditions(log, config.conditions, settings.lum.num_queries, splits)
    folder, checkpoint = out / "cache", latest_checkpoint(out / "lum")
    assert checkpoint is not None  # its weights were read
    origin = {
        "log": fingerprint(log),
        "run": checkpoint.name,
        "weights": tensor_digest({}, sorted(model.state_dict().items())),
        "conditions": {"features": list(config.conditions), "rows": conditions.tolist()},
    }

    def ask_and_save() -> None:
        if not folder.is_dir():
            save_cache(ask(log, model, conditions, moments), folder, origin)
            asked = f"asked {len(moments.users):,} times under {len(conditions)} conditions"
            print(f"{asked}: {folder}", flush=True)

    on_first(ask_and_save, "the answers could not be cached", ValueError)
    return load_cache(folder, origin)


def build_lum_ranker(
    cache: LUMCache,
    entries: torch.Tensor,
    name: ModelName,
    log: PreparedLog,
    settings: Settings,
    dim: int,
    seed: int,
    first: FirstWeights,
) -> Ranker:
    """Step 3: as `build_ranker`, with a ranker that reads LUM's features beside the log's.

    Args:
        cache: the answers.
        entries: [R] int64, of each row of the log the answers that it may read.
        name, log, settings, dim, seed, first: as `build_ranker`.

    Raises:
        ValueError: no candidate feature is the item.
    """
    if log.schema.item is None:
        raise ValueError(
            f"log {log.schema.name!r}: no candidate feature shares the table of the target "
            f"{log.schema.target!r}, so answers cannot be compared with a candidate"
        )
    torch.manual_seed(seed)
    num_further = cache.answers.shape[1] + settings.lum.summary_dim
    model = impression_model(name.ranker, log, settings, dim, num_further=num_further)
    features = LUMFeatures(
        cache.answers, cache.items, entries, log.schema.item.name, settings.lum.summary_dim
    )
    ranker = LUMRanker(model, features)
    reading = RowReading("impressions", settings.dlrm.batch_size)
    return Ranker(ranker, reading, settings.dlrm, bring_in(ranker, first, log.vocabularies))


def _rank(
    log: PreparedLog,
    settings: Settings,
    run_dir: Path,
    build: RankerBuilder,
    seed: int,
    device: torch.device,
) -> list[dict[str, float]]:
    """Trains a DLRM and gives its AUC of each split, by epoch."""
    path = run_dir / AUCS
    measured: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []

    def keep(result: EpochResult) -> None:
        aucs = {split: metrics.auc for split, metrics in result.metrics.items()}
        measured[result.epoch - 1 :] = [aucs]
        if dist.get_rank() == 0:
            write_atomically(path, json.dumps(measured).encode())
            shown = ", ".join(f"{split} AUC {auc:.4f}" for split, auc in aucs.items())
            print(f"{run_dir.name}: epoch {result.epoch}, {shown}", flush=True)

    finetune(
        log,
        settings,
        run_dir,
        model="dlrm",
        strategy="none",
        dim=settings.dims[0],
        seed=seed,
        device=device,
        build=build,
        on_epoch=keep,
    )
    return measured


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options, settings = parse("lum", __doc__, arguments)
    with report_errors(), process_group(settings.device) as device:
        log = open_log(settings, options.out / "data")
        aucs = run_lum(log, settings, options.out, seed=options.seed, device=device)
        if dist.get_rank() == 0:
            for name, by_epoch in aucs.items():
                shown = ", ".join(f"{epoch[TEST]:.4f}" for epoch in by_epoch)
                print(f"{name}: test AUC by epoch {shown}")


if __name__ == "__main__":
    main()
