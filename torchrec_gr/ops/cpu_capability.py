"""Which instructions the CPU kernels use."""

from __future__ import annotations

import torch


def cpu_capability() -> str:
    """The instructions that the CPU kernels use: the best that this machine has.

    The environment variable TORCHREC_GR_CPU_CAPABILITY, read when it is first needed, names lesser
    ones to use.

    Returns:
        "default", "avx2", "avx512", "avx512_bf16" or "amx".

    Raises:
        ValueError: TORCHREC_GR_CPU_CAPABILITY names none of these, or one that the machine lacks.
    """
    return torch.ops.torchrec_gr.cpu_capability()
