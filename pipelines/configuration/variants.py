"""Named variants of the settings: what differs is written down once, and runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.configuration.config import ConfigError, build
from pipelines.configuration.settings import Settings
from torchrec_gr.schema.feature_schema import nearest_valid

_ALIKE = (
    "data",
    "data_dir",
    "data_options",
    "label",
    "models",
    "strategies",
    "strategies_of",
    "references",
    "search",
    "budget",
    "baseline",
    "against",
    "epochs",
    "seeds",
    "dims",
    "pretrain_users",
    "history_as_of",
    "device",
    "checkpoint_steps",
    "variants",
)
"""Settings that all runs of a comparison share: what is compared, on what, and for how long."""

_NOT_IN_NAMES = set("+@:,./ ")


def lay_over(settings: Settings, variant: str | None) -> Settings:
    """The settings with those of a variant in their place.

    Raises:
        ConfigError: an unknown variant, or one that cannot be.
    """
    if variant is None:
        return settings
    if variant not in settings.variants:
        raise ConfigError(nearest_valid("variant", variant, settings.variants))
    values = settings.variants[variant]
    where = f"variants.{variant}"
    if not isinstance(values, Mapping):
        raise ConfigError(f"setting {where} needs a mapping of settings, got {values!r}")
    alike = [name for name in values if name in _ALIKE]
    if alike:
        raise ConfigError(
            f"{where} sets {alike[0]!r}, which is the same for all runs: set it outside of variants"
        )
    return build(Settings, values, f"{where}.", settings)


def check_variants(settings: Settings) -> Settings:
    """The settings, once every variant of theirs is found to be one.

    Raises:
        ConfigError: a name that cannot be part of a model's, or as `lay_over`.
    """
    for variant in settings.variants:
        if not isinstance(variant, str) or not variant or _NOT_IN_NAMES & set(variant):
            raise ConfigError(
                f"a variant cannot be called {variant!r}: models are named <model>@<variant>, use "
                "letters, digits, '-' and '_'"
            )
        lay_over(settings, variant)
    return settings


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The variants that are in both, and not the same."""
    return [name for name in now if name in before and before[name] != now[name]]
