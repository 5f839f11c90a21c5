"""A trained ranker's tables in int8 and int4: error, AUC and bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection

from pipelines import finetune, quantised
from pipelines.quantised import lost_rows
from torchrec_gr.embeddings.quantised import quantise

CONFIG = """
data: synthetic
data_options:
  {num_users: 150, num_items: 100, num_clusters: 5, num_impressions: 1500, num_organic: 1500}
epochs: 1
dims: [8]
dlrm: {batch_size: 256, warmup_steps: 0}
pinfm: {sizes: {num_layers: 1, num_heads: 2}}
variants:
  hashed: {pinfm: {sizes: {num_hashes: 2, hash_rows: 60}}}
"""


class Both(nn.Module):
    """A collection of either kind; table `b` serves two keys."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name="a", embedding_dim=32, num_embeddings=70, feature_names=["x"]
                ),
                EmbeddingBagConfig(
                    name="b", embedding_dim=32, num_embeddings=1, feature_names=["y", "z"]
                ),
            ]
        )
        self.sequences = EmbeddingCollection(
            tables=[
                EmbeddingConfig(name="c", embedding_dim=32, num_embeddings=50, feature_names=["x"])
            ]
        )


@pytest.mark.parametrize(("bits", "expected"), [(8, 0.0046), (4, 0.079)])
def test_the_error_is_that_of_every_row_as_it_is_read(bits: int, expected: float) -> None:
    torch.manual_seed(0)
    exact = Both()
    for weight in exact.parameters():
        nn.init.normal_(weight)
    other = Both()
    other.load_state_dict(exact.state_dict())
    lost = dict(lost_rows(exact, quantise(other, bits)[0]))
    assert list(lost) == ["a", "b", "c"]
    for name, table in lost.items():
        weight = next(w for path, w in exact.named_parameters() if f".{name}." in path).detach()
        assert table.there == pytest.approx(float(weight.double().square().sum()))
        packed = torch.ops.fbgemm.FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf(weight, bits)
        back = torch.ops.fbgemm.FusedNBitRowwiseQuantizedSBHalfToFloat(packed, bits)
        assert table.lost == pytest.approx(float((back - weight).double().square().sum()), rel=1e-3)
    assert lost["a"].error == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("model", ["dlrm", "dlrm+pinfm@hashed"])
def test_a_run_is_measured_in_float_int8_and_int4(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(CONFIG)
    finetune.main(["--config", str(config), "--model", model, "--out", str(run)])
    trained = json.loads((run / "metrics" / "epoch_1.json").read_text())
    quantised.main(["--run", str(run), "--out", str(tmp_path / "out.json")])
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["tables"] for row in rows] == ["float", "int8", "int4"]
    exact, eight, four = rows
    assert exact["auc"] == pytest.approx(trained["metrics"]["test"]["auc"], abs=1e-6)
    assert 0 < eight["error"] < 0.02 < four["error"] < 0.2
    assert four["bytes"] < eight["bytes"] < exact["bytes"]
    for row in (eight, four):
        assert row["difference"] == pytest.approx(row["auc"] - exact["auc"])
        assert row["low"] <= row["difference"] <= row["high"]
    hashed = [name for name in four["error_by_table"] if "_hash" in name]
    assert len(hashed) == (2 if "hashed" in model else 0)
    assert "int4" in capsys.readouterr().out


def test_a_folder_that_is_no_rankers_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is not the folder of a run"):
        quantised.main(["--run", str(tmp_path), "--out", str(tmp_path / "out.json")])
    (tmp_path / "settings.yaml").write_text("dim: 8")
    with pytest.raises(SystemExit, match=r"not the folder of a ranker \(model, seed, settings"):
        quantised.main(["--run", str(tmp_path), "--out", str(tmp_path / "out.json")])
