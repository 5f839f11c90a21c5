"""The example that serves runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretrained.attaching.attach_cases import save_artefact

REPO = Path(__file__).parents[2]


@pytest.mark.slow
def test_serve(tmp_path: Path) -> None:
    save_artefact(tmp_path / "artefact")
    command = [sys.executable, "-m", "examples.serve", tmp_path / "artefact", tmp_path / "served"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPO)
    assert "loaded beside torch: []" in done.stdout
    package, int8 = map(float, re.findall(r"at most (\S+) apart", done.stdout))
    assert package < 1e-5
    assert 0 < int8 < 0.05
