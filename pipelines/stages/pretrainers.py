"""The modules that the pipelines pretrain, built for a log."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from pipelines.configuration.model_name import Module
from pipelines.configuration.settings import PinFMStage, Pretraining, PretrainUsers, Settings
from torchrec_gr.data.log_source import TRAIN
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.sequence_loader import SequenceLoader
from torchrec_gr.models.gpsd import GPSDConfig, GPSDPretrainer
from torchrec_gr.models.pinfm_config import PinFMConfig
from torchrec_gr.models.pinfm_pretrainer import PinFMLosses, PinFMPretrainer
from torchrec_gr.pretrained.attaching.encoders import POSITIVES
from torchrec_gr.schema.feature_schema import FeatureSchema, nearest_valid
from torchrec_gr.schema.raw_id_keys import raw_id_keys


@dataclasses.dataclass(frozen=True)
class Pretrainer:
    """A model of generative pretraining, what it reads and how it is trained.

    Args:
        model: gives a loss for a batch of sequences.
        loader: of the sequences.
        stage: how it is trained.
        config: the module's, as plain values.
    """

    model: nn.Module
    loader: SequenceLoader
    stage: Pretraining | PinFMStage
    config: Mapping[str, Any]


def build_pretrainer(
    module: Module, log: PreparedLog, settings: Settings, dim: int, seed: int, users: PretrainUsers
) -> Pretrainer:
    """Builds a pretrainer with the initial weights that the seed decides.

    Args:
        module: which.
        log: whose histories it reads.
        settings: sizes, losses and optimizers.
        dim: width of tables and transformer.
        seed: of initial weights, order and negatives.
        users: whose histories; see `Settings.pretrain_users`.

    Raises:
        ValueError: the log has no histories, or positives that it does not have.
    """
    torch.manual_seed(seed)
    of_loader: dict[str, Any] = {
        "seed": seed,
        "rank": dist.get_rank(),
        "world_size": dist.get_world_size(),
        "splits": readable_splits(log, users),
    }
    if module == "gpsd":
        gpsd = settings.pretrain
        loader = SequenceLoader(
            log, batch_size=gpsd.batch_size, num_negatives=gpsd.num_negatives, **of_loader
        )
        model: nn.Module = GPSDPretrainer(gpsd_config(settings, dim), log.schema, log.table_rows)
        return Pretrainer(model, loader, gpsd, module_config(module, log, settings, dim))
    stage = settings.pinfm
    loader = SequenceLoader(
        log,
        batch_size=stage.batch_size,
        num_negatives=0,
        cut=stage.sizes.cut,
        segment_length=stage.sizes.segment_length,
        **of_loader,
    )
    config, losses = pinfm_config(settings, log.schema, dim), pinfm_losses(settings, log)
    model = PinFMPretrainer(
        config,
        losses,
        log.schema,
        log.table_rows,
        _item_keys(log) if config.num_hashes else None,
    )
    return Pretrainer(model, loader, stage, module_config(module, log, settings, dim))


def module_config(module: Module, log: PreparedLog, settings: Settings, dim: int) -> dict[str, Any]:
    """A module's configuration at one width, as an artefact keeps it."""
    if module == "gpsd":
        return dataclasses.asdict(gpsd_config(settings, dim))
    positives = {name: list(rows) for name, rows in pinfm_losses(settings, log).positives.items()}
    return {**dataclasses.asdict(pinfm_config(settings, log.schema, dim)), POSITIVES: positives}


def pretraining_settings(module: Module, settings: Settings) -> dict[str, Any]:
    """All settings that a module's pretraining depends on: where equal, one serves two rankers."""
    own = (
        {"pretrain": settings.pretrain, "transformer": settings.transformer}
        if module == "gpsd"
        else {"pinfm": dataclasses.replace(settings.pinfm, tuning=Settings().pinfm.tuning)}
    )
    return {**own, "sharding": settings.sharding, "precision": settings.precision}


def gpsd_config(settings: Settings, dim: int) -> GPSDConfig:
    """The transformer's configuration at one width, alike in pretraining and ranking."""
    return GPSDConfig(
        dim=dim,
        num_layers=settings.transformer.num_layers,
        num_heads=settings.transformer.num_heads,
    )


def pinfm_config(settings: Settings, schema: FeatureSchema, dim: int) -> PinFMConfig:
    """The module's configuration at one width: it reads the longest sequence of either stage."""
    sizes = settings.pinfm.sizes
    return PinFMConfig(
        dim=sizes.dim or dim,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        trunk=sizes.trunk,
        max_positions=max(sizes.segment_length or 0, schema.max_history),
        num_hashes=sizes.num_hashes,
        hash_rows=sizes.hash_rows,
    )


def pinfm_losses(settings: Settings, log: PreparedLog) -> PinFMLosses:
    """The losses of pretraining, their positives as rows of the log's tables.

    Raises:
        ValueError: a history feature or a value that the log does not have.
    """
    losses = settings.pinfm.losses
    values = {field.name: getattr(losses, field.name) for field in dataclasses.fields(losses)}
    rows = {name: _rows_of(log, name, raw) for name, raw in losses.positives.items()}
    return PinFMLosses(**{**values, "positives": rows})


def _item_keys(log: PreparedLog) -> torch.Tensor:
    """[rows] int64: what a multi-hash table hashes for each row of the item's vocabulary."""
    assert log.schema.target is not None  # the loader has asked for it
    table = log.schema.feature(log.schema.target).table
    return torch.from_numpy(raw_id_keys(log.vocabularies[table].row_ids()))


def _rows_of(log: PreparedLog, name: str, raw: Any) -> tuple[int, ...]:
    """The rows of a history feature's raw values."""
    known = {feature.name: feature for feature in log.schema.of("history")}
    where = "setting pinfm.losses.positives"
    if name not in known:
        raise ValueError(nearest_valid(f"history feature in {where}", name, known))
    values = list(raw) if isinstance(raw, (list, tuple)) else [raw]
    vocabulary = log.vocabularies[known[name].table]
    rows = vocabulary.rows(np.array(values), known[name].column)
    missing = [value for value, row in zip(values, rows, strict=True) if row == 0]
    if missing or not values:
        shown = ", ".join(map(str, vocabulary.raw_ids[:10]))
        raise ValueError(
            f"{where}: {name} needs values that the training window has, got {missing or values}: "
            f"it has {vocabulary.num_rows - 1}, such as {shown}"
        )
    return tuple(int(row) for row in rows)


def readable_splits(log: PreparedLog, users: PretrainUsers) -> tuple[str, ...]:
    """The splits whose events pretraining may read.

    Events that are scored rows as well are read from the training window alone. Events that are
    never scored, such as all but the last item of each user in GPSD's protocol, may be read of all
    users.
    """
    return log.splits if users == "all" and not log.source.rows_are_events else (TRAIN,)
