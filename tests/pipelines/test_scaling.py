"""Sizes that share a table, the study end to end, stopped and gone on with."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipelines import scaling
from pipelines.recommending.settings import NextItemSettings
from pipelines.results.rows import RESULTS_FILE
from pipelines.scaling_law.models import (
    ProjectedTrunk,
    Size,
    build_of_size,
    num_dense,
    num_non_embedding,
)
from pipelines.scaling_law.report import REPORT_FILE, write_scaling_report
from pipelines.scaling_law.results import ScalingResults, ScalingRow
from pipelines.scaling_law.settings import ScalingSettings
from tests.modules.trunk_rows import make_case, make_trunk
from torchrec_gr.data.datasets import load_dataset
from torchrec_gr.data.prepared_log import PreparedLog, prepare
from torchrec_gr.models.hstu_config import HSTUConfig
from torchrec_gr.modules.sequence_trunk import TrunkConfig

SIZES = ("L1D2", "L1D4", "L1D6H2", "L2D8H2")
LOG = {"num_users": 120, "num_items": 30, "num_impressions": 1000, "num_organic": 1200}
TRUNK = TrunkConfig("hstu_research", dim=6, num_layers=1, bias="position", max_seq_len=9)
TRAINING = NextItemSettings(
    data="synthetic", sizes=HSTUConfig(TRUNK, max_history=8, num_negatives=None)
)


def _config(folder: Path, **training: Any) -> str:
    settings = {
        "sizes": list(SIZES),
        "training": {
            "data": "synthetic",
            "data_options": LOG,
            "epochs": 2,
            "evaluate_every": 1,
            "batch_size": 64,
            "pool": 10,
            "sizes": {"max_history": 8, "trunk": {"dim": 6, "max_seq_len": 9}},
            **training,
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> PreparedLog:
    folder = tmp_path_factory.mktemp("log")
    return prepare(load_dataset("synthetic", None, folder, **LOG), folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that ran through."""
    folder = tmp_path_factory.mktemp("scaling")
    scaling.main(["--config", _config(folder), "--out", str(folder / "out")])
    return folder / "out"


def _losses(out: Path) -> dict[tuple[str, int], float]:
    rows = json.loads((out / RESULTS_FILE).read_text())["rows"]
    return {(row["size"], row["epoch"]): row["held_out_loss"] for row in rows}


@pytest.mark.parametrize(
    ("name", "size"),
    [("L4D48H2", Size(4, 48, 2)), ("L1D8", Size(1, 8, 1)), ("L12D120H10", Size(12, 120, 10))],
)
def test_a_size_in_words(name: str, size: Size) -> None:
    assert Size.parse(name) == size
    assert Size.parse(size.name) == size


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("D8L2", "'D8L2': expected layers, width and heads as in L4D48H2"),
        ("L2", "'L2': expected layers"),
        ("L0D8", "num_layers: expected at least 1, got 0"),
        ("L2D10H4", "dim 10 is not a multiple of num_heads 4"),
    ],
)
def test_words_that_are_no_size(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Size.parse(name)


def test_sizes_differ_in_their_trunk_alone(log: PreparedLog) -> None:
    small, large = (build_of_size(TRAINING, log, Size.parse(n), 3) for n in ("L1D4", "L2D12H3"))
    weights, others = dict(small.named_parameters()), dict(large.named_parameters())
    shared = [name for name in weights if not name.startswith("body.trunk.")]
    assert len(shared) == 2  # the item table and the vectors of positions
    for name in shared:
        assert torch.equal(weights[name], others[name])
    outside = {name for name in others if not name.startswith("body.trunk.")}
    assert outside == set(shared)


def test_non_embedding_parameters_by_hand(log: PreparedLog) -> None:
    """Per layer U, V, Q, K and the output with its bias; two projections with theirs."""
    model = build_of_size(TRAINING, log, Size(3, 10, 2), 0)
    entry, leave, layer = 6 * 10 + 10, 10 * 6 + 6, 4 * 10 * 10 + 10 * 10 + 10
    assert num_non_embedding(model) == entry + leave + 3 * layer
    assert num_dense(model) == num_non_embedding(model) + 3 * (2 * 9 - 1) + 9 * 6


def test_a_projected_trunk_is_a_trunk_between_two_projections() -> None:
    case = make_case()
    config = TrunkConfig("ligr", dim=8, num_heads=2, max_seq_len=14)
    projected = ProjectedTrunk(12, config)
    projected.trunk = trunk = make_trunk(config)
    wanted = torch.tensor([0, 3, 21])
    entered = case.x @ projected.entry.weight.t() + projected.entry.bias
    hidden = trunk(entered, case.rows)[wanted]
    right = hidden @ projected.exit.weight.t() + projected.exit.bias
    torch.testing.assert_close(projected(case.x, case.rows, wanted), right)


def test_the_study_end_to_end(finished: Path) -> None:
    names = [Size.parse(name).name for name in SIZES]
    assert set(_losses(finished)) == {(name, epoch) for name in names for epoch in (1, 2)}
    report = (finished / REPORT_FILE).read_text()
    for part in (
        "## Power law",
        "RMS error of the fit",
        "the largest from the smaller ones",
        *names,
    ):
        assert part in report
    assert "(./scaling.svg)" in report
    assert (finished / "scaling.svg").read_text().startswith("<?xml")


def test_finished_sizes_are_not_trained_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / REPORT_FILE).read_bytes(), (finished / RESULTS_FILE).read_bytes()
    monkeypatch.setattr(scaling, "run_size", None)
    scaling.main(["--config", _config(finished.parent), "--out", str(finished)])
    assert before == ((finished / REPORT_FILE).read_bytes(), (finished / RESULTS_FILE).read_bytes())
    assert "## Power law" in capsys.readouterr().out


