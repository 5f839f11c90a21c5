"""Every script of `examples/` runs, and says what it promises."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from examples import attach_dlrm_kuairand, attach_own_model, detach
from torchrec_gr.models.gpsd import GPSDConfig, GPSDPretrainer
from torchrec_gr.pretrained import ModelCard, save_pretrained
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table
from torchrec_gr.schema.vocabulary import VocabularyBuilder


def test_attach_own_model(capsys: pytest.CaptureFixture[str]) -> None:
    attach_own_model.main(["--steps", "3"])
    printed = capsys.readouterr().out
    assert printed.count("predictions bit-equal: True") == 2
    assert "hidden.widening.weight" in printed
    assert "pretrained_item_id" in printed


def test_detach(capsys: pytest.CaptureFixture[str]) -> None:
    detach.main([])
    printed = capsys.readouterr().out
    assert printed.count("predictions bit-equal: True") == 2
    assert "taken off: DLRM has 0 more" in printed


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """An artefact of random weights that knows some of KuaiRand's videos, and their tags."""
    tables = ("video_id", "tag")
    schema = FeatureSchema(
        name="videos",
        labels=("long_view",),
        features=(
            *(Feature(f"history_{table}", "history", column=table) for table in tables),
            *(Feature(table, "candidate") for table in tables),
        ),
        tables=tuple(map(Table, tables)),
        user="user_id",
        time="time_ms",
        target="history_video_id",
    )
    vocabularies = {}
    for table in schema.tables:
        builder = VocabularyBuilder(table)
        builder.add(pa.array(range(2000) if table.name == "video_id" else range(60)))
        vocabularies[table.name] = builder.build()
    config = {"dim": 8, "num_layers": 1, "num_heads": 2}
    rows = {name: vocabulary.num_rows for name, vocabulary in vocabularies.items()}
    torch.manual_seed(0)
    return save_pretrained(
        tmp_path / "videos",
        GPSDPretrainer(GPSDConfig(**config), schema, rows),  # type: ignore[arg-type]
        module="gpsd",
        config=config,
        schema=schema,
        vocabularies=vocabularies,
        card=ModelCard(trained_on="nothing"),
    )


def test_attach_dlrm_kuairand(
    shared_data: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = shared_data / "kuairand-pure"
    if not data_dir.is_dir():
        pytest.skip(f"{data_dir} is not there")
    given = {"data-dir": data_dir, "pretrained": videos, "out": tmp_path / "out"}
    arguments = [word for name, path in given.items() for word in (f"--{name}", str(path))]
    attach_dlrm_kuairand.main([*arguments, "--steps", "3", "--test-batches", "1"])
    printed = capsys.readouterr().out
    assert "scores bit-equal: True" in printed
    assert printed.count("test AUC 0.") == 4
