"""Collisions of a vocabulary against a count in plain Python, and against chance."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch

from torchrec_gr.embeddings.collision_statistics import collision_statistics
from torchrec_gr.embeddings.multi_hash_config import MultiHashEmbeddingConfig


def table(num_embeddings: int, num_hashes: int) -> MultiHashEmbeddingConfig:
    return MultiHashEmbeddingConfig(
        name="item",
        embedding_dim=4 * num_hashes,
        num_embeddings=num_embeddings,
        num_hashes=num_hashes,
        feature_names=["item"],
    )


@pytest.mark.parametrize("num_ids", [1, 2, 50, 700])
@pytest.mark.parametrize(("num_embeddings", "num_hashes"), [(1, 3), (3, 1), (5, 2), (9, 3)])
def test_counts_are_those_of_plain_python(
    num_ids: int, num_embeddings: int, num_hashes: int
) -> None:
    config = table(num_embeddings, num_hashes)
    ids = torch.arange(num_ids) * 977 - 5
    rows = [config.hash(ids, function).tolist() for function in range(num_hashes)]
    sharing = Counter(zip(*rows, strict=True))
    statistics = collision_statistics(torch.cat([ids, ids[:3]]), config)
    assert statistics.num_ids == num_ids
    assert statistics.num_colliding_ids == sum(n for n in sharing.values() if n > 1)
    assert statistics.num_colliding_groups == sum(n > 1 for n in sharing.values())
    for function, use in enumerate(statistics.sub_tables):
        used = defaultdict(list)
        for id, row in zip(ids.tolist(), rows[function], strict=True):
            used[row].append(id)
        assert use.name == f"item_hash{function}"
        assert use.ids_per_used_row == pytest.approx(num_ids / len(used))
        assert use.share_of_used_rows == pytest.approx(len(used) / num_embeddings)


def test_neighbouring_ids_collide_as_often_as_chance_has_it() -> None:
    statistics = collision_statistics(torch.arange(200_000), table(1000, 2))
    # 200,000 in a million cells: each alone with probability exp(-0.2)
    assert statistics.expected_colliding_ids == pytest.approx(36_254, abs=10)
    assert statistics.num_colliding_ids == pytest.approx(36_254, rel=0.03)
    for use in statistics.sub_tables:
        assert use.share_of_used_rows == 1.0
    sparse = collision_statistics(torch.arange(1000), table(1000, 2))
    assert sparse.expected_sub_table.share_of_used_rows == pytest.approx(0.6323, abs=1e-4)
    for use in sparse.sub_tables:
        assert use.share_of_used_rows == pytest.approx(0.6323, abs=0.05)
        expected = sparse.expected_sub_table.ids_per_used_row
        assert use.ids_per_used_row == pytest.approx(expected, rel=0.08)


def test_eight_functions_leave_no_two_ids_alike() -> None:
    statistics = collision_statistics(torch.arange(100_000) - 50_000, table(5_000, 8))
    assert statistics.num_colliding_ids == 0
    assert 0 < statistics.expected_colliding_ids < 1e-15


def test_as_text() -> None:
    lines = str(collision_statistics(torch.arange(5_000), table(30, 2))).splitlines()
    assert lines[0].startswith("5,000 ids, of which ")
    assert [line.split()[0] for line in lines[1:]] == [
        "sub-table",
        "item_hash0",
        "item_hash1",
        "expected",
    ]
    assert len({len(line) for line in lines[1:]}) == 1


def test_without_ids_there_is_nothing_to_count() -> None:
    with pytest.raises(ValueError, match="ids is empty"):
        collision_statistics(torch.empty(0, dtype=torch.int64), table(3, 1))
