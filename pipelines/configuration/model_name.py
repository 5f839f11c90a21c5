"""What a model is called on the command line: `<ranker>[+<module>][@<variant>]`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

from torchrec_gr.schema.feature_schema import nearest_valid

RANKERS = ("dlrm", "dlrm_dcn", "din", "wukong", "gpsd", "mtgr", "hstu", "longer")

_OF_WHOLE_REQUESTS = ("gpsd", "mtgr", "hstu", "longer")

Module = Literal["gpsd", "pinfm"]
MODULES: tuple[Module, ...] = get_args(Module)
"""The modules that can be pretrained, and then put into a ranker."""


class ModelName(NamedTuple):
    """A ranker, the module that is put into it, and the settings that both run under.

    Args:
        ranker: one of RANKERS, or `package.module:build`.
        module: the pretrained module inside the ranker; None: the ranker alone.
        variant: a name among `Settings.variants`; None: the settings as they are.
    """

    ranker: str
    module: Module | None = None
    variant: str | None = None

    @property
    def pretrains(self) -> Module:
        """What is pretrained for it."""
        return self.module or "gpsd"

    @property
    def stage(self) -> str:
        """The setting that says how its ranker trains."""
        return self.ranker if self.ranker in _OF_WHOLE_REQUESTS else "dlrm"

    @property
    def has_transferable_dense(self) -> bool:
        """Whether pretraining has dense parameters for it, beside tables."""
        return self.module is not None or self.ranker == "gpsd"


def parse_model(name: str, variants: Iterable[str] = ()) -> ModelName:
    """Reads a model's name.

    Args:
        name: such as "dlrm", "dlrm+pinfm@gslt" or "package.module:build+pinfm".
        variants: those that there are.

    Raises:
        ValueError: an unknown word, with the nearest valid one, or a module in a ranker that takes
            none.
    """
    rest, at, variant = name.partition("@")
    ranker, plus, module = rest.partition("+")
    if ":" not in ranker and ranker not in RANKERS:
        raise ValueError(nearest_valid("model", ranker, RANKERS))
    if at and variant not in (variants := tuple(variants)):
        raise ValueError(nearest_valid(f"variant of model {name!r}", variant, variants))
    if not plus:
        return ModelName(ranker, None, variant or None)
    if module not in MODULES:
        raise ValueError(nearest_valid(f"module of model {name!r}", module, MODULES))
    if ranker in _OF_WHOLE_REQUESTS:
        raise ValueError(
            f"model {name!r}: a module goes into an impression-level ranker, such as "
            f"'dlrm+{module}'; {ranker} reads whole requests"
        )
    if ranker == "din":
        raise ValueError(
            f"model {name!r}: a module goes into a ranker with an EmbeddingBagCollection, such as "
            f"'dlrm+{module}'; din has none, it reads every event by itself"
        )
    return ModelName(ranker, module, variant or None)
