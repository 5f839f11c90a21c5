"""A probe passes only where a sharded table looks up and learns as a plain one does."""

from __future__ import annotations

import pytest

from torchrec_gr.training import table_probe
from torchrec_gr.training.table_probe import try_table


@pytest.mark.parametrize("collection", ["EmbeddingBagCollection", "EmbeddingCollection"])
def test_a_supported_table_passes(collection: str) -> None:
    assert try_table(collection, "row_wise", "RowWiseAdagrad") in ("cpu", "cuda")


def test_a_table_that_gives_other_embeddings_does_not_pass() -> None:
    """fbgemm's dense CPU kernel pools what an EmbeddingCollection must not pool."""
    with pytest.raises(RuntimeError, match="other embeddings"):
        try_table("EmbeddingCollection", "data_parallel", "SGD")


def test_a_table_that_does_not_learn_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_probe, "_LR", 0.0)
    with pytest.raises(RuntimeError, match="leaves the table as it was"):
        try_table("EmbeddingBagCollection", "table_wise", "SGD")
