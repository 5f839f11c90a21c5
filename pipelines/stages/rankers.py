"""The rankers that the pipelines know by name, built for a log and given their first weights."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from pipelines.configuration.model_name import ModelName
from pipelines.configuration.settings import (
    HSTUStage,
    LongerStage,
    MTGRStage,
    Ranking,
    Settings,
    WindowStage,
)
from pipelines.stages.attaching import attach_module
from pipelines.stages.pretrainers import gpsd_config
from pipelines.stages.reading import Reading, RowReading, WindowReading
from pipelines.stages.transferring import FirstWeights, Transferred, bring_in
from torchrec_gr.data.known_before import HistoryAsOf
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.data.user_windows import sequence_features
from torchrec_gr.models.din import build_din, history_pairs
from torchrec_gr.models.dlrm import Interaction, build_dlrm
from torchrec_gr.models.gpsd import GPSDRanker
from torchrec_gr.models.hstu_ranker import HSTURanker
from torchrec_gr.models.hstu_ranker_config import HSTURankerConfig
from torchrec_gr.models.longer import LongerConfig, LongerRanker
from torchrec_gr.models.mtgr import MTGRRanker
from torchrec_gr.models.mtgr_config import MTGRConfig
from torchrec_gr.models.table_configs import embedding_bag_configs
from torchrec_gr.models.wukong import build_wukong
from torchrec_gr.modules.impression_ranker import ImpressionRanker
from torchrec_gr.schema.feature_schema import FeatureSchema


@dataclasses.dataclass(frozen=True)
class Ranker:
    """A ranker, what it reads, how it is trained, and what of it came from earlier weights."""

    module: nn.Module
    reading: Reading
    stage: Ranking | WindowStage
    moved: Transferred


RankerBuilder = Callable[[ModelName, PreparedLog, Settings, int, int, FirstWeights], Ranker]
"""What is called like `build_ranker`."""


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
    if name.ranker == "hstu":
        config = hstu_ranker_config(settings.hstu, log.schema, settings.history_as_of)
        hstu = HSTURanker(config, log.schema, log.table_rows, dim)
        moved = bring_in(hstu, first, log.vocabularies)
        return Ranker(hstu, WindowReading(settings.hstu), settings.hstu, moved)
    if name.ranker == "longer":
        sizes = longer_config(settings.longer, log.schema)
        longer = LongerRanker(sizes, log.schema, log.table_rows, dim)
        reading = RowReading("requests", settings.longer.batch_size)
        moved = bring_in(longer, first, log.vocabularies)
        return Ranker(longer, reading, settings.longer, moved)
    model = impression_model(name.ranker, log, settings, dim)
    if name.module is not None:
        module, moved = attach_module(model, name.module, log, settings, dim, first)
    else:
        module = ImpressionRanker(model)
        moved = bring_in(module, first, log.vocabularies)
    reading = RowReading("impressions", settings.dlrm.batch_size)
    return Ranker(module, reading, settings.dlrm, moved)


def mtgr_config(stage: MTGRStage, schema: FeatureSchema) -> MTGRConfig:
    """The sizes and forms of a stage's model, with room for the longest row that it may read."""
    longest = max(stage.sizes.max_seq_len, _longest_row(stage, schema, 1))
    sizes = dataclasses.replace(stage.sizes, max_seq_len=longest)
    if stage.preset is None:
        return sizes
    paper = MTGRConfig.preset(stage.preset)
    return dataclasses.replace(
        sizes, dim=paper.dim, num_layers=paper.num_layers, num_heads=paper.num_heads
    )


def hstu_ranker_config(
    stage: HSTUStage, schema: FeatureSchema, history_as_of: HistoryAsOf
) -> HSTURankerConfig:
    """The sizes and forms of a stage's model, with room for the longest row that it may read.

    Raises:
        ValueError: candidates of a moment that see each other, and moments that are not requests.
    """
    sizes = stage.sizes
    if sizes.set_wise and history_as_of != "exposure":
        raise ValueError(
            f"hstu.sizes.set_wise needs history_as_of 'exposure', got {history_as_of!r}: the "
            "candidates of a moment would come from many requests, and see later ones"
        )
    longest = max(sizes.trunk.max_seq_len, _longest_row(stage, schema, sizes.tokens_per_event))
    return dataclasses.replace(sizes, trunk=dataclasses.replace(sizes.trunk, max_seq_len=longest))


def longer_config(stage: LongerStage, schema: FeatureSchema) -> LongerConfig:
    """The sizes of a stage's model, with room for the longest row that it may read."""
    sizes = stage.sizes
    needed = sizes.max_seq_len(len(sequence_features(schema)), schema.max_history)
    longest = max(sizes.trunk.max_seq_len, needed)
    return dataclasses.replace(sizes, trunk=dataclasses.replace(sizes.trunk, max_seq_len=longest))


def _longest_row(stage: WindowStage, schema: FeatureSchema, tokens_per_event: int) -> int:
    """Tokens of the longest row that a stage may read."""
    num_events = schema.max_history + stage.max_candidates
    num_user = len(sequence_features(schema))
    return num_user + tokens_per_event * num_events + stage.max_candidates


def impression_model(
    name: str, log: PreparedLog, settings: Settings, dim: int, *, num_further: int = 0
) -> nn.Module:
    """Builds a module of (dense_features, sparse_features) that gives logits.

    Args:
        name: of the ranker: "dlrm", "dlrm_dcn", "din", "wukong" or `package.module:build`.
        log: whose features it reads.
        settings: its sizes.
        dim: width of the tables.
        num_further: dense features behind those of the log's impressions.

    Raises:
        ValueError: a function that cannot be imported, or a DIN without a history to compare.
    """
    tables = embedding_bag_configs(log.schema, log.table_rows, dim, init_std=settings.dlrm_init_std)
    num_dense = 1 + len(log.dense_names) + num_further
    if ":" in name:
        return _import(name)(tables, num_dense)
    num_tasks = len(log.schema.labels)
    if name == "wukong":
        return build_wukong(tables, num_dense, settings.wukong_sizes, num_tasks=num_tasks)
    if name == "din":
        pairs = history_pairs(log.schema)
        alone = [f.name for f in log.schema.of("history") if f.name not in pairs]
        return build_din(
            tables, num_dense, pairs, settings.din_sizes, history=alone, num_tasks=num_tasks
        )
    interaction: Interaction = "dcn" if name == "dlrm_dcn" else "dot"
    sizes = dataclasses.replace(settings.dlrm_sizes, interaction=interaction)
    return build_dlrm(tables, num_dense, sizes, num_tasks=num_tasks)


def _import(name: str) -> Callable[[list[EmbeddingBagConfig], int], nn.Module]:
    module_name, _, function = name.partition(":")
    try:
        build: Callable[..., nn.Module] = getattr(importlib.import_module(module_name), function)
        return build
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import {name!r} ({error}): expected package.module:build, importable from here"
        ) from error
