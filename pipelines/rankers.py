"""The rankers that the pipelines know by name, built for a log."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from pipelines.settings import Ranking, Settings
from torchrec_gr.data.loader import View
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.models.dlrm import Interaction, build_dlrm
from torchrec_gr.models.gpsd import GPSDConfig, GPSDRanker
from torchrec_gr.models.table_configs import embedding_bag_configs
from torchrec_gr.modules.impression_ranker import ImpressionRanker
from torchrec_gr.schema.feature_schema import nearest_valid

RANKERS = ("dlrm", "dlrm_dcn", "gpsd")


@dataclasses.dataclass(frozen=True)
class Ranker:
    """A ranker, what it reads and how it is trained."""

    module: nn.Module
    view: View
    stage: Ranking


def build_ranker(name: str, log: PreparedLog, settings: Settings, dim: int, seed: int) -> Ranker:
    """Builds a ranker with the initial weights that the seed decides.

    Args:
        name: one of RANKERS, or `package.module:build` of the user's own. `build(tables,
            num_dense)` gets a list of `EmbeddingBagConfig` and the number of dense features, and
            returns a module of (dense_features [C, num_dense], sparse_features) that gives logits
            [C] or [C, 1].
        log: whose features it reads.
        settings: sizes and optimizers.
        dim: width of the tables, and of the transformer.
        seed: of the initial weights.

    Raises:
        ValueError: an unknown name, or a module or function that cannot be imported.
    """
    require_known(name)
    torch.manual_seed(seed)
    if name == "gpsd":
        gpsd = GPSDRanker(gpsd_config(settings, dim), log.schema, log.table_rows)
        return Ranker(gpsd, "requests", settings.gpsd)
    tables = embedding_bag_configs(log.schema, log.table_rows, dim, init_std=settings.dlrm_init_std)
    num_dense = 1 + len(log.dense_names)
    if ":" in name:
        model = _import(name)(tables, num_dense)
    else:
        interaction: Interaction = "dcn" if name == "dlrm_dcn" else "dot"
        sizes = dataclasses.replace(settings.dlrm_sizes, interaction=interaction)
        model = build_dlrm(tables, num_dense, sizes, num_tasks=len(log.schema.labels))
    return Ranker(ImpressionRanker(model), "impressions", settings.dlrm)


def require_known(name: str) -> None:
    """Refuses a name that is neither one of RANKERS nor a `package.module:build`.

    Raises:
        ValueError: names the nearest valid one.
    """
    if ":" not in name and name not in RANKERS:
        raise ValueError(nearest_valid("model", name, RANKERS))


def gpsd_config(settings: Settings, dim: int) -> GPSDConfig:
    """The transformer's configuration at one width, alike in pretraining and ranking."""
    return GPSDConfig(
        dim=dim,
        num_layers=settings.transformer.num_layers,
        num_heads=settings.transformer.num_heads,
    )


def _import(name: str) -> Callable[[list[EmbeddingBagConfig], int], nn.Module]:
    module_name, _, function = name.partition(":")
    try:
        build: Callable[..., nn.Module] = getattr(importlib.import_module(module_name), function)
        return build
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"cannot import {name!r} ({error}): expected package.module:build, importable from here"
        ) from error
