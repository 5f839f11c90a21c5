"""A sequence module from scratch, in the place of an artefact."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torchrec_gr.schema.feature_schema import FeatureSchema
from torchrec_gr.schema.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class UntrainedModule:
    """What an artefact says of its module, without an artefact: `untrained_module` makes one.

    Args:
        module, config, schema, vocabularies: as of `Pretrained`.
    """

    module: str
    config: Mapping[str, Any]
    schema: FeatureSchema
    vocabularies: Mapping[str, Vocabulary]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the untrained {self.module!r} module"


def untrained_module(
    *,
    module: str,
    config: Mapping[str, Any],
    schema: FeatureSchema,
    vocabularies: Mapping[str, Vocabulary],
) -> UntrainedModule:
    """A module from scratch, to attach where an artefact would be: no folder, no weights.

    `attach_pretrained(model, untrained_module(...), strategy="none", ...)` gives the model that an
    artefact of the same module under strategy "none" gives, for a comparison with one that was
    never pretrained.

    Args:
        module: its kind, such as "gpsd".
        config: of the module, as plain values.
        schema: of the log; its history features are the module's.
        vocabularies: by table name; a table without one is dynamic, unless it is multi-hash.

    Returns:
        What `attach_pretrained` takes, under strategy "none" alone.
    """
    return UntrainedModule(module, config, schema, vocabularies)