def test_a_study_that_was_stopped_ends_as_one_that_was_not(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second size, after its first epoch and before its evaluation was kept."""
    add = ScalingResults.add

    def stop(self: ScalingResults, row: ScalingRow, losses: np.ndarray[Any, Any]) -> None:
        if (row.size, row.epoch) == ("L1D4H1", 1):
            raise KeyboardInterrupt
        add(self, row, losses)

    arguments = ["--config", _config(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(ScalingResults, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        scaling.main(arguments)
    assert "1 sizes are finished" in (tmp_path / "out" / REPORT_FILE).read_text()
    monkeypatch.setattr(ScalingResults, "add", add)
    scaling.main(arguments)
    assert _losses(tmp_path / "out") == pytest.approx(_losses(finished), rel=1e-5)


def test_more_epochs_go_on_from_those_known(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one study of three epochs, without the first two being trained again."""
    shutil.copytree(finished, tmp_path / "out")
    trained: list[int] = []
    monkeypatch.setattr(scaling, "print_epoch", lambda name, epoch, of: trained.append(epoch.epoch))
    more = ["--epochs", "3", "--out", str(tmp_path / "out")]
    scaling.main(["--config", _config(tmp_path), *more])
    assert trained == [2] * len(SIZES)
    losses = _losses(tmp_path / "out")
    assert len(losses) == 3 * len(SIZES)
    assert {key: losses[key] for key in _losses(finished)} == _losses(finished)


def test_other_settings_need_another_folder(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished.parent
    other = _config(folder, batch_size=32)
    with pytest.raises(SystemExit, match=r"holds results under other settings \(batch_size\)"):
        scaling.main(["--config", other, "--out", str(finished)])
    with pytest.raises(SystemExit):
        scaling.main(["--config", _config(folder), "--out", str(finished), "--sizes", "L1D4,8x8"])
    assert "expected layers, width and heads as in L4D48H2" in capsys.readouterr().err


def test_three_sizes_are_too_few(finished: Path) -> None:
    arguments = ["--config", _config(finished.parent), "--out", str(finished)]
    with pytest.raises(SystemExit, match="at least four sizes, got L1D2, L1D2, L1D4, L1D6"):
        scaling.main([*arguments, "--sizes", "L1D2,L1D2,L1D4,L1D6"])


def test_results_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / RESULTS_FILE).write_text("[]")
    with pytest.raises(ValueError, match="does not hold results of scaling"):
        ScalingResults(tmp_path, ScalingSettings())


def _made_up(
    out: Path, losses: Sequence[float], noise: float, best_epoch: int = 9
) -> ScalingResults:
    """Sizes that went on past the last epoch asked for; one user's item is unknown."""
    training = dataclasses.replace(ScalingSettings().training, epochs=12)
    results = ScalingResults(out, ScalingSettings(training=training))
    rng = np.random.default_rng(0)
    of_users = rng.normal(0, noise, 2000)
    for number, loss in enumerate(losses):
        for epoch in (6, 9, 12, 15):
            worse = -1.0 if epoch == 15 else 0.1 * abs(epoch - best_epoch)
            users = (of_users + loss + worse - of_users.mean()).astype(np.float32)
            users[-1] = np.nan
            row = ScalingRow(
                f"L{number + 1}D8H1",
                1000 * 4**number,
                2000,
                epoch,
                1.0,
                loss + worse,
                2.0,
            )
            results.add(row, users)
    return results


def test_the_report_takes_the_lowest_epoch_and_finds_the_law(tmp_path: Path) -> None:
    sizes = 1000.0 * 4.0 ** np.arange(5)
    report = write_scaling_report(_made_up(tmp_path, (2.0 + 90 * sizes**-0.5).tolist(), 0.01))
    assert "N spans a factor of 256, from 1,000 to 256,000." in report
    assert "| L1D8H1 | 1,000 | 9 | 4.8460 |" in report
    assert "loss = 2.000" in report
    assert "not identified" not in report
    assert "does not fall" not in report
    assert "still falling" not in report


def test_the_report_says_what_is_not_known(tmp_path: Path) -> None:
    falling = _made_up(tmp_path / "line", [6.0, 5.9, 5.8, 5.7, 5.6], 0.3, best_epoch=12)
    report = write_scaling_report(falling)
    assert "E is not identified" in report
    assert "still falling in L1D8H1, L2D8H1, L3D8H1, L4D8H1, L5D8H1" in report
    report = write_scaling_report(_made_up(tmp_path / "rising", [5.0, 5.2, 5.1, 5.3], 0.3))
    assert "No law: the loss does not fall with size." in report
    assert "higher in L2D8H1 than L1D8H1, L4D8H1 than L3D8H1" in report
