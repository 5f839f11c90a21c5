"""The example that serves from stored contexts runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from examples import serve_cached_context
from tests.pretrained.attaching.pinfm_cases import save_pinfm


def test_serve_cached_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pinfm(tmp_path / "artefact")
    arguments = [str(tmp_path / "artefact"), str(tmp_path / "contexts"), "--candidates", "20"]
    serve_cached_context.main(arguments)
    printed = capsys.readouterr().out
    sizes = [int(size.replace(",", "")) for size in re.findall(r"([\d,]+) bytes a user", printed)]
    assert sizes == sorted(sizes, reverse=True)
    fp32, bf16, int8 = map(float, re.findall(r"vectors at most (\S+) apart", printed))
    assert fp32 == 0
    assert 0 < bf16 < 0.02
    assert 0 < int8 < 0.02
    first, again = map(float, re.findall(r"(\d\.\de[+-]\d+) (?:apart on|on their second)", printed))
    assert max(first, again) < 1e-5
