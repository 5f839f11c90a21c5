"""Rows of several chunks as one tensor: nothing copied, nothing empty beside other parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from torchrec_gr.embeddings.sharded_rows import sharded_rows
from torchrec_gr.training.process_group import process_group


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with process_group("cpu"):
        yield


@pytest.mark.parametrize("tail", [(), (3,), (0,)])
@pytest.mark.parametrize("lengths", [[2, 5], [0, 4, 0, 1, 0], [7]])
def test_parts_are_views_one_below_the_other(lengths: list[int], tail: tuple[int, ...]) -> None:
    parts = [torch.rand(length, *tail) for length in lengths]
    found = sharded_rows(parts, torch.empty(0, *tail))
    assert found.size() == (sum(lengths), *tail)
    shards = found.local_shards()
    filled = [part for part in parts if len(part)]
    assert [shard.tensor.data_ptr() for shard in shards] == [part.data_ptr() for part in filled]
    starts = [shard.metadata.shard_offsets[0] for shard in shards]
    assert starts == torch.tensor([0, *map(len, filled)]).cumsum(0)[:-1].tolist()


@pytest.mark.parametrize("num_parts", [0, 1, 3])
def test_without_rows_the_tensor_is_there_all_the_same(num_parts: int) -> None:
    none = torch.empty(0, 4, dtype=torch.int32)
    found = sharded_rows([none] * num_parts, none)
    assert found.size() == (0, 4)
    assert found.dtype == torch.int32
    assert len(found.local_shards()) == 1
