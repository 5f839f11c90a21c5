"""Logs of user windows, read in several chunks of several blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.window_oracle import prepare_windows
from torchrec_gr.data.prepared_log import PreparedLog

MakeLog = Callable[..., PreparedLog]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of several blocks in a log of some dozens of rows."""
    monkeypatch.setattr("torchrec_gr.data.split_rows.WINDOW_ROWS", 20)


@pytest.fixture
def make_log(tmp_path: Path) -> MakeLog:
    return functools.partial(prepare_windows, tmp_path)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> PreparedLog:
    return prepare_windows(tmp_path_factory.mktemp("log"))
