"""Declares the package torchrec_gr, and builds its compiled ops, torchrec_gr._C, from csrc/.

Into an environment of your own that has torch (the README has the commands):
    CUDA: TORCHREC_GR_CUDA=1 pip install --no-build-isolation ".[cuda]"
    CPU:  pip install --no-build-isolation ".[cpu]", then pip install --no-deps torchrec==1.8.0

TORCHREC_GR_CUDA decides whether the CUDA kernels are built, never the machine that builds: 0, the
default, or 1, which needs nvcc and a CUDA build of torch.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
except ImportError as error:
    raise SystemExit(
        "setup.py: building torchrec_gr needs torch in the same environment. Install it first "
        "(pip install torch==2.13.0), then pip install --no-build-isolation ..."
    ) from error

ROOT = Path(__file__).parent

# The versions that are tested together: torchrec_gr/doctor.py checks an environment against them.
TORCH = "torch==2.13.0"
FBGEMM = "1.8.0"
TORCHREC = "torchrec==1.8.0"
TORCHMETRICS = "torchmetrics==1.0.3"  # 1.9 breaks TorchRec's RecMetricModule
NVCC_ARCHITECTURES = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=[sm_90,compute_90]",
]


def version() -> str:
    """The `__version__` of torchrec_gr, read without importing it."""
    source = (ROOT / "torchrec_gr" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    if found is None:
        raise ValueError('torchrec_gr/__init__.py: expected a line like __version__ = "1.2.3"')
    return found[1]


def compiled_ops() -> Extension:
    """The extension torchrec_gr._C. One build serves every CPU: kernels choose when they run."""
    cpp_flags = ["-std=c++20", "-O3", "-g0", "-fopenmp", "-Wall"]
    cpp_flags.append("-fno-math-errno")  # so that loops with roots are vectorised
    cpp_flags.append("-Wno-maybe-uninitialized")  # gcc 12 finds it in its own AVX-512 header
    sources = [*ROOT.glob("csrc/*.cpp"), *ROOT.glob("csrc/cpu/**/*.cpp")]
    choice = os.environ.get("TORCHREC_GR_CUDA", "0")
    if choice not in ("0", "1"):
        raise ValueError(f"TORCHREC_GR_CUDA: expected 0 or 1, got {choice!r}")
    make, flags = CppExtension, {"cxx": cpp_flags}
    if choice == "1":
        sources += [*ROOT.glob("csrc/cuda/*.cu"), *ROOT.glob("csrc/cuda/*.cpp")]
        make = CUDAExtension
        flags["nvcc"] = ["-std=c++20", "-O3", *NVCC_ARCHITECTURES]
    return make(
        "torchrec_gr._C",
        sorted(str(source.relative_to(ROOT)) for source in sources),
        depends=[str(header.relative_to(ROOT)) for header in ROOT.glob("csrc/**/*.*h")],
        extra_compile_args=flags,
        extra_link_args=["-fopenmp"],
    )


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
    ext_modules=[compiled_ops()],
    cmdclass={"build_ext": BuildExtension},
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
        "safetensors",
        "tensorboard",
        "tensordict",
        "tqdm",
    ],
    extras_require={
        # Without torchrec: its metadata asks for fbgemm-gpu, which a CPU build of torch can't load.
        "cpu": [f"fbgemm-gpu-cpu=={FBGEMM}"],
        "cuda": [f"fbgemm-gpu=={FBGEMM}", TORCHREC],
        "faiss": ["faiss-cpu"],  # retrieval.FaissCatalogue
        "trees": ["lightgbm"],  # pipelines.baselines.boosted_trees
    },
)
