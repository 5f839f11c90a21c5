"""The rankers that the pipelines know by name, built for a log and given their first weights."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from pipelines.attaching import attach_module
from pipelines.model_name import ModelName
from pipelines.pretrainers import gpsd_config
from pipelines.reading import Reading, RowReading, WindowReading
from pipelines.settings import MTGRStage, Ranking, Settings
from pipelines.transferring import FirstWeights, Transferred, bring_in
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.user_windows import sequence_features
from torchrec_gr.models.dlrm import Interaction, build_dlrm
from torchrec_gr.models.gpsd import GPSDRanker
from torchrec_gr.models.mtgr import MTGRRanker
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.models.table_configs import embedding_bag_configs
from torchrec_gr.modules.impression_ranker import ImpressionRanker
from torchrec_gr.schema.feature_schema import FeatureSchema


@dataclasses.dataclass(frozen=True)
class Ranker:
    """A ranker, what it reads, how it is trained, and what of it came from earlier weights."""

    module: nn.Module
    reading: Reading
    stage: Ranking | MTGRStage
    moved: Transferred


def build_ranker(
    name: ModelName,
    log: PreparedLog,
    settings: Settings,
    dim: int,
    seed: int,
    first: FirstWeights,
) -> Ranker:
    """Builds a ranker with the initial weights that the seed decides, and brings earlier ones in.

    Args:
        name: of the ranker and the module in it. A user's own `package.module:build(tables,
            num_dense)` gets a list of `EmbeddingBagConfig` and the number of dense features, and
            returns a module of (dense_features [C, num_dense], sparse_features) that gives logits
            [C] or [C, 1].
        log: whose features it reads.
        settings: sizes and optimizers, of the variant.
        dim: width of the tables, and of GPSD's transformer.
        seed: of the initial weights.
        first: where earlier weights are, and how they come in.

    Raises:
        ValueError: a module or function that cannot be imported, or weights that do not fit.
    """
    torch.manual_seed(seed)
    if name.ranker == "gpsd":
        gpsd = GPSDRanker(gpsd_config(settings, dim), log.schema, log.table_rows)
        reading = RowReading("requests", settings.gpsd.batch_size)
        return Ranker(gpsd, reading, settings.gpsd, bring_in(gpsd, first, log.vocabularies))
    if name.ranker == "mtgr":
        mtgr = MTGRRanker(mtgr_config(settings.mtgr, log.schema), log.schema, log.table_rows, dim)
        moved = bring_in(mtgr, first, log.vocabularies)
        return Ranker(mtgr, WindowReading(settings.mtgr), settings.mtgr, moved)
    model = _impression_model(name.ranker, log, settings, dim)
    if name.module is not None:
        module, moved = attach_module(model, name.module, log, settings, dim, first)
    else:
        module = ImpressionRanker(model)
        moved = bring_in(module, first, log.vocabularies)
    reading = RowReading("impressions", settings.dlrm.batch_size)
    return Ranker(module, reading, settings.dlrm, moved)


def mtgr_config(stage: MTGRStage, schema: FeatureSchema) -> MTGRConfig:
    """The sizes and forms of a stage's model, with room for the longest row that it may read."""
    num_events = schema.max_history + stage.max_candidates
    longest = len(sequence_features(schema)) + num_events + stage.max_candidates
    sizes = dataclasses.replace(stage.sizes, max_seq_len=max(stage.sizes.max_seq_len, longest))
    if stage.preset is None:
        return sizes
    paper = MTGRConfig.preset(stage.preset)
    return dataclasses.replace(
        sizes, dim=paper.dim, num_layers=paper.num_layers, num_heads=paper.num_heads
    )


def _impression_model(name: str, log: PreparedLog, settings: Settings, dim: int) -> nn.Module:
    tables = embedding_bag_configs(log.schema, log.table_rows, dim, init_std=settings.dlrm_init_std)
    num_dense = 1 + len(log.dense_names)
    if ":" in name:
        return _import(name)(tables, num_dense)
    interaction: Interaction = "dcn" if name == "dlrm_dcn" else "dot"
    sizes = dataclasses.replace(settings.dlrm_sizes, interaction=interaction)
    return build_dlrm(tables, num_dense, sizes, num_tasks=len(log.schema.labels))


def _import(name: str) -> Callable[[list[EmbeddingBagConfig], int], nn.Module]:
    module_name, _, function = name.partition(":")
    try:
        build: Callable[..., nn.Module] = getattr(importlib.import_module(module_name), function)
        return build
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import {name!r} ({error}): expected package.module:build, importable from here"
        ) from error
