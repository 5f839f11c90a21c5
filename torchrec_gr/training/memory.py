"""How much memory a process may still take."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
import torch.distributed as dist

from torchrec_gr.training.process_group import local_world_size

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
_LIMITS = (  # limit, usage, files among it that the system drops when it must: versions 2 and 1
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_inactive_file",
    ),
)


def free_memory(device: torch.device) -> int:
    """Bytes that each process may still take on its device: the least of any, alike on all.

    On a GPU what is free there. On a CPU what is free on the machine, or left of its container's
    limit, shared equally by the processes there. Every process must call it.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = min(_free_on_machine(), _free_in_container()) // local_world_size()
    least = torch.tensor(free, device=device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def _free_on_machine() -> int:
    if _MEMINFO.exists():
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text(), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_in_container() -> int:
    """What a control group's limit leaves; without one, more than any machine has."""
    free = 2**62
    for limit, usage, statistics, droppable in _LIMITS:
        paths = [_CGROUPS / limit, _CGROUPS / usage, _CGROUPS / statistics]
        if not all(path.exists() for path in paths):
            continue
        most, used, dropped = (path.read_text().strip() for path in paths)
        if most != "max":
            found = re.search(rf"^{droppable} (\d+)$", dropped, re.MULTILINE)
            free = min(free, int(most) - int(used) + (int(found[1]) if found else 0))
    return max(0, free)
