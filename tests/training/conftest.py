"""A process group of this process alone, started for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from torchrec_gr.training.process_group import process_group


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[torch.device]:
    """The device of a process group of one."""
    with process_group("cpu") as device:
        yield device
