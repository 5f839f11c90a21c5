"""Names parameters as a user would: by pattern, or by table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torchrec_gr.schema.feature_schema import nearest_valid
from torchrec_gr.training.tables import table_of


def matching(names: Sequence[str], patterns: Iterable[str]) -> list[str]:
    """The names that any of the patterns means, in their order.

    Args:
        names: of parameters, as in the state dict.
        patterns: each a table's name, a whole name, or a shell pattern for whole names, as
            "body.decoder.*".

    Raises:
        ValueError: a pattern that means none of them; it names the nearest word.
    """
    found: set[str] = set()
    for pattern in patterns:
        meant = [n for n in names if pattern in (n, table_of(n)) or fnmatchcase(n, pattern)]
        if not meant:
            words = {table_of(name) or name for name in names}
            raise ValueError(
                f"{nearest_valid('table or parameter', pattern, words)}. Patterns such as "
                "'body.*' are matched against whole names"
            )
        found.update(meant)
    return [name for name in names if name in found]
