import pytest
import torch

from torchrec_gr.sequences.candidate_layout import CandidateLayout, lay_out_candidates

CASES = [
    ([3, 0, 2], [1, 2, 0]),
    ([0], [0]),
    ([0, 0], [3, 1]),
    ([63, 1, 0, 64], [0, 1, 63, 5]),
]


def _layout(history: list[int], candidates: list[int]) -> CandidateLayout:
    return lay_out_candidates(torch.tensor(history), torch.tensor(candidates))


@pytest.mark.parametrize(("history", "candidates"), CASES)
def test_rows_hold_history_then_candidates(history: list[int], candidates: list[int]) -> None:
    """Against the definition, written row by row."""
    history_values = torch.arange(sum(history))
    candidate_values = 1000 + torch.arange(sum(candidates))
    of_history = history_values.split(history)
    rows = [
        torch.cat([h, c])
        for h, c in zip(of_history, candidate_values.split(candidates), strict=True)
    ]
    layout = _layout(history, candidates)
    tokens = layout.interleave(history_values, candidate_values)
    assert tokens.tolist() == torch.cat(rows).tolist()
    assert layout.offsets.tolist() == [0, *torch.tensor([len(r) for r in rows]).cumsum(0).tolist()]
    assert layout.num_tokens == sum(history) + sum(candidates)
    assert tokens[layout.candidate_index].equal(candidate_values)


@pytest.mark.parametrize(("history", "candidates"), CASES)
def test_all_candidates_stand_right_after_the_history(
    history: list[int], candidates: list[int]
) -> None:
    expected = [p for n, m in zip(history, candidates, strict=True) for p in [*range(n), *[n] * m]]
    assert _layout(history, candidates).positions.tolist() == expected


def test_interleave_passes_gradients_to_both() -> None:
    history = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    candidates = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    layout = _layout([3, 0, 2], [1, 2, 0])
    assert torch.autograd.gradcheck(layout.interleave, (history, candidates))


def test_lengths_of_int32_give_the_same_places() -> None:
    layout = lay_out_candidates(
        torch.tensor([2, 1], dtype=torch.int32), torch.tensor([1, 1], dtype=torch.int32)
    )
    assert layout.offsets.dtype == layout.history_offsets.dtype == torch.int64
    assert layout.candidate_index.tolist() == [2, 4]


def test_values_of_another_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 5 history and 3 candidate values"):
        _layout([3, 0, 2], [1, 2, 0]).interleave(torch.zeros(4, 1), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="one shape"):
        _layout([1, 2], [1])
