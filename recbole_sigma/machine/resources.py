"""What a run costs and where it ran: machine, threads, peak memory."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from recbole_sigma.machine import processes


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the seconds depend on.

    Args:
        device: where the model lies; the GPU is named when it is used, not when it is there.
    """
    size = processes.current().size
    return {
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        **({"processes": size} if size > 1 else {}),
    }


def restart_peak_memory() -> None:
    """Let the peaks start anew, where the system can: Linux resets VmHWM on writing 5 to clear_refs.

    What earlier work of this process left behind is handed back first: models and data that hang in circles,
    and pages that the C library keeps for later.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc's
        trim(0)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory() -> dict[str, Any]:
    """Greatest resident memory of this process in MB, and what it was measured over."""
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else None
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return {"resident_mb": round(kib / 1024), "gpu_mb": gpu, "over": "this training"}
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"resident_mb": round(most / 2**20), "gpu_mb": gpu, "over": "the whole process so far"}
