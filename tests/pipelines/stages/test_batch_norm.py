"""BatchNorm over several processes: synchronised where it can be, a warning where not."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pipelines.stages.batch_norm import synchronised


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4)), nn.LayerNorm(4))


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)


@pytest.mark.usefixtures("processes")
def test_on_a_gpu_the_layers_are_synchronised_with_their_weights() -> None:
    before = model()
    weight = before[1][0].weight  # type: ignore[index]
    after = synchronised(before, torch.device("cuda"))
    assert isinstance(after[1][0], nn.SyncBatchNorm)  # type: ignore[index]
    assert after[1][0].weight is weight  # type: ignore[index]


@pytest.mark.usefixtures("processes")
def test_on_a_cpu_the_layers_stay_and_are_named() -> None:
    before = model()
    with pytest.warns(UserWarning, match=r"\['1.0'\] are BatchNorm layers: on 2 processes"):
        assert synchronised(before, torch.device("cpu")) is before
    assert isinstance(before[1][0], nn.BatchNorm1d)  # type: ignore[index]


def test_one_process_or_no_such_layer_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(dist, "get_world_size", lambda: 1)
        synchronised(model(), torch.device("cpu"))
        monkeypatch.setattr(dist, "get_world_size", lambda: 2)
        synchronised(nn.LayerNorm(4), torch.device("cpu"))
