"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

_SHARED = Path(os.environ.get("TORCHREC_GR_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The optional folder of real data sets; a test that needs it is skipped where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip(
            f"real data is not at {_SHARED}: set TORCHREC_GR_DATA to the folder that has it"
        )
    return _SHARED
