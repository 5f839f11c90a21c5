"""Starts the process group that every run trains in, of one process or of torchrun's many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


@contextmanager
def process_group(device: str | None = None) -> Iterator[torch.device]:
    """Runs its body inside a process group and gives the device to train on.

    Under `torchrun` the group spans all its processes; otherwise it is this process alone, which
    needs no port, file or environment variable. A group that runs already is used and left running.

    Args:
        device: "cpu" (gloo) or "cuda" (nccl, the GPU of this process's LOCAL_RANK); default: CUDA
            where there is a GPU.

    Raises:
        ValueError: CUDA was asked for and torch sees no GPU, or an unknown device.
    """
    chosen = _device(device)
    if dist.is_initialized():
        yield chosen
        return
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def _device(name: str | None) -> torch.device:
    available = torch.cuda.is_available()
    name = name or ("cuda" if available else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise ValueError(f"unknown device {name!r}: expected 'cpu' or 'cuda'")
    if not available:
        raise ValueError(
            "device 'cuda' was asked for, but torch sees no GPU: use 'cpu', or install the CUDA "
            "builds of torch and fbgemm-gpu"
        )
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def local_world_size() -> int:
    """How many of the group's processes run on this machine, as torchrun says it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", dist.get_world_size()))


def all_reduce_sum(*values: torch.Tensor) -> torch.Tensor:
    """[n] float64: each 0-dim value summed over all processes."""
    total = torch.stack([value.detach().double() for value in values])
    dist.all_reduce(total)
    return total


def all_gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows of all processes, one process after the other.

    Args:
        rows: [N, ...], of any N on each process; the same dtype and trailing shape on all.
    Returns:
        [sum of N, ...] on the device of `rows`.
    """
    counts = [
        torch.zeros((), dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())
    ]
    dist.all_gather(counts, torch.tensor(len(rows), device=rows.device))
    longest = int(max(int(count) for count in counts))
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])
