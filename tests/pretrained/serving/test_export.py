"""Exported and compiled scorers give the quantised model's scores, for batches of any shape."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from tests.pretrained.attaching.attach_cases import KEYS, SHAPES, build, impressions, save_artefact
from torchrec_gr.embeddings.dynamic_config import DynamicEmbeddingBagConfig
from torchrec_gr.embeddings.quantised import quantise
from torchrec_gr.models.dlrm import DLRMConfig, build_dlrm
from torchrec_gr.pretrained import Pretrained
from torchrec_gr.pretrained.attaching.attach import attach_pretrained
from torchrec_gr.pretrained.serving.export import compile_scorer, export_scorer, serving_libraries

SERVER = Path(__file__).parents[3] / "examples" / "score_package.py"
BATCHES = [name for name in SHAPES if name != "nothing"]
"""A batch without one id is refused by TorchRec's exported KeyedJaggedTensor."""


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return save_artefact(tmp_path_factory.mktemp("export") / "artefact")


def attached(artefact: Pretrained, name: str = "dlrm", **options: Any) -> nn.Module:
    """A model that reads its sequence module's vectors."""
    model = attach_pretrained(build(name), artefact, **KEYS, **options)
    draw = torch.Generator().manual_seed(3)
    for path, parameter in model.named_parameters():
        if "widening" in path:
            nn.init.normal_(parameter, std=0.3, generator=draw)
    return model.eval()


def arguments(shape: str) -> tuple[Tensor, KeyedJaggedTensor]:
    batch = impressions(*SHAPES[shape])
    return batch.dense_features, batch.sparse_features


