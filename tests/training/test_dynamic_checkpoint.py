"""Checkpoints of dynamic tables: at any world size, in increments, at every moment of a save."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.training.disk_events import before_each
from tests.training.dynamic_cases import WORLD_SIZES, Results, run_all
from tests.training.dynamic_toy import contents, dynamic_model, dynamic_trainer
from tests.training.killed_saves import KILLS
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.training.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    read_weights,
    save_checkpoint,
)
from torchrec_gr.training.checkpoint_reader import CheckpointReader
from torchrec_gr.training.checkpoint_record import read_chain

PAIRS = list(itertools.product(WORLD_SIZES, WORLD_SIZES))
ITEM, USER = "embeddings.embeddings.item", "embeddings.embeddings.user"


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def results(work_dir: Path) -> Results:
    return run_all(work_dir)


def _assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("size", WORLD_SIZES)
def test_there_is_something_to_lose(results: Results, size: int) -> None:
    saved = results["saved", size]
    assert sum(report[ITEM].evicted for report in saved["reports"]) > 0
    assert len(saved["contents"][f"{ITEM}.ids"]) > 40
    assert len(saved["contents"][f"{USER}.waiting_ids"]) > 5
    assert (saved["contents"][f"{ITEM}.optimizer"] > 0).all()
    assert saved["contents"][f"{ITEM}.seen"][:, 0].max() > 2
    users = [saved["contents"][f"{USER}.{field}"] for field in ("ids", "waiting_ids")]
    assert {-(2**63), 2**63 - 1, -1, 0} <= set(torch.cat(users).tolist())


@pytest.mark.parametrize(("saved_by", "size"), PAIRS)
@pytest.mark.parametrize("kind", ["full", "chain"])
def test_each_id_finds_all_that_was_its_own(
    results: Results, saved_by: int, size: int, kind: str
) -> None:
    """Weights, optimizer state, count, last step; the steps and seeds; all dense parameters."""
    saved = results["saved", saved_by]["contents"]
    _assert_same(results[kind, saved_by, size]["contents"], saved)


@pytest.mark.parametrize(("saved_by", "size"), PAIRS)
def test_the_next_step_is_that_of_the_run_that_was_saved(
    results: Results, saved_by: int, size: int
) -> None:
    # Later ones are not: each process evicts for itself, whatever the others hold.
    went_on, expected = results["chain", saved_by, size], results["saved", saved_by]
    same = 6 if size == saved_by else 1
    assert went_on["losses"][:same] == pytest.approx(expected["losses"][:same], rel=1e-6)


@pytest.mark.parametrize(("saved_by", "size"), PAIRS)
def test_increments_add_to_those_of_another_world_size(
    results: Results, saved_by: int, size: int
) -> None:
    went_on = results["chain", saved_by, size]
    assert went_on["chain"] == [f"step_{step}" for step in (2, 4, 6, 12)]
    _assert_same(went_on["read again"], went_on["at the end"])


@pytest.mark.parametrize(("saved_by", "size"), PAIRS)
def test_all_processes_raise_what_one_finds(
    results: Results, work_dir: Path, saved_by: int, size: int
) -> None:
    errors = results["errors", saved_by, size]
    assert len(errors) == size
    assert all(error == errors[0] for error in errors)
    cut = rf"step_2/__{saved_by - 1}_0\.distcp is of \d+ bytes, expected"
    for error, expected in zip(errors[0], (r"cannot write .*step_7: gone", cut), strict=True):
        assert re.search(expected, error)
    names = {path.name for path in (work_dir / str(saved_by) / f"cut_by_{size}").iterdir()}
    assert names == {"step_2", "step_4", "step_6", "tensorboard"}


def test_rows_that_one_process_has_alone_are_kept(results: Results) -> None:
    for size in WORLD_SIZES:
        for owner, rows in enumerate(results["uneven", size]):
            assert torch.equal(rows, torch.full((3, 2), float(owner)))


@pytest.mark.parametrize("saved_by", WORLD_SIZES)
@pytest.mark.parametrize("kind", ["full", "kept"])
def test_weights_are_read_with_their_ids_and_without_processes(
    results: Results, work_dir: Path, saved_by: int, kind: str
) -> None:
    weights = read_weights(work_dir / str(saved_by) / kind)
    saved = results["saved", saved_by]["contents"]
    dense = {name for name in saved if name.startswith("body.") and " " not in name}
    tables = {f"{table}.{field}" for table in (ITEM, USER) for field in ("ids", "weight")}
    assert weights.keys() == dense | tables
    for table in (ITEM, USER):
        order = weights[f"{table}.ids"].argsort()
        for field in ("ids", "weight"):
            assert torch.equal(weights[f"{table}.{field}"][order], saved[f"{table}.{field}"])


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_every_optimizers_state_comes_back(tmp_path: Path, optimizer: str) -> None:
    trainer = dynamic_trainer(tmp_path, optimizer=optimizer, full_checkpoint_every=2)
    for _ in range(2):
        trainer.train_epoch()
    again = dynamic_trainer(tmp_path, optimizer=optimizer, seed=1)
    assert again.resume()
    expected = contents(trainer.model, trainer.optimizer)
    _assert_same(contents(again.model, again.optimizer), expected)
    other = dynamic_model(optimizer="rowwise_adagrad")
    with pytest.raises(CheckpointError, match=r"item\.optimizer is of shape \[any, \d\], expected"):
        load_checkpoint(tmp_path / "step_12", *other)


def test_loading_forgets_what_was_learnt_since(tmp_path: Path) -> None:
    trainer = dynamic_trainer(tmp_path)
    trainer.train_epoch()
    expected = contents(trainer.model, trainer.optimizer)
    trainer.train_epoch()
    load_checkpoint(tmp_path / "step_6", trainer.model, trainer.optimizer)
    _assert_same(contents(trainer.model, trainer.optimizer), expected)


def test_an_increment_holds_what_was_touched_alone(tmp_path: Path) -> None:
    trainer = dynamic_trainer(tmp_path, checkpoint_steps=1, full_checkpoint_every=2)
    trainer.train_epoch()
    after = contents(trainer.model, trainer.optimizer)
    full, increment = (CheckpointReader(tmp_path / name) for name in ("step_5", "step_6"))
    for table in (ITEM, USER):
        for ids, seen in (("ids", "seen"), ("waiting_ids", "waiting_seen")):
            touched = after[f"{table}.{ids}"][after[f"{table}.{seen}"][:, 1] > 5]
            assert torch.equal(_read(increment, f"{table}.{ids}").sort().values, touched)
    before = _read(full, f"{ITEM}.ids")[_read(full, f"{ITEM}.seen")[:, 0] > 0]
    removed = _read(increment, f"{ITEM}.removed_ids")
    assert (
        set(before.tolist()) - set(after[f"{ITEM}.ids"].tolist()) == set(removed.tolist()) != set()
    )
    assert 0 < len(_read(increment, f"{ITEM}.ids")) < len(after[f"{ITEM}.ids"]) // 2


def _read(reader: CheckpointReader, name: str) -> Tensor:
    return reader.rows(f"model.{name}", 0, reader.tensors()[f"model.{name}"].size[0])


def test_full_checkpoints_come_in_turn_across_restarts(tmp_path: Path) -> None:
    chains = []
    for _ in range(3):
        trainer = dynamic_trainer(tmp_path, full_checkpoint_every=2)
        trainer.resume()
        trainer.train_epoch()
        latest = latest_checkpoint(tmp_path)
        assert latest is not None
        chains.append([part.path.name for part in read_chain(latest)])
    assert chains == [["step_6"], ["step_6", "step_12"], ["step_18"]]


def test_without_its_base_a_checkpoint_is_full(tmp_path: Path) -> None:
    trainer = dynamic_trainer(tmp_path / "run")
    trainer.train_epoch()
    saved = [trainer.model, trainer.optimizer, {}]

    def chain(folder: str, step: int) -> list[str]:
        path = save_checkpoint(tmp_path / folder, step, *saved, full_every=10)  # type: ignore[arg-type]
        return [part.path.name for part in read_chain(path)]

    assert chain("a", 1) == ["step_1"]
    assert chain("a", 2) == ["step_1", "step_2"]
    assert chain("b", 3) == ["step_3"]  # another folder
    assert chain("b", 3) == ["step_3"]  # takes its own base's place
    assert chain("b", 4) == ["step_3", "step_4"]
    shutil.rmtree(tmp_path / "b" / "step_3")
    assert chain("b", 5) == ["step_5"]  # the base is gone
    [item, _] = dynamic_tables(trainer.model).values()
    assert chain("b", 6) == ["step_5", "step_6"]
    item.load_rows(item.rows())
    assert chain("b", 7) == ["step_7"]  # more than training has changed
    torn = mock.patch.object(CheckpointReader, "rows", side_effect=CheckpointError("torn"))
    with torn, pytest.raises(CheckpointError, match="torn"):
        load_checkpoint(tmp_path / "b" / "step_7", trainer.model, trainer.optimizer)
    assert chain("b", 8) == ["step_8"]  # nor what a load has left half done


@pytest.mark.parametrize("full_every", [1, 2], ids=["full", "increment"])
def test_at_every_moment_of_a_save_the_last_checkpoint_loads(
    tmp_path: Path, full_every: int
) -> None:
    run_dir, moments = tmp_path / "run", tmp_path / "moments"
    trainer = dynamic_trainer(run_dir, full_checkpoint_every=full_every)
    trainer.train_epoch()
    expected = {"step_6": contents(trainer.model, trainer.optimizer)}
    number = itertools.count()
    with before_each(lambda event: shutil.copytree(run_dir, moments / str(next(number)))):
        trainer.train_epoch()
    expected["step_12"] = contents(trainer.model, trainer.optimizer)
    assert len(read_chain(run_dir / "step_12")) == full_every
    seen = set()
    for moment in moments.iterdir():
        latest = latest_checkpoint(moment)
        assert latest is not None
        model, optimizer = dynamic_model(seed=1)
        load_checkpoint(latest, model, optimizer)
        _assert_same(contents(model, optimizer), expected[latest.name])
        seen.add(latest.name)
    assert seen == {"step_6", "step_12"}


def test_a_run_killed_in_an_incremental_save_ends_as_one_that_was_not(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.killed_saves", str(tmp_path / "killed")]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
    whole = dynamic_trainer(tmp_path / "whole", full_checkpoint_every=2)
    for _ in range(3):
        whole.train_epoch()
    expected = contents(whole.model, whole.optimizer)
    found = set()
    for kill_at in KILLS:
        run_dir = tmp_path / "killed" / str(kill_at)
        killed = dynamic_trainer(run_dir, seed=1, full_checkpoint_every=2)
        assert killed.resume()
        found.add(killed.global_step)
        while killed.progress.epoch < 3:
            killed.train_epoch()
        _assert_same(contents(killed.model, killed.optimizer), expected)
        assert not list(run_dir.glob(".*"))
    assert found == {6, 12}


@pytest.mark.parametrize("step", [2, 4, 6])
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "record.json"])
def test_damage_anywhere_in_a_chain_is_named(
    results: Results, work_dir: Path, tmp_path: Path, step: int, name: str
) -> None:
    shutil.copytree(work_dir / "1" / "kept", tmp_path / "run")
    file = tmp_path / "run" / f"step_{step}" / name
    content = file.read_bytes()
    model, optimizer = dynamic_model()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1])):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=rf"step_{step}/{re.escape(name)}.*ut back"):
            load_checkpoint(tmp_path / "run" / "step_6", model, optimizer)
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"step_{step}/{re.escape(name)}.*ut back"):
        load_checkpoint(tmp_path / "run" / "step_6", model, optimizer)
    shutil.rmtree(file.parent)
    with pytest.raises(CheckpointError, match=rf"step_{step}.*ut back"):
        load_checkpoint(tmp_path / "run" / "step_6", model, optimizer)
    assert all(not table.report().rows for table in dynamic_tables(model).values())
