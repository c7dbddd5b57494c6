"""The most memory that a process has had, and measuring it as on a machine of two cores."""

import os
import resource
from pathlib import Path


def peak() -> int:
    """The most bytes that this process has had in memory, of itself: getrusage counts the one that started it too."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def on_two_cores() -> None:
    """Let this process see two cores at most: work that is shared out needs buffers for each that there are."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
