"""From a CTR model with a pretrained module in it to a package that serves it in int8.

    python -m examples.serve ARTEFACT FOLDER

ARTEFACT is what pretraining wrote, or its run, of static tables. The CTR model is a DLRM of
random weights over the artefact's features, and the batch is made up: yours take their place. The
package and all that a server needs come to FOLDER; `score_package.py` is the server.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipelines.configuration.command_line import report_errors
from torchrec_gr import attach_pretrained
from torchrec_gr.pretrained import Pretrained, load_pretrained
from torchrec_gr.pretrained.serving.export import compile_scorer, export_scorer, serving_libraries

NUM_DENSE, DIM, BATCH = 4, 16, 32


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artefact", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    with report_errors():
        serve(options.artefact, options.folder)


def serve(artefact: Path, folder: Path) -> None:
    """Attaches, exports, compiles, and scores one batch here and in a process of its own."""
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    pretrained = load_pretrained(artefact)
    model = ranker(pretrained)
    dense, kjt = torch.randn(BATCH, NUM_DENSE), made_up_ids(pretrained)
    with torch.no_grad():
        scores = model(dense, kjt)

    program = export_scorer(model, (dense, kjt), quantize="int8")
    compile_scorer(program, folder / "scorer.pt2")
    libraries = json.dumps([str(library) for library in serving_libraries()])
    (folder / "libraries.json").write_text(libraries, encoding="utf-8")

    batch = {"dense": dense, "values": kjt.values(), "lengths": kjt.lengths().view(-1, BATCH)}
    save_file(batch, folder / "batch.safetensors")
    server = Path(__file__).with_name("score_package.py")
    subprocess.run([sys.executable, "-I", server, folder], check=True)
    served = load_file(folder / "scores.safetensors")["scores"]
    exported = program.module()(*batch.values())
    print(f"package against program: at most {(served - exported).abs().max():.1e} apart")
    print(f"int8 against float: at most {(served - scores).abs().max():.1e} apart")


def ranker(pretrained: Pretrained) -> nn.Module:
    """A DLRM over the candidate's features that reads the artefact's module as well."""
    tables = [
        EmbeddingBagConfig(
            name=f"ctr_{key}", embedding_dim=DIM, num_embeddings=rows, feature_names=[key]
        )
        for key, rows in num_rows(pretrained, candidate_keys(pretrained).values()).items()
    ]
    model = attach_pretrained(
        DLRM(EmbeddingBagCollection(tables=tables), NUM_DENSE, [32, DIM], [64, 1]),
        pretrained,
        features={feature.name: feature.name for feature in pretrained.schema.of("history")},
        candidate=candidate_keys(pretrained),
    )
    for name, parameter in model.named_parameters():
        if "widening" in name:  # zeros, until the ranker is trained
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def candidate_keys(pretrained: Pretrained) -> dict[str, str]:
    """By history feature, the key with the candidate's own value."""
    schema = pretrained.schema
    shared = {f.name: schema.candidate_of(f.name) for f in schema.of("history")}
    return {history: own.name for history, own in shared.items() if own is not None}


def num_rows(pretrained: Pretrained, keys: Iterable[str]) -> dict[str, int]:
    """Of the table that each key reads."""
    return {key: pretrained.tables[pretrained.schema.feature(key).table].num_rows for key in keys}


def made_up_ids(pretrained: Pretrained) -> KeyedJaggedTensor:
    """Users with up to 20 events, each with one candidate."""
    own = num_rows(pretrained, candidate_keys(pretrained).values())
    past = num_rows(pretrained, (f.name for f in pretrained.schema.of("history")))
    num_events = torch.randint(21, (BATCH,))
    lengths = [torch.ones_like(num_events)] * len(own) + [num_events] * len(past)
    sizes = [int(of_key.sum()) for of_key in lengths]
    rows = [*own.values(), *past.values()]
    return KeyedJaggedTensor(
        keys=[*own, *past],
        values=torch.cat([torch.randint(n, (size,)) for n, size in zip(rows, sizes, strict=True)]),
        lengths=torch.cat(lengths),
    )


if __name__ == "__main__":
    main()
