"""The recommenders of the next item that the pipelines know by name."""

from __future__ import annotations

import dataclasses
from typing import cast, get_args

import numpy as np
import torch
from torch import nn

from pipelines.recommending.settings import NextItemSettings
from torchrec_gr.data.prepared_log import PreparedLog
from torchrec_gr.models.hstu import HSTURecommender
from torchrec_gr.models.hstu_config import HSTUConfig, PublishedModel
from torchrec_gr.models.pinrec import PinRecRecommender
from torchrec_gr.models.pinrec_config import PinRecConfig
from torchrec_gr.schema.feature_schema import FeatureSchema, nearest_valid

PINREC = "pinrec"
MODELS: tuple[str, ...] = (*get_args(PublishedModel), PINREC)


def hstu_config(settings: NextItemSettings, schema: FeatureSchema) -> HSTUConfig:
    """The configuration of a run; a bias over time is left out where the log knows only an order.

    Raises:
        ValueError: a model that is not known.
    """
    if settings.model not in MODELS:
        raise ValueError(nearest_valid("model", settings.model, MODELS))
    config = settings.sizes
    if config is None:
        model = "hstu" if settings.model == PINREC else settings.model
        config = HSTUConfig.published(cast(PublishedModel, model), settings.published)
    if config.trunk.bias == "position_time" and schema.time_unit == "order":
        trunk = dataclasses.replace(config.trunk, bias="position")
        config = dataclasses.replace(config, trunk=trunk)
    return config


def build_recommender(settings: NextItemSettings, log: PreparedLog, seed: int) -> nn.Module:
    """Builds a recommender with the initial weights that the seed decides.

    Raises:
        ValueError: a model that is not known, or a log without a target.
    """
    config = hstu_config(settings, log.schema)
    torch.manual_seed(seed)
    if settings.model == PINREC:
        return PinRecRecommender(pinrec_config(settings, log), log.schema, log.table_rows)
    return HSTURecommender(config, log.schema, log.table_rows)


def pinrec_config(settings: NextItemSettings, log: PreparedLog) -> PinRecConfig:
    """The configuration of a PinRec of HSTU's sizes.

    Raises:
        ValueError: the log has no such feature, or the feature no such value.
    """
    sizes, told = hstu_config(settings, log.schema), settings.pinrec
    actions = log.schema.feature(told.action)
    vocabulary = log.vocabularies[actions.table]
    desired = int(vocabulary.rows(np.array([told.desired]), actions.column)[0])
    if desired == 0:
        known = ", ".join(map(str, vocabulary.raw_ids[:10]))
        raise ValueError(
            f"pinrec.desired: {told.action} is never {told.desired!r} in the training window: it "
            f"has {known}"
        )
    return PinRecConfig(
        action=told.action,
        desired=desired,
        trunk=sizes.trunk,
        max_history=sizes.max_history,
        window=told.window,
        temperature=sizes.temperature,
        input_dropout=sizes.input_dropout,
        init_std=sizes.init_std,
    )