def tensors(dense: Tensor, kjt: KeyedJaggedTensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a program takes; a package looks at the strides of a single row too."""
    dense = dense.clone(memory_format=torch.contiguous_format)
    return dense, kjt.values(), kjt.lengths().view(len(kjt.keys()), -1)


@torch.no_grad()
def assert_scores(scores: Callable[..., Tensor], model: nn.Module, atol: float = 1e-6) -> None:
    for shape in BATCHES:
        given = arguments(shape)
        torch.testing.assert_close(
            scores(*tensors(*given)), model(*given), rtol=0, atol=atol, msg=shape
        )


@pytest.mark.parametrize("name", ["dlrm", "projection", "deepfm"])
def test_program_gives_the_quantised_models_scores(name: str, artefact: Pretrained) -> None:
    model = attached(artefact, name)
    before = copy.deepcopy(model.state_dict())
    program = export_scorer(model, arguments("mixed"))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    quantised, _ = quantise(copy.deepcopy(model), 8)
    assert_scores(program.module(), quantised)
    assert_scores(program.module(), model, atol=0.03)  # what int8 costs, logits of about 1


@pytest.mark.parametrize("quantize", ["none", "int4"])
def test_other_tables(quantize: Any, artefact: Pretrained) -> None:
    model = attached(artefact)
    program = export_scorer(model, arguments("mixed"), quantize=quantize)
    if quantize == "int4":
        quantise(model, 4)
    assert_scores(program.module(), model)


def test_any_sample_and_either_deduplication_give_one_program(artefact: Pretrained) -> None:
    model = attached(artefact, deduplicate=False)
    program = export_scorer(model, arguments("one empty"))
    assert_scores(program.module(), quantise(attached(artefact), 8)[0])


def test_a_quantised_model_is_exported_as_it_is(artefact: Pretrained) -> None:
    model, _ = quantise(attached(artefact), 8)
    program = export_scorer(model, arguments("filled"), quantize="none")
    assert_scores(program.module(), model)  # the model still runs


def test_dynamic_tables_take_raw_ids_in_a_program_too() -> None:
    keys = ["user_id", "item_id", "past_item", "category_id"]
    tables = [
        DynamicEmbeddingBagConfig(name=f"of_{key}", embedding_dim=8, feature_names=[key])
        for key in keys
    ]
    model = build_dlrm(tables, 3, DLRMConfig())
    dense, kjt = arguments("mixed")
    model(dense, kjt)  # gives its ids rows
    program = export_scorer(model.eval(), (dense, kjt))
    assert_scores(program.module(), quantise(model, 8)[0])


def test_ids_without_a_row_are_read_as_row_0(artefact: Pretrained) -> None:
    model = attached(artefact)
    program = export_scorer(model, arguments("mixed"))
    dense, values, lengths = tensors(*arguments("mixed"))
    unknown = torch.where(values > 3, 10**6, values)
    known = torch.where(values > 3, 0, values)
    scores = program.module()(dense, unknown, lengths)
    assert torch.equal(scores, program.module()(dense, known, lengths))
    assert (unknown == 10**6).any()  # what was given stays


@pytest.fixture(scope="module")
def served(artefact: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package of `attached(artefact)`, in int8."""
    folder = tmp_path_factory.mktemp("served")
    program = export_scorer(attached(artefact), arguments("mixed"))
    assert compile_scorer(program, folder / "scorer.pt2") == folder / "scorer.pt2"
    return folder


def test_package_gives_the_quantised_models_scores(
    served: Path, artefact: Pretrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOTI_RUNTIME_CHECK_INPUTS", "1")
    package = torch._inductor.aoti_load_package(served / "scorer.pt2")
    assert_scores(package, quantise(attached(artefact), 8)[0], atol=1e-5)
    dense, values, lengths = tensors(*arguments("mixed"))
    malformed = [
        (dense, values[:-1], lengths),
        (dense, values.repeat(2), lengths),
        (dense, values, lengths[:-1]),
        (dense[:-1], values, lengths),
        (dense, values.int(), lengths),
    ]
    for given in malformed:
        with pytest.raises(RuntimeError):  # and not a read past the end
            package(*given)


def test_package_runs_without_python_of_ours(served: Path, artefact: Pretrained) -> None:
    given = arguments("mixed")
    batch = dict(zip(("dense", "values", "lengths"), tensors(*given), strict=True))
    save_file(batch, served / "batch.safetensors")
    libraries = [str(library) for library in serving_libraries()]
    (served / "libraries.json").write_text(json.dumps(libraries))
    server = [sys.executable, "-I", SERVER, served]
    done = subprocess.run(server, check=True, capture_output=True, text=True)
    assert "loaded beside torch: []" in done.stdout
    expected = quantise(attached(artefact), 8)[0](*given).detach()
    scores = load_file(served / "scores.safetensors")["scores"]
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


class Weighted(nn.Module):
    """Reads its ids first, and weighs them."""

    def __init__(self) -> None:
        super().__init__()
        table = EmbeddingBagConfig(
            name="t", embedding_dim=4, num_embeddings=9, feature_names=["a", "b"]
        )
        self.bags = EmbeddingBagCollection([table], is_weighted=True)

    def forward(self, kjt: KeyedJaggedTensor, dense: Tensor) -> Tensor:
        return self.bags(kjt).values().sum(1) + dense


def test_weights() -> None:
    kjt = KeyedJaggedTensor(
        keys=["b", "a"],
        values=torch.tensor([1, 8, 3, 3]),
        lengths=torch.tensor([1, 2, 0, 1]),
        weights=torch.tensor([1.0, -2.0, 0.5, 3.0]),
    )
    model, _ = quantise(Weighted(), 8)
    program = export_scorer(model, (kjt, torch.ones(2)), quantize="none")
    given = (torch.tensor([5]), torch.tensor([[0, 0, 1], [0, 0, 0]]), torch.tensor([4.0]))
    dense = torch.arange(3.0)
    row = model.bags(KeyedJaggedTensor(["a", "b"], given[0], given[2], torch.tensor([1, 0])))
    expected = dense + torch.tensor([0, 0, float(row.values().sum())])
    torch.testing.assert_close(program.module()(*given, dense), expected)


class Wrong(nn.Module):
    """A model that no program can be made of."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def forward(self, dense: Tensor, kjt: KeyedJaggedTensor) -> Tensor:
        if self.fault == "branch" and dense.sum() > 0:
            return dense
        if self.fault == "size":
            return dense.sum(1) + torch.arange(len(dense))
        return dense + int(kjt.values().sum())


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("branch", r"test_export.py:\d+ \(if self.fault == \"branch\" and dense.sum\(\) > 0:\)"),
        ("number", r"test_export.py:\d+ \(return dense \+ int\(kjt.values\(\).sum\(\)\)\)"),
        ("size", "rows as dynamic but your code specialized it to be a constant"),
    ],
)
def test_error_names_the_line(fault: str, named: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)Wrong cannot be exported: .*{named}.*x.shape"):
        export_scorer(Wrong(fault), arguments("mixed"), quantize="none")


def test_refusals(tmp_path: Path) -> None:
    model, sample = build("dlrm"), arguments("mixed")
    with pytest.raises(ValueError, match="expected 'none', 'int8' or 'int4', got 'int2'"):
        export_scorer(model, sample, quantize="int2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"sample\[0\]: .* got a Batch: export the model inside"):
        export_scorer(build("net"), (impressions(*SHAPES["mixed"]),))  # type: ignore[arg-type]
    uneven = KeyedJaggedTensor(
        ["a", "b"],
        torch.ones(3).long(),
        torch.ones(3).long(),
        stride_per_key_per_rank=[[1], [2]],
    )
    with pytest.raises(ValueError, match=r"sample\[1\]: its keys have different numbers of rows"):
        export_scorer(model, (sample[0], uneven))
    with pytest.raises(ValueError, match=r"expected NAME.pt2 in a folder that exists"):
        compile_scorer(None, tmp_path / "missing" / "scorer.pt2")  # type: ignore[arg-type]
