"""Programs that run in the foreground and end with this one: Ctrl-C stops them and all that they started, quietly."""

import contextlib
import signal
import subprocess
from collections.abc import Mapping, Sequence

import psutil

INTERRUPTED = "interrupted: the next run goes on from here"
PATIENCE = 10  # seconds that a process has to end by itself


def run_child(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program that writes to this terminal; returns its exit code.

    A terminal sends Ctrl-C to every process of a job, and each would print its own traceback: the program and what it
    starts do not hear it, and are ended from here. Raises KeyboardInterrupt with the line to say then.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit it
    try:
        process = subprocess.Popen(words, env=dict(environment))
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        return process.wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C leaves nothing half ended
        try:
            _end(process.pid)
            process.wait()
        finally:
            signal.signal(signal.SIGINT, before)
        raise KeyboardInterrupt(INTERRUPTED) from None


def _end(process: int) -> None:
    """End a process and all that it started, those above first, so that none starts another or reports the end."""
    try:
        top = psutil.Process(process)
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.terminate()
    _, left = psutil.wait_procs(family, timeout=PATIENCE)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
