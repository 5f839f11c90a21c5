"""The process group of a run."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from torchrec_gr.training.process_group import all_gather_rows, all_reduce_sum, process_group


def test_a_running_group_is_used_and_left_running() -> None:
    with process_group("cpu") as device:
        assert device == torch.device("cpu")
    assert dist.is_initialized()


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU"), process_group("cuda"):
        pass
    with pytest.raises(ValueError, match="expected 'cpu' or 'cuda'"), process_group("gpu"):
        pass


def test_one_process_gathers_and_sums_its_own() -> None:
    rows = torch.arange(6).reshape(3, 2)
    assert torch.equal(all_gather_rows(rows), rows)
    assert all_gather_rows(rows[:0]).shape == (0, 2)
    assert all_reduce_sum(torch.tensor(2), torch.tensor(0.5)).tolist() == [2.0, 0.5]
