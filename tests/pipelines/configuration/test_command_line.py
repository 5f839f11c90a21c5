"""Where a setting comes from, and what --help says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.configuration.command_line import parse, read_settings
from torchrec_gr.data.datasets import DATASETS


def test_the_command_line_beats_the_file_which_beats_the_data_set(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("data: kuairand-pure\nepochs: 7\nseeds: 5\n")
    arguments = ["--config", str(config), "--seeds", "2", "--out", str(tmp_path)]
    _, settings = parse("compare", "", arguments)
    own = read_settings(None, {"data": "kuairand-pure"})
    assert (settings.data, settings.epochs, settings.seeds) == ("kuairand-pure", 7, 2)
    assert settings.dlrm == own.dlrm


@pytest.mark.parametrize("data", sorted(DATASETS))
def test_the_defaults_of_every_data_set_are_valid(data: str) -> None:
    assert read_settings(None, {"data": data}).data == data


def test_epochs_are_those_of_the_stage_that_runs(tmp_path: Path) -> None:
    arguments = ["--epochs", "4", "--out", str(tmp_path)]
    _, pretrain = parse("pretrain", "", arguments)
    _, finetune = parse("finetune", "", arguments)
    assert (pretrain.pretrain.epochs, finetune.epochs) == (4, 4)
    assert finetune.pretrain == read_settings(None, {}).pretrain


def test_epochs_are_those_of_the_module_that_is_pretrained(tmp_path: Path) -> None:
    arguments = ["--epochs", "4", "--module", "pinfm", "--out", str(tmp_path)]
    options, settings = parse("pretrain", "", arguments)
    assert (options.module, settings.pinfm.epochs) == ("pinfm", 4)
    assert settings.pretrain == read_settings(None, {}).pretrain


def test_all_strategies_are_those_of_gpsd(tmp_path: Path) -> None:
    arguments = ["--strategies", "all", "--out", str(tmp_path)]
    _, settings = parse("compare", "", arguments)
    assert len(settings.strategies) == 9
    assert "frozen" not in settings.strategies


def test_a_typo_ends_with_the_nearest_valid_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--strategies", "none,sparse-freze", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        parse("compare", "", arguments)
    assert "did you mean 'sparse-freeze'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["pretrain", "finetune", "compare"])
def test_help_gives_each_argument_with_its_default(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(command, "What it does.", ["--help"])  # type: ignore[arg-type]
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "What it does." in text
    assert text.count("default") >= 6
