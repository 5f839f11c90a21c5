from __future__ import annotations

from benchmarks.embeddings import collisions


def test_collisions_are_counted_beside_what_is_expected() -> None:
    counted, expected = collisions.measure(collisions.Plan(2_000, 100, 2))
    assert counted["name"] == "multi_hash_colliding_ids"
    assert 0.7 < counted["value"] / expected["value"] < 1.4
