"""From what an artefact says of its module to the module, without weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from torch import nn

from torchrec_gr.embeddings.multi_hash_config import MultiHashEmbeddingConfig
from torchrec_gr.models.gpsd import GPSDConfig, GPSDEncoder
from torchrec_gr.models.pinfm import PinFMEncoder
from torchrec_gr.models.pinfm_config import PinFMConfig, PinFMFusion
from torchrec_gr.models.pinfm_pretrainer import item_table
from torchrec_gr.pretrained.tuning.pinfm_tuning import PinFMTuning
from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.schema.vocabulary import Vocabulary

POSITIVES = "positives"
"""In a PinFM module's config: by history feature, the rows that make an event positive."""

_OF_FUSION = frozenset({"no_history", "token", "content"})
"""Parts of a PinFMEncoder that pretraining does not train."""


class Description(Protocol):
    """What a module is built from: an artefact, or an `UntrainedModule`."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def module(self) -> str:
        """Its kind."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the module, as plain values."""

    @property
    def schema(self) -> FeatureSchema:
        """Of the log."""

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        """Of its static tables."""


@dataclasses.dataclass(frozen=True)
class SequenceModule:
    """A sequence module without weights, and where an artefact has them.

    Args:
        encoder: see `ImpressionBody`.
        dim: D of its tables.
        init_std: of fresh rows of its tables.
        max_history: the newest events that it reads.
        dense: the artefact's name of each of the encoder's parameters and buffers that are loaded.
        item: the history feature that must come first; None: their order does not matter.
        item_table: makes the configuration of the item's table of its name and keys, where it is a
            multi-hash one.
        tuning: how a PinFM module is read and trained; None of other kinds.
    """

    encoder: nn.Module
    dim: int
    init_std: float
    max_history: int
    dense: Mapping[str, str]
    item: str | None = None
    item_table: Callable[[str, list[str]], MultiHashEmbeddingConfig] | None = None
    tuning: PinFMTuning | None = None

    @property
    def new(self) -> list[str]:
        """The encoder's parameters that no artefact has."""
        return [name for name, _ in self.encoder.named_parameters() if name not in self.dense]


def sequence_module(description: Description, tuning: PinFMTuning | None) -> SequenceModule:
    """The sequence module that is described, freshly initialised.

    Raises:
        ValueError: a kind of module that cannot be attached, or a tuning of another kind.
    """
    if description.module == "gpsd":
        return _gpsd(description, tuning)
    if description.module == "pinfm":
        return _pinfm(description, tuning or PinFMTuning())
    raise ValueError(
        f"{description.name} holds a module of kind {description.module!r}; 'gpsd' and 'pinfm' can "
        "be attached"
    )


def _gpsd(description: Description, tuning: PinFMTuning | None) -> SequenceModule:
    if tuning is not None:
        raise ValueError(
            f"tuning={tuning} was given for {description.name}, which holds a 'gpsd' module: a "
            "PinFMTuning is for modules of kind 'pinfm'; leave it out"
        )
    config = GPSDConfig(**description.config)
    max_history = description.schema.max_history
    encoder = GPSDEncoder(config, max_history)
    dense = {name: f"body.{name}" for name in encoder.state_dict()}
    return SequenceModule(encoder, config.dim, config.init_std, max_history, dense)


def _pinfm(description: Description, tuning: PinFMTuning) -> SequenceModule:
    schema = description.schema
    if schema.target is None:
        raise ValueError(
            f"{description.name}: its schema has no target, so nobody knows which history feature "
            "is the item"
        )
    sizes = {name: value for name, value in description.config.items() if name != POSITIVES}
    config = PinFMConfig(**sizes)
    content_dim = len(tuning.content) * config.dim
    encoder = PinFMEncoder(config, PinFMFusion(tuning.fusion, tuning.learnable_token, content_dim))
    if tuning.next_token_weight > 0:
        encoder.contrast.num_negatives = tuning.num_negatives
    else:  # nothing reads them, and DistributedDataParallel would wait for their gradients
        encoder.target.requires_grad_(False)
        encoder.contrast.requires_grad_(False)
    loaded = [name for name in encoder.state_dict() if name.split(".")[0] not in _OF_FUSION]
    return SequenceModule(
        encoder,
        config.dim,
        config.init_std,
        max_history=min(schema.max_history, config.max_positions),
        dense={name: f"body.encoder.{name}" for name in loaded},
        item=schema.target,
        item_table=partial(item_table, config) if config.num_hashes else None,
        tuning=tuning,
    )
