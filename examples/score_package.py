"""Scores a batch by a package that `serve.py` wrote: no torchrec_gr, no TorchRec, no model code.

    python examples/score_package.py FOLDER

FOLDER holds scorer.pt2, libraries.json and batch.safetensors; scores.safetensors comes to it. A
server in C++ does the same: dlopen, AOTIModelPackageLoader, run.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch._inductor
from safetensors.torch import load_file, save_file


def main(folder: Path) -> None:
    """Reads, scores, writes."""
    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"  # a malformed batch is an error, no crash
    for library in json.loads((folder / "libraries.json").read_text(encoding="utf-8")):
        torch.ops.load_library(library)
    scorer = torch._inductor.aoti_load_package(folder / "scorer.pt2")
    batch = load_file(folder / "batch.safetensors")
    scores = scorer(batch["dense"], batch["values"], batch["lengths"])
    save_file({"scores": scores}, folder / "scores.safetensors")
    packages = {name.split(".")[0] for name in sys.modules}
    print("loaded beside torch:", sorted(packages & {"fbgemm_gpu", "torchrec", "torchrec_gr"}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
