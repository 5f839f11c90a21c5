"""Declares the package torchrec_gr, and builds its compiled ops where csrc/ holds any.

Into an environment of your own (the README has the commands):
    CUDA: pip install ".[cuda]"
    CPU:  pip install ".[cpu]", then pip install --no-deps torchrec==1.8.0
"""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# The versions that are tested together: torchrec_gr/doctor.py checks an environment against them.
TORCH = "torch==2.13.0"
FBGEMM = "1.8.0"
TORCHREC = "torchrec==1.8.0"
TORCHMETRICS = "torchmetrics==1.0.3"  # 1.9 breaks TorchRec's RecMetricModule


def version() -> str:
    """The `__version__` of torchrec_gr, read without importing it."""
    source = (ROOT / "torchrec_gr" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if found is None:
        raise ValueError('torchrec_gr/__init__.py: expected a line like __version__ = "1.2.3"')
    return found[1]


setup(
    name="torchrec_gr",
    version=version(),
    description="Generative user-sequence models for click-through-rate ranking, on TorchRec",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["torchrec_gr", "torchrec_gr.*"]),
    package_data={"torchrec_gr": ["py.typed"]},
    install_requires=[
        TORCH,
        TORCHMETRICS,
        "iopath",
        "matplotlib",
        "numpy",
        "pandas",
        "pyarrow",
        "pyre-extensions",
        "pyyaml",
        "tensorboard",
        "tensordict",
        "tqdm",
    ],
    extras_require={
        # Without torchrec: its metadata asks for fbgemm-gpu, which a CPU build of torch can't load.
        "cpu": [f"fbgemm-gpu-cpu=={FBGEMM}"],
        "cuda": [f"fbgemm-gpu=={FBGEMM}", TORCHREC],
    },
)
