"""The shell of every stage: logging, one line for an expected error with the way back, and the seconds it took."""

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil
from loguru import logger

from ssdh.core.errors import ParameterError, SSDHError
from ssdh.core.params import read_params
from ssdh.core.records import record_seconds

RESTORE = "git checkout HEAD -- params.yaml dvc.lock metrics && dvc checkout --force --allow-missing"
LOOK_SECONDS = 0.5  # between two looks at the process that started this one
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "cmd.exe"}
LAUNCH_ID = "ssdh-"  # begins the run id of ranks that a stage started itself: that stage notes the seconds


def configure_logging(level: str = "INFO") -> None:
    """Log to stderr, short lines, without locals or tracebacks of expected errors."""
    logger.remove()
    logger.add(sys.stderr, level=level, format="{time:HH:mm:ss} {level: <7} {message}", diagnose=False)


def stage(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Decorate a stage's `main`: logging, one line for an expected error (exit code 1), and the seconds it took."""

    def decorate(main: Callable[[], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def run() -> None:
            first = os.environ.get("RANK", "0") == "0"  # of several processes, one speaks
            configure_logging(_log_level() if first else "WARNING")
            if "DVC_STAGE" in os.environ:  # set by DVC, inherited by ranks
                end_with(_starter())
            started = time.perf_counter()
            try:
                main()
            except SSDHError as error:
                for line in str(error).splitlines():
                    print(f"{name}: {line}", file=sys.stderr)
                print(f"{name}: {_way_back(name)}", file=sys.stderr)
                raise SystemExit(1) from None
            if first and not os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(LAUNCH_ID):
                record_seconds(name, time.perf_counter() - started)

        return run

    return decorate


def end_with(process: psutil.Process) -> None:
    """End this process within a second of the end of `process`, so that a killed dvc leaves no stage at work."""

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end_with", daemon=True).start()


def _starter() -> psutil.Process:
    """The process that started this one; a shell between them, through which DVC runs commands, is passed over."""
    parents = psutil.Process().parents()
    return next((parent for parent in parents if parent.name() not in SHELLS), parents[0])


def _way_back(name: str) -> str:
    """What to say of earlier results after a mistake: `check` runs before DVC removes anything."""
    if name == "check":
        return "earlier results are as they were: correct it and run again"
    with suppress(OSError):
        os.utime("params.yaml")  # DVC may rewrite it within git's clock, and `git checkout` would take it for unchanged
    return f"correct it and run again; earlier results, without what was not committed: {RESTORE}"


def _log_level() -> str:
    """The level of `runtime.log_level` where it can be read; the stage itself reports what is wrong with it."""
    try:
        level = read_params().get("runtime", {}).get("log_level", "INFO")
    except (ParameterError, AttributeError):
        return "INFO"
    return level if level in ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR") else "INFO"
