"""What a function takes at its peak, measured in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import re
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def in_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function of a module gives in a process that did nothing before.

    Under `torchrun` too that process is alone: it is no part of the others' group.
    """
    processes = ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), _start, (torch.get_num_threads(),)
    )
    with processes:
        return processes.submit(function, *args, **kwargs).result()


def peak_bytes(run: Callable[[], object]) -> int:
    """What a call takes at its peak beyond what this process held before (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free already must not hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def _start(num_threads: int) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(num_threads)


def _status(name: str) -> int:
    """Bytes that this process takes ("VmRSS"), or took at most ("VmHWM")."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
