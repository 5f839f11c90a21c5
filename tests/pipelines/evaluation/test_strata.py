"""Layers of rows: every known row in one, none too small, round borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluation.strata import LEAST_SHARE, MOST, Strata

COUNTS = st.lists(st.integers(-1, 10**6) | st.integers(-1, 30), max_size=300)


@given(COUNTS)
def test_each_known_row_is_in_the_one_layer_that_its_title_names(counts: list[int]) -> None:
    values = np.array(counts, np.int64)
    strata = Strata.of(values)
    masks = strata.masks(values)
    assert list(masks) == list(strata.titles)
    for place, value in enumerate(counts):
        inside = [title for title, mask in masks.items() if mask[place]]
        if value < 0:
            assert inside == []
            continue
        (title,) = inside
        words = title.replace(",", "").split()
        assert value >= int(words[0])
        assert title.endswith("or more") or value <= int(words[-1])


@given(COUNTS)
def test_layers_are_few_and_none_is_nearly_empty(counts: list[int]) -> None:
    values = np.array(counts, np.int64)
    sizes = [mask.sum() for mask in Strata.of(values).masks(values).values()]
    known = int((values >= 0).sum())
    assert len(sizes) <= MOST
    assert sum(sizes) == known
    assert all(size >= max(1, LEAST_SHARE * known) for size in sizes)


def test_nothing_stays_apart_however_the_rest_is_joined() -> None:
    values = np.concatenate([np.zeros(20, np.int64), np.arange(1, 981)])
    assert Strata.of(values).titles[0] == "0"
    few = np.concatenate([np.zeros(5, np.int64), np.arange(1, 996)])
    assert Strata.of(few).titles[0].startswith("0 to ")


def test_layers_of_even_counts_are_near_quantiles() -> None:
    values = np.repeat(np.array([0, 1, 3, 7, 15, 30, 70]), 100)
    titles = ("0", "1 to 4", "5 to 9", "10 to 19", "20 to 49", "50 or more")
    assert Strata.of(values).titles == titles


@pytest.mark.parametrize("values", [[], [-1, -1]])
def test_nothing_known_is_no_layer(values: list[int]) -> None:
    strata = Strata.of(np.array(values, np.int64))
    assert strata.titles == ()
    assert strata.masks(np.array(values, np.int64)) == {}


def test_one_count_is_one_layer() -> None:
    assert Strata.of(np.full(10, 64)).titles == ("50 or more",)
