import numpy as np
import pytest

from torchrec_gr.data.shuffle import generator, windows

COUNTS = [5, 0, 3, 4, 0, 6, 2]


def test_without_a_seed_blocks_keep_the_log_s_order() -> None:
    found = windows(COUNTS, None, 0, 7)
    assert [window.blocks for window in found] == [(0, 2), (3, 5), (6,)]
    assert [window.first for window in found] == [0, 8, 18]


@pytest.mark.parametrize("window_rows", [1, 7, 100])
def test_windows_hold_every_block_with_rows_once(window_rows: int) -> None:
    found = windows(COUNTS, 3, 1, window_rows)
    assert sorted(b for window in found for b in window.blocks) == [0, 2, 3, 5, 6]
    assert [window.place for window in found] == list(range(len(found)))
    first = 0
    for window in found:
        assert window.first == first
        assert window.num_rows == sum(COUNTS[b] for b in window.blocks)
        first += window.num_rows
    assert all(window.num_rows >= window_rows for window in found[:-1])


def test_no_two_windows_epochs_or_purposes_share_a_stream() -> None:
    keys = [(p, s, e, w) for p in range(5) for s in range(2) for e in range(2) for w in range(2)]
    drawn = {tuple(generator(*key).integers(0, 1 << 60, 4)) for key in keys}
    assert len(drawn) == len(keys)
    assert np.array_equal(generator(0, 1, 2).random(3), generator(0, 1, 2).random(3))
